"""Sphinx configuration: `make docs` builds the site into build/docs, and warnings are errors."""

import contextlib
import io
import os
import re
from importlib import metadata
from types import ModuleType

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.util.docutils import SphinxDirective

import crnet
import csc
from crnet.cli.parser import CHECKS, COMMANDS, main

os.environ["COLUMNS"] = "88"  # the width of help texts

# Modules that a floor exports under a shorter name than that of the place where they live.
MODULES = {
    f"{floor.__name__}.{name}": value.__name__
    for floor in (csc, crnet)
    for name in floor.__all__
    if isinstance(value := getattr(floor, name), ModuleType)
}

project = "csc-crnet"
project_copyright = "the csc-crnet authors, BSD 3-Clause"
release = metadata.version("csc-crnet")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc", "myst_nb"]
exclude_patterns = ["**.ipynb_checkpoints"]
default_role = "code"
smartquotes = False  # primes and options are not quotation

html_theme = "furo"
html_title = "csc-crnet"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#56B4E9"},
}

# Notebooks are committed executed, and shown as they are.
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # tables
myst_heading_anchors = 2

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
numpydoc_show_class_members = False
toc_object_entries_show_parents = "hide"


def formulas(app, what, name, obj, options, lines):
    """Show the indented formulas of a docstring as they are, and bars and stars as themselves.

    Docstrings are read in an editor first, so they write `½‖x − D z‖² + Σ λ|z|` and indent
    formulas by four; reStructuredText would take them for quotations and |z| for a substitution.
    """
    out, before, section, literal = [], "", "", False
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch(r"-{3,}", after) and line.strip():
            section = line
        indented = line.startswith("    ")
        prose = section in ("", "Notes", "Examples")
        if indented and not before.strip() and prose and not literal:
            literal = True
            out += [".. code-block:: text", ""]
        if line.strip() and not indented:
            literal = False
        doctest = line.lstrip().startswith((">>>", "..."))
        out.append(line if literal or doctest else _escaped(line))
        before = line
    if what == "module":  # numpydoc takes only the others' sections apart
        text = "\n".join(out)
        out = re.sub(r"(?m)^(\w+)\n-{3,}$", r".. rubric:: \1\n", text).split("\n")
    lines[:] = out


def _escaped(line):
    kept = r"(``.*?``|:\w+:`.*?`|`.*?`|(?<!\w)\*\w[^*]*\w\*(?!\w))"  # code, roles, emphasis
    parts = re.split(kept, line)
    bars = re.compile(r"(?<!\\)(?!^\* )([|*])")  # not the star of a list
    return "".join(p if n % 2 else bars.sub(r"\\\1", p) for n, p in enumerate(parts))


def link_names(app, doctree):
    """Make `csc.ista` and its like, and notebooks, in code spans links to their entries."""
    for span in list(doctree.findall(nodes.literal)):
        name = span.astext()
        if isinstance(span.parent, (pending_xref, nodes.reference)):
            continue
        if re.fullmatch(r"(csc|baselines|crnet)(\.\w+)+", name):
            for short, module in MODULES.items():
                name = re.sub(rf"^{short}\b", module, name)
            target = {"refdomain": "py", "reftype": "obj", "reftarget": name}
        elif found := re.fullmatch(r"notebooks/(\w+)\.ipynb", name):
            target = {"refdomain": "std", "reftype": "doc", "reftarget": f"/notebooks/{found[1]}"}
        else:
            continue
        xref = pending_xref("", span.deepcopy(), refdoc=app.env.docname, refexplicit=True, **target)
        span.replace_self(xref)


def help_texts():
    """Return what `crnet COMMAND --help` prints, by command."""
    names = [name for name, _, module in COMMANDS if module]
    names += [f"data {name}" for name, _, _ in CHECKS]
    found = {}
    for name in names:
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([*name.split(), "--help"])
        found[name] = text.getvalue()
    return found


class Commands(SphinxDirective):
    """A section for each command of `crnet`, with its help text."""

    def run(self):
        """Ask the parser of the command line."""
        sections = []
        for command, text in help_texts().items():
            section = nodes.section(ids=[nodes.make_id(f"crnet-{command}")])
            section += nodes.title("", f"crnet {command}")
            section += nodes.literal_block(text, text, language="text")
            sections.append(section)
        return sections


def setup(app):
    """Register both; the formulas are put in order before numpydoc takes the sections apart."""
    app.connect("autodoc-process-docstring", formulas, priority=400)
    app.connect("doctree-read", link_names)
    app.add_directive("commands", Commands)
