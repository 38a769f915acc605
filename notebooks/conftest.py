"""Mark the notebooks, so that only `pytest --nbmake notebooks -m notebooks` executes them."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what nbmake collected."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("notebooks")
