"""Many small lasso problems with one dictionary, solved together.

For every row y of a batch,

    min_z ½‖y − D z‖² + λ‖z‖₁ = min_z ½ zᵀG z − bᵀz + λ‖z‖₁ + const,    G = DᵀD, b = Dᵀy,

by greedy coordinate descent.  In every problem, a step moves the code that would move furthest.
With unit atoms, the best value of z_j for fixed other codes is h_λ(a_j) with a = b − (G − I) z.  A
move of z_j changes a by a row of G − I.  Solved problems leave the batch, so the last steps only
work on the hard problems.

References
----------
Li, Osher, "Coordinate descent optimization for ℓ1 minimization with application to compressed
sensing; a greedy algorithm", Inverse Problems and Imaging 3(3), 2009.
"""

import itertools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import check_finite, check_integer, check_number
from csc.compiled.records import Span
from csc.compiled.threads import one_torch_thread, together

LEAVE_EVERY = 8  # steps between searches for solved problems; removing them costs about a step
LANES = 32  # of the search for the largest move: a few vector registers


@torch.no_grad()
def lasso(b: Tensor, G: Tensor, lam: float, *, tol: float = 1e-4, max_iter: int = 2000) -> Tensor:
    """Minimise ½ zᵀG z − bᵀz + λ‖z‖₁ for every row b of a batch.

    Parameters
    ----------
    b : Tensor, shape (N, M)
        Correlations Dᵀy of the atoms with each signal.
    G : Tensor, shape (M, M)
        Gram matrix DᵀD of unit atoms: ones on its diagonal.
    lam : float
        Weight λ > 0.
    tol : float
        A problem is solved when every code would move by at most this.
    max_iter : int
        Largest number of steps.

    Returns
    -------
    Tensor, shape (N, M)
        The codes, in the dtype and on the device of `b`.

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or devices differ, b or G holds NaN, the diagonal of G is not one, or a
        number is out of its range.

    Examples
    --------
    >>> lasso(torch.tensor([[1.0, -0.3], [0.5, 2.0]]), torch.eye(2), 0.4)  # orthonormal: h_λ(b)
    tensor([[0.6000, 0.0000],
            [0.1000, 1.6000]])
    """
    _check(b, G, lam, tol, max_iter)
    M = len(G)
    R = G - torch.eye(M, dtype=G.dtype, device=G.device)
    padding = -M % LANES  # atoms of zeros, whose codes stay zero
    R, a = F.pad(R, (0, padding)), F.pad(b, (0, padding))
    if b.device.type == "cpu" and b.dtype in (torch.float32, torch.float64):
        codes = _compiled(a, R, lam, tol, max_iter)
    else:
        codes = _batched(a, R, lam, tol, max_iter)
    return codes[:, :M]


def _compiled(a: Tensor, R: Tensor, lam: float, tol: float, max_iter: int) -> Tensor:
    """Solve row by row, with the steps of `_batched` in a third of its time."""
    from csc.compiled.lasso import largest_first

    number = a.numpy().dtype.type
    codes = torch.zeros_like(a)
    arrays = (a.clone().numpy(), R.numpy(), number(lam), number(tol))
    with one_torch_thread() as threads:
        ends = [len(a) * t // threads for t in range(threads + 1)]

        def run(span: Span) -> None:
            lanes = np.empty(LANES, a.numpy().dtype)
            largest_first(*arrays, max_iter, LEAVE_EVERY, lanes, codes.numpy(), span)

        together(run, list(itertools.pairwise(ends)))
    return codes


def _batched(a: Tensor, R: Tensor, lam: float, tol: float, max_iter: int) -> Tensor:
    """Solve all rows together, with the operations of PyTorch."""
    z, codes = torch.zeros_like(a), torch.zeros_like(a)
    left = torch.arange(len(a), device=a.device)
    for step in range(max_iter if len(a) else 0):
        move = F.softshrink(a, lam).sub_(z)
        size, j = _largest(move.abs())
        if step % LEAVE_EVERY == 0:
            unsolved = size[:, 0] > tol
            if not bool(unsolved.all()):
                codes[left[~unsolved]] = z[~unsolved]
                left, a, z, move, j = (t[unsolved] for t in (left, a, z, move, j))
                if not len(left):
                    break
        move = move.gather(1, j)
        z.scatter_add_(1, j, move)
        a.addcmul_(R.index_select(0, j[:, 0]), move, value=-1)
    codes[left] = z
    return codes


def _largest(size: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest entry of every row of (N, M) and its index, each (N, 1).

    Equals ``size.max(1, keepdim=True)``, which takes twice as long on a CPU: torch finds the index
    without vector instructions.  We find the lane first, then the place in the lane.
    """
    size = size.view(len(size), size.shape[1] // LANES, LANES)
    lane = size.amax(1).argmax(1, keepdim=True)
    inside = size.gather(2, lane[:, None].expand(-1, size.shape[1], 1))[:, :, 0]
    value, place = inside.max(1, keepdim=True)
    return value, place * LANES + lane


def _check(b: Tensor, G: Tensor, lam: float, tol: float, max_iter: int) -> None:
    for name, x in (("b", b), ("G", G)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {x.dtype}")
        check_finite(x, name)
    if G.dtype != b.dtype or G.device != b.device:
        raise TypeError(f"b is {b.dtype} on {b.device} but G is {G.dtype} on {G.device}")
    if G.ndim != 2 or G.shape[0] != G.shape[1] or G.numel() == 0:
        raise ValueError(f"G must be a Gram matrix (M, M), got shape {tuple(G.shape)}")
    if b.ndim != 2 or b.shape[1] != len(G):
        raise ValueError(f"b must have shape (N, {len(G)}), a row per signal; got {tuple(b.shape)}")
    if not bool(((G.diagonal() - 1).abs() < 1e-3).all()):
        raise ValueError("the atoms must have unit norm: ones on the diagonal of G")
    if not 0 < lam < math.inf:
        raise ValueError(f"lam must be finite and > 0, got {lam}")
    check_number(tol, "tol", "; 0 runs to max_iter")
    check_integer(max_iter, "max_iter")
