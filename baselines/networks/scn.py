"""SCN: ScSR as a network, with sparse codes by two steps of learned ISTA.

At every pixel of the bicubic-enlarged image u,

    y = H ⋆ u,  y ← y/‖y‖                 100 filters of 9×9
    w = W y,    z = h₁(S h₁(w) + w)       LISTA with one recurrence, thresholds merged into W and S
    e = D z,    e ← 1.1 ‖p‖ e/‖e‖         a 5×5 patch; p is the patch of u minus its mean

The patches are weighted by g, and their overlapping sum is added to the smoothed u.  H, W, S, D and
g are learned: 8,100 + 12,800 + 16,384 + 3,200 + 25 = 40,509 numbers, without biases.  The codes do
not depend on the unit of u, and the rest is linear, so SCN(c u) = c SCN(u) for c > 0.  Hence Y may
be in [0, 1] here, though the authors use [0, 255].

References
----------
Wang, Liu, Yang, Han, Huang, "Deep networks for image super-resolution with sparse prior", ICCV
2015.  The constants are those of the authors' test code; the start of H, W, S and D is ours.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.networks.checks import check_sizes
from baselines.resample import mirror
from csc import random_dictionary

P, BORDER, GAIN = 5, 6, 1.1
"""Side of a patch; mirrored pixels around the image; contrast of a patch."""


class SCN(nn.Module):
    """SCN on the bicubic-enlarged Y.

    Before training, H computes the features of ScSR (:func:`baselines.sparse.coupled.features`) at
    the 25 pixels of a patch.  The codes are those of two steps of ISTA with random unit atoms, in
    units of the threshold.  Overlapping patches are averaged.

    Parameters
    ----------
    M : int
        Atoms.
    lam : float
        Weight λ of the codes, before training.
    generator : torch.Generator, optional
        Source of the atoms; torch's global one by default.

    Examples
    --------
    >>> SCN()(torch.rand(1, 1, 12, 10)).shape
    torch.Size([1, 1, 12, 10])
    """

    enlarged: bool = True
    rgb: bool = False
    scales: tuple[int, ...] = ()
    takes_scale: bool = False
    reach: int = BORDER
    """Pixels to each side that an output pixel depends on: 4 from H, 2 from overlapping patches."""
    smooth: Tensor
    centred: Tensor

    def __init__(
        self, M: int = 128, *, lam: float = 0.2, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        check_sizes(M=M)
        if not 0 < lam < math.inf:
            raise ValueError(f"lam must be finite and > 0, got {lam}")
        n = P * P
        self.H = nn.Conv2d(1, 4 * n, 9, bias=False)
        self.W = nn.Conv2d(4 * n, M, 1, bias=False)
        self.S = nn.Conv2d(M, M, 1, bias=False)
        self.D = nn.Conv2d(M, n, 1, bias=False)
        self.g = nn.Conv2d(n, n, 1, groups=n, bias=False)
        box = torch.ones(1, 1, P, P) / n
        # The means of all patches, averaged where patches overlap; zeros around it, to 13×13.
        self.register_buffer("smooth", F.pad(F.conv2d(box, box, padding=P - 1), (2, 2, 2, 2)))
        at = torch.eye(n).view(n, 1, P, P)
        self.register_buffer("centred", F.pad(at - box, (2, 2, 2, 2)))  # (25, 1, 9, 9)
        if not at.is_meta:  # a meta tensor has no values
            self._start(at, lam, generator)

    @torch.no_grad()
    def _start(self, at: Tensor, lam: float, generator: torch.Generator | None) -> None:
        first, second = torch.zeros(2, 1, 1, P, P)
        first[..., 2, 1:4] = torch.tensor([-1.0, 0, 1])
        second[..., 2, :] = torch.tensor([1.0, 0, -2, 0, 1])
        four = torch.cat([first, first.mT, second, second.mT])
        # Filter f at the pixel `at` of the patch: two correlations, so the kernels convolve.
        self.H.weight.copy_(torch.cat([F.conv_transpose2d(at, f[None]) for f in four]))
        M = len(self.S.weight)
        D = random_dictionary(M, self.W.in_channels, 1, generator=generator).to(at)
        G = D.flatten(1) @ D.flatten(1).T
        L = torch.linalg.matrix_norm(G, 2)
        self.W.weight.copy_(D / lam)  # (D/L)/θ with θ = λ/L
        self.S.weight.copy_((torch.eye(M).to(G) - G / L)[..., None, None])
        e = random_dictionary(M, P * P, 1, generator=generator).to(at)
        self.D.weight.copy_(e.transpose(0, 1))
        self.g.weight.fill_(1 / P**2)

    def codes(self, u: Tensor) -> Tensor:
        """Map images padded by 6 pixels, (B, 1, H+12, W+12), to codes (B, M, H+4, W+4)."""
        w = self.W(F.normalize(self.H(u), dim=1))
        return _shrunk(self.S(_shrunk(w)) + w)

    def forward(self, x: Tensor) -> Tensor:
        """Map bicubic-enlarged images (B, 1, H, W) to sharp ones of the same size."""
        H, W = x.shape[-2:]
        u = mirror(x, BORDER)  # (B, 1, H+12, W+12)
        size = F.conv2d(u, self.centred).norm(dim=1, keepdim=True)
        e = GAIN * size * F.normalize(self.D(self.codes(u)), dim=1)  # (B, 25, H+4, W+4)
        added = F.fold(self.g(e).flatten(2), (H + 8, W + 8), P)[..., 4:-4, 4:-4]
        return F.conv2d(u, self.smooth) + added


def _shrunk(a: Tensor) -> Tensor:
    """Return h₁(a).  NaN stays NaN, while :func:`csc.soft_threshold` refuses it."""
    return a - a.clamp(-1, 1)
