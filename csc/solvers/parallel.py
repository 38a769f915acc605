"""A solver that gives each image of a batch to a worker of an executor."""

import functools
import warnings
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from csc.checks import Weight
from csc.problem import Problem, pose
from csc.solution import Solution, Status
from csc.solvers.protocol import OnStep, Solver
from csc.solvers.stopping import warn_of_zero_codes
from csc.workers import each


@dataclass(frozen=True)
class ParallelSolver:
    """Solve each image alone, in parallel: a :class:`csc.Solver` made from another one.

    The result is that of the solver on every image by itself, bit for bit, whatever the executor.
    An image whose worker is lost keeps its first codes, with their certificate and the status
    ``Status.LOST``, and a warning says so.  The workers compute on the CPU.

    Attributes
    ----------
    solver : Solver
        Such as :func:`csc.coordinate_descent`; it must be picklable.
    executor : concurrent.futures.Executor
        Such as :class:`csc.workers.Processes`.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from csc import coordinate_descent, random_dictionary
    >>> x, D = torch.rand(3, 1, 16, 16), random_dictionary(4, 1, 3)
    >>> with ThreadPoolExecutor(2) as pool:
    ...     solution = ParallelSolver(coordinate_descent, pool)(x, D, lam=0.1)
    >>> len(solution.codes), solution.converged
    (3, True)
    """

    solver: Solver
    executor: Executor

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        D: Tensor,
        lam: Weight,
        *,
        nonneg: bool = False,
        mask: Tensor | None = None,
        ridge: float = 0.0,
        groups: Tensor | None = None,
        start: Tensor | None = None,
        max_iter: int = 10_000,
        tol: float = 1e-4,
        on_step: OnStep | None = None,
    ) -> Solution:
        """Minimise P; parameters, result and errors are those of :func:`csc.ista`.

        Raises
        ------
        ValueError
            If `on_step` is given: steps are taken in other processes.
        """
        if on_step is not None:
            raise ValueError("on_step cannot follow steps in other processes; leave it out")
        p = pose(x, D, lam, nonneg=nonneg, mask=mask, ridge=ridge, groups=groups)
        p.check_run(start, max_iter, tol)
        images = [
            (_copy(p.of(b)), None if start is None else start[b : b + 1].detach().cpu().clone())
            for b in range(len(x))
        ]
        solve = functools.partial(_solve, solver=self.solver, max_iter=max_iter, tol=tol)
        lost: dict[int, str] = {}
        found = dict(each(solve, images, self.executor, on_lost=lost.__setitem__))
        for b, reason in lost.items():
            warnings.warn(f"the worker of image {b} was lost: {reason}", RuntimeWarning, 3)
            first = _solve(images[b], solver=self.solver, max_iter=0, tol=tol)
            found[b] = replace(first, status=(Status.LOST,))
        solution = Solution.of_parts([found[b] for b in range(len(x))], x.device)
        return warn_of_zero_codes(p, solution) if not lost else solution


def _copy(p: Problem) -> Problem:
    """Return the problem of an image without the rest of its batch, which a view would pickle."""
    mask = None if p.mask is None else p.mask.clone()
    penalty = p.penalty._replace(lam=p.lam.clone())
    return p._replace(x=p.x.clone(), penalty=penalty, mask=mask)


def _solve(
    image: tuple[Problem, Tensor | None], *, solver: Solver, max_iter: int, tol: float
) -> Solution:
    p, start = image
    groups = p.penalty.groups
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of zero codes, as in a flat image
        return solver(
            p.x,
            p.D,
            p.lam,
            nonneg=p.nonneg,
            mask=None if p.mask is None else p.mask.bool(),
            ridge=p.penalty.ridge,
            groups=None if groups is None else groups.number,
            start=start,
            max_iter=max_iter,
            tol=tol,
        )
