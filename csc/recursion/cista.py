"""CISTA: the unfolded ISTA as a trainable module."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csc.checks import check_dictionary, check_finite, check_images, check_integer, check_weight
from csc.recursion.kernel import check_kernel, check_not_identity
from csc.recursion.unfold import Kernels, iterates, last_iterate, recur_recomputed


class CISTA(nn.Module):
    """Map images to codes by a learned convolutional ISTA; all K recursions share (W, S, θ).

    z_0 = h(W ⊗ x) is ISTA's first step from zero.  A freshly built
    ``CISTA(unfold(D, lam, L), K)(x)`` therefore equals K + 1 steps of ISTA
    (``tests/csc/recursion/test_cista.py``).  Training makes them differ.

    No parameter depends on `recursions`: set it at any time.

    Parameters
    ----------
    kernels : Kernels
        Initial values, copied.  S of sides 2kh−1 and 2kw−1 is exact.  S of the atoms' sides is the
        paper's relaxation and equals no ISTA.  With theta None, h = ReLU with θ = 0, as in the
        paper.  Otherwise θ is learned, one per atom, and clamped to θ ≥ 0 where it is used.
    recursions : int
        K ≥ 0.
    nonneg : bool
        Non-negative codes.
    padding : int or (int, int)
        Zero padding of the image, or along each axis; half of the atom gives codes of the image's
        size.
    recompute : bool
        Save memory: recompute the codes in the backward pass instead of storing them.

    Raises
    ------
    ValueError, TypeError
        If the kernels do not fit together, or `padding` or `recursions` is negative.

    References
    ----------
    Zhang, Liu, Yu, "CRNet", arXiv 1908.01166, 2019, eq. 8 and 12.  Gregor, LeCun, "Learning fast
    approximations of sparse coding", ICML 2010, is its dense ancestor (LISTA).

    Examples
    --------
    >>> import torch
    >>> from csc import lipschitz, random_dictionary, unfold
    >>> D = random_dictionary(4, 1, 3, generator=torch.Generator().manual_seed(0))
    >>> net = CISTA(unfold(D, 0.1, lipschitz(D, (8, 8))), recursions=5)
    >>> net(torch.zeros(1, 1, 8, 8)).shape
    torch.Size([1, 4, 6, 6])
    """

    W: Tensor
    S: Tensor
    theta: Tensor | None

    def __init__(
        self,
        kernels: Kernels,
        recursions: int,
        *,
        nonneg: bool = False,
        padding: int | tuple[int, int] = 0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        W, S, theta = kernels
        _check_kernels(W, S, theta)
        check_not_identity(theta, nonneg)
        for side in _both(padding):
            check_integer(side, "padding")
        check_integer(recursions, "recursions")
        self.W = nn.Parameter(W.detach().clone())
        self.S = nn.Parameter(S.detach().clone())
        self.theta = None if theta is None else nn.Parameter(theta.detach().clone())
        self.recursions = recursions
        self.nonneg = nonneg
        self.padding = padding
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), padded, to codes z_K (B, M, H-kh+1, W-kw+1)."""
        u, theta = self.drive(x)
        theta = None if theta is None else theta[:, None, None]
        run = recur_recomputed if self.recompute and torch.is_grad_enabled() else last_iterate
        return run(u, self.S, theta, self.recursions, self.nonneg)

    def codes(self, x: Tensor) -> Iterator[Tensor]:
        """Yield z_0, z_1, …, z_K for images (B, C, H, W)."""
        u, theta = self.drive(x)
        return iterates(u, self.S, theta, self.recursions, nonneg=self.nonneg)

    def drive(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what :func:`csc.recur` takes: u = W ⊗ x in the shape of codes, and θ or None."""
        check_images(x)
        if x.shape[1] != self.W.shape[1]:
            raise ValueError(f"x has {x.shape[1]} channels but the block takes {self.W.shape[1]}")
        sizes = zip(x.shape[2:], _both(self.padding), self.W.shape[2:], strict=True)
        if any(n + 2 * padding < k for n, padding, k in sizes):
            raise ValueError(f"an image of {tuple(x.shape[-2:])} is smaller than an atom")
        u = F.conv2d(x, self.W, padding=self.padding)
        return u, None if self.theta is None else self.theta.clamp(min=0)

    def extra_repr(self) -> str:
        """Describe the block in ``print(net)``."""
        M, C, kh, kw = self.W.shape
        sh, sw = self.S.shape[2:]
        return (
            f"M={M}, C={C}, k={kh}x{kw}, S={sh}x{sw}, K={self.recursions}, "
            f"threshold={self.theta is not None}, nonneg={self.nonneg}, padding={self.padding}"
        )


def _both(padding: int | tuple[int, int]) -> tuple[int, int]:
    return padding if isinstance(padding, tuple) else (padding, padding)


def _check_kernels(W: Tensor, S: Tensor, theta: Tensor | None) -> None:
    check_dictionary(W)
    M = W.shape[0]
    check_kernel(S, M)
    if S.dtype != W.dtype or S.device != W.device:
        raise TypeError(f"W is {W.dtype} on {W.device} but S is {S.dtype} on {S.device}")
    check_finite(W, "W")
    if theta is not None:
        check_weight(theta, (1, M, 1, 1), "theta")
        if theta.shape != (M,):
            raise ValueError(f"theta must have shape ({M},), got {tuple(theta.shape)}")
