"""The solver file for benchopt, with a stand-in for benchopt's base class."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

FILE = Path(__file__).parents[3] / "benchmarks" / "benchopt_solver.py"


@pytest.fixture
def solver(monkeypatch: pytest.MonkeyPatch) -> Any:
    benchopt = ModuleType("benchopt")
    benchopt.BaseSolver = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "benchopt", benchopt)
    spec = importlib.util.spec_from_file_location("benchopt_solver", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Solver()


@pytest.mark.parametrize("positive", [False, True])
def test_both_solvers_reach_one_optimum_of_the_benchmarks_problem(
    solver: Any, positive: bool
) -> None:
    random = np.random.default_rng(0)
    y, D, lam = random.standard_normal((90, 3)), random.standard_normal((4, 8)), 5.0
    values = []
    for name in solver.parameters["solver"]:
        solver.solver = name
        solver.set_objective(D=D, y=y, lmbd=lam, positive=positive)
        solver.run(1e-9)
        theta = solver.get_result()["theta"]
        assert theta.shape == (4, 83, 3)
        assert not positive or theta.min() >= 0
        built = [sum(np.convolve(theta[m, :, i], D[m]) for m in range(4)) for i in range(3)]
        error = y - np.stack(built, 1)
        values.append(0.5 * (error**2).sum() + lam * np.abs(theta).sum())
    assert values[0] == pytest.approx(values[1], rel=1e-7)
    assert values[0] < 0.5 * (y**2).sum()
