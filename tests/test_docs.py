"""The documentation: what its pages name exists, and every public name has an entry."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
from functools import reduce
from pathlib import Path
from types import ModuleType

import pytest
from scipy.io import savemat

from crnet.cli.parser import command_line
from crnet.measuring.published import cells
from tests.baselines.test_matlab import vdsr
from tests.crnet.pictures import photo, save

ROOT = Path(__file__).parents[1]
PACKAGES = ("csc", "baselines", "crnet")
PAGES = tuple(sorted(path.name for path in (ROOT / "docs").glob("*.md")))


def spans(page: str) -> list[str]:
    """The code spans of a page, without those of its code blocks."""
    text = re.sub(r"(?ms)^```.*?^```$", "", (ROOT / "docs" / page).read_text("utf-8"))
    return re.findall(r"`([^`\n]+)`", text)


def resolves(name: str) -> bool:
    """Tell whether a dotted name is a module or an attribute of one."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ImportError:
            continue
        try:
            reduce(getattr, parts[n:], found)
        except AttributeError:
            continue
        return True
    return False


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("photo.png"), photo(40, 48))
    savemat("VDSR.mat", vdsr(4, 6))
    names: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), names)  # noqa: S102


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_are_understood(page: str) -> None:
    """Each line that calls crnet has options that exist."""
    for line in "".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["crnet"] and "--help" not in words and len(words) > 1:
            _, unknown = command_line().parse_known_args(words[1:])
            assert unknown == [], line


def named_tests(path: Path) -> set[str]:
    """The names of a file's test functions."""
    body = ast.parse(path.read_text("utf-8")).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_what_the_paper_page_names_exists(page: str) -> None:
    named = [s for s in spans(page) if re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", s)]
    assert [name for name in named if not resolves(name)] == []
    folders = "|".join((*PACKAGES, "tests", "notebooks", "benchmarks"))
    referred = [s for s in spans(page) if re.fullmatch(rf"({folders})/[\w./]*(::\w+)?", s)]
    referred = [s for s in referred if "NAME" not in s]  # which stands for any
    for reference in referred:
        path, _, test = reference.partition("::")
        assert (ROOT / path).exists(), reference
        assert not test or test in named_tests(ROOT / path), reference
    assert page != "paper.md" or (len(named) > 30 and len(referred) > 30)


def test_what_does_not_exist_is_found() -> None:
    assert resolves("csc.ista")
    assert resolves("crnet.CRNetA.features")
    assert not resolves("csc.lista")
    assert not resolves("crnet.CRNetA.feature")
    assert "test_what_does_not_exist_is_found" in named_tests(Path(__file__))


def test_the_paper_page_has_every_equation_figure_and_table() -> None:
    text = (ROOT / "docs" / "paper.md").read_text("utf-8")
    rows = {"Equations": 15, "Figures": 12, "Tables": 3}
    for section, last in rows.items():
        table = text.split(f"## {section}\n")[1].split("\n## ")[0]
        heads = re.findall(r"(?m)^\| (\d[\d, ab]*) \|", table)
        numbers = {int(n) for head in heads for n in re.findall(r"\d+", head)}
        assert numbers == set(range(1, last + 1)), section


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_an_entry(package: str) -> None:
    text = (ROOT / "docs" / f"{package}.md").read_text("utf-8")
    entries = set(re.findall(r":: ([\w.]+)$", text, re.MULTILINE))
    floor = importlib.import_module(package)
    public = {name: getattr(floor, name) for name in floor.__all__}
    # A module that a floor exports has the entry of the place where it lives.
    wanted = {
        value.__name__ if isinstance(value, ModuleType) else f"{package}.{name}"
        for name, value in public.items()
    }
    assert wanted <= entries


def test_where_the_published_networks_are_not_the_best() -> None:
    """What docs/paper.md says of "superior performance"."""

    def against(network: str, table: int) -> dict[tuple[str, int], float]:
        psnr = {(c.method, c.set, c.scale): c.psnr for c in cells() if c.table == table}
        ours = {(s, x): v for (m, s, x), v in psnr.items() if m == network}
        theirs = [(m, s, x) for m, s, x in psnr if not m.startswith("CRNet")]
        best = {key: max(psnr[t] for t in theirs if t[1:] == key) for key in ours}
        return {key: round(ours[key] - best[key], 2) for key in ours}

    assert [key for key, ahead in against("CRNet-A", 2).items() if ahead < 0] == [("Set14", 3)]
    b = against("CRNet-B", 3)
    assert {key for key, ahead in b.items() if ahead < 0} == {
        ("Set5", 2), ("B100", 2), ("Manga109", 2), ("Set14", 4)
    }  # fmt: skip
    assert {key for key, ahead in b.items() if ahead == 0} == {
        ("B100", 3), ("Manga109", 3), ("Urban100", 2)
    }  # fmt: skip


def test_the_tables_of_the_sweeps_are_their_results() -> None:
    """Each table on the page is what benchmarks/sweep.py printed."""
    spec = importlib.util.spec_from_file_location("sweep", ROOT / "benchmarks" / "sweep.py")
    sweep = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sweep)
    page = (ROOT / "docs" / "sweeps.md").read_text("utf-8")
    kept = sorted((ROOT / "benchmarks" / "sweeps").glob("*.json"))
    assert {"residual", "width", "recursions", "systems"} <= {path.stem for path in kept}
    for path in kept:
        name, results = path.stem, json.loads(path.read_text("utf-8"))
        assert [r["variant"] for r in results] == list(sweep.VARIANTS[name])
        assert sweep.table(results, "Set5") in page, name
        assert f"sweep-{name}.png" in page
