"""CISTA: the unfolded ISTA as a trainable module."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csc.checks import check_dictionary, check_finite, check_images, check_weight
from csc.recursion.unfold import Kernels, iterates, last_iterate, recur_checkpointed


class CISTA(nn.Module):
    """Learned convolutional ISTA; one (W, S, θ) shared by all K recursions.

    z_0 = h(W ⊗ x) is ISTA's first step from zero, so a freshly built
    ``CISTA(unfold(D, lam, L), K)(x)`` equals K + 1 ISTA steps
    (``tests/csc/recursion/test_cista.py``); training is what makes them differ.

    The number of recursions changes no parameter: set `recursions` at any time.

    Parameters
    ----------
    kernels : Kernels
        Initial values, copied.  S of side 2k−1 is exact, of side k the paper's relaxation, which
        equals no ISTA.  theta None is the paper's h = ReLU with θ = 0; otherwise θ is learned, one
        per atom, and kept ≥ 0 by clamping it where it is used.
    recursions : int
        K ≥ 0.
    nonneg : bool
        Non-negative codes.
    padding : int
        Zero padding of the image; k // 2 gives codes of the image's size.
    checkpoint : bool
        Recompute the recursions in the backward pass instead of storing their codes.

    Raises
    ------
    ValueError, TypeError
        If the kernels do not fit together or `padding` or `recursions` is negative.

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
        padding: int = 0,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        W, S, theta = kernels
        check_dictionary(W)
        M = W.shape[0]
        if S.ndim != 4 or S.shape[:2] != (M, M) or S.shape[2] != S.shape[3] or S.shape[3] % 2 == 0:
            raise ValueError(
                f"W has {M} atoms, so S must be ({M}, {M}, s, s), s odd; got {tuple(S.shape)}"
            )
        if S.dtype != W.dtype or S.device != W.device:
            raise TypeError(f"W is {W.dtype} on {W.device} but S is {S.dtype} on {S.device}")
        check_finite(W, "W")
        check_finite(S, "S")
        if theta is not None:
            check_weight(theta, (1, M, 1, 1), "theta")
            if theta.shape != (M,):
                raise ValueError(f"theta must have shape ({M},), got {tuple(theta.shape)}")
        if padding < 0 or recursions < 0:
            raise ValueError(f"padding and recursions must be ≥ 0, got {padding} and {recursions}")
        if theta is None and not nonneg:
            raise ValueError("no threshold and signed codes make h the identity; pass nonneg=True")
        self.W = nn.Parameter(W.detach().clone())
        self.S = nn.Parameter(S.detach().clone())
        self.theta = None if theta is None else nn.Parameter(theta.detach().clone())
        self.recursions = recursions
        self.nonneg = nonneg
        self.padding = padding
        self.checkpoint = checkpoint

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to codes z_K (B, M, H+2p-k+1, W+2p-k+1)."""
        u, theta = self.drive(x)
        theta = None if theta is None else theta[:, None, None]
        run = recur_checkpointed if self.checkpoint and torch.is_grad_enabled() else last_iterate
        return run(u, self.S, theta, self.recursions, self.nonneg)

    def codes(self, x: Tensor) -> Iterator[Tensor]:
        """Yield z_0, z_1, …, z_K for images (B, C, H, W)."""
        u, theta = self.drive(x)
        return iterates(u, self.S, theta, self.recursions, nonneg=self.nonneg)

    def drive(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return W ⊗ x, as codes, and θ, (M,) or None: what :func:`csc.recur` takes."""
        check_images(x)
        if x.shape[1] != self.W.shape[1]:
            raise ValueError(f"x has {x.shape[1]} channels but the block takes {self.W.shape[1]}")
        if min(x.shape[-2:]) + 2 * self.padding < self.W.shape[-1]:
            raise ValueError(f"an image of {tuple(x.shape[-2:])} is smaller than an atom")
        u = F.conv2d(x, self.W, padding=self.padding)
        return u, None if self.theta is None else self.theta.clamp(min=0)

    def extra_repr(self) -> str:
        """Describe the block in ``print(net)``."""
        M, C, k, _ = self.W.shape
        s = self.S.shape[-1]
        return (
            f"M={M}, C={C}, k={k}, S={s}x{s}, K={self.recursions}, "
            f"threshold={self.theta is not None}, nonneg={self.nonneg}, padding={self.padding}"
        )
