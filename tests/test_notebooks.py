"""The notebooks as they are committed: executed, readable, and nothing of one machine in them.

`pytest --nbmake notebooks -m notebooks` executes them.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"


@pytest.fixture(params=sorted(path.name for path in FOLDER.glob("*.ipynb")))
def notebook(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads((FOLDER / request.param).read_text("utf-8"))


def sources(notebook: dict[str, Any], kind: str) -> list[str]:
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind]


def test_it_is_executed_from_top_to_bottom(notebook: dict[str, Any]) -> None:
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    outputs = [o for c in cells for o in c["outputs"]]
    assert [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"] == []
    assert any("image/png" in o.get("data", {}) for o in outputs)


def test_nothing_of_one_machine_is_in_it(notebook: dict[str, Any]) -> None:
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert [c["metadata"] for c in notebook["cells"] if c["metadata"]] == []
    assert re.findall(r"[\s'\"(](/home|/root|/work|/tmp|/Users)\b", json.dumps(notebook)) == []


def test_it_asks_a_question_and_answers_it(notebook: dict[str, Any]) -> None:
    texts = sources(notebook, "markdown")
    assert texts[0].startswith("# ")
    assert "**Question.**" in texts[0]
    assert "**Answer.**" in texts[-1]


def test_it_argues_and_does_not_program(notebook: dict[str, Any]) -> None:
    """No definition longer than ten lines: what is longer belongs in the library."""
    for source in sources(notebook, "code"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
                assert node.end_lineno - node.lineno < 10, ast.get_source_segment(source, node)
