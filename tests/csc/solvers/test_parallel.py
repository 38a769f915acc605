"""A solver on workers is the solver on every image by itself."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from csc import ParallelSolver, Status, admm, coordinate_descent, fista, ista
from csc.solvers.protocol import Solver
from csc.workers import Processes
from tests.csc.learning.test_learn import planted, start
from tests.csc.on_workers import Loses


@pytest.mark.parametrize("solver", [ista, fista, coordinate_descent, admm])
def test_each_image_is_solved_as_if_alone(solver: Solver, pool: Processes) -> None:
    """Bit for bit, with λ, mask and start of each image."""
    x, _ = planted(images=3, side=12)
    g = torch.Generator().manual_seed(0)
    lam = 0.05 + torch.rand(3, 3, 1, 1, generator=g, dtype=torch.float64)
    mask = torch.rand(3, 1, 12, 12, generator=g) < 0.9
    first = torch.rand(3, 3, 10, 10, generator=g, dtype=torch.float64)
    D, options = start(), {"max_iter": 30, "tol": 1e-3, "nonneg": True}
    alone = [
        solver(x[b : b + 1], D, lam[b : b + 1], mask=mask[b : b + 1], start=first[b : b + 1],
               **options)
        for b in range(3)
    ]  # fmt: skip
    with ThreadPoolExecutor(2) as threads:
        for executor in (pool, threads):
            found = ParallelSolver(solver, executor)(x, D, lam, mask=mask, start=first, **options)
            assert torch.equal(found.codes, torch.cat([one.codes for one in alone]))
            assert torch.equal(found.objective, torch.cat([one.objective for one in alone]))
            assert torch.equal(found.gap, torch.cat([one.gap for one in alone]))
            assert found.status == tuple(one.status[0] for one in alone)
            assert found.iterations == max(one.iterations for one in alone)


def test_the_image_of_a_lost_worker_keeps_its_start_and_says_so() -> None:
    """Its certificate is that of zero codes; the other images are solved."""
    x, _ = planted(images=3, side=12)
    with pytest.warns(RuntimeWarning, match="the worker of image 1 was lost: gone"):
        found = ParallelSolver(coordinate_descent, Loses(1))(x, start(), 0.05)
    assert found.status == (Status.CONVERGED, Status.LOST, Status.CONVERGED)
    assert not found.converged
    assert not found.codes[1].any()
    assert found.objective[1] == pytest.approx(0.5 * float(x[1].square().sum()))
    assert 0 < found.gap[1] <= found.objective[1]
    assert torch.equal(found.codes[2], coordinate_descent(x[2:], start(), 0.05).codes[0])


def test_bad_input_is_refused_before_any_work() -> None:
    x, D = planted()[0], start()
    with ThreadPoolExecutor(1) as threads:
        solve = ParallelSolver(fista, threads)
        with pytest.raises(ValueError, match="on_step cannot follow steps in other processes"):
            solve(x, D, 0.05, on_step=lambda k, z: None)
        with pytest.raises(ValueError, match="start must have shape"):
            solve(x, D, 0.05, start=torch.zeros(1, 3, 2, 2, dtype=torch.float64))
        with pytest.raises(TypeError, match="x is torch.float32"):
            solve(x.float(), D, 0.05)
        with pytest.warns(UserWarning, match="all codes are zero"):
            solve(x, D, 1e3)
