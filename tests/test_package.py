"""The package: one version, and a wheel that holds all that the library reads."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import crnet
import csc

ROOT = Path(__file__).parents[1]


def test_there_is_one_version() -> None:
    assert crnet.__version__ == csc.__version__ == metadata.version("csc-crnet")
    cited = re.search(r"(?m)^version: (.+)$", (ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited is not None
    assert cited[1] == csc.__version__
    assert f"## {csc.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_every_room_is_a_package() -> None:
    """setup.cfg finds packages by their __init__.py; a folder of code without one would be lost."""
    for floor in ("csc", "baselines", "crnet"):
        for file in (ROOT / floor).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), file


@pytest.mark.parametrize("floor", ["csc", "baselines", "crnet"])
def test_no_module_has_the_name_of_a_public_function(floor: str) -> None:
    """``import csc.NAME`` must never give a function where a module stands."""
    public = set(__import__(floor).__all__)
    modules = {p.stem for p in (ROOT / floor).glob("*.py")} - {"__init__"}
    clashes = {name for name in public & modules if callable(getattr(__import__(floor), name))}
    assert clashes == set()


def test_the_project_file_holds_the_build_alone() -> None:
    """pytest, mypy and the metadata are set in setup.cfg; a second place would win silently."""
    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))) == {"build-system"}
