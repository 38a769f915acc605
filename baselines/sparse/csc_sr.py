"""CSC-SR: super-resolution by mapping the sparse codes of the LR image to those of the HR image.

The LR image y is split into a smooth part l and a residual r, whose codes z are those of CSC,

    y = l + r,       l = argmin ½‖l − y‖² + (μ/2)(‖∇_h l‖² + ‖∇_v l‖²),
    z = argmin ½‖r − Σ_i d_i * z_i‖² + λ‖z‖₁.

The HR image is the enlarged smooth part plus HR atoms times HR codes.  An HR code mixes the LR
codes and has zeros inserted between its entries,

    x = l↑ + Σ_j f_j * Z_j,     Z_j(s p) = Σ_i w_ji z_i(p),     w_j ≥ 0, Σ_i w_ji = 1,

    y (B, 1, h, w)    d (N, 1, k, k)    W (M, N)    f (M, 1, s k, s k)    x (B, 1, s h, s w)

with s the scale and ↑ bicubic.  Z is zero at positions that are not multiples of s.  An HR atom
covers the HR pixels of its LR atom, so no code has to be shifted.  The learning is in
:mod:`baselines.sparse.csc_sr_train`; :func:`load` returns what it learned.

The code of the paper is not public.  We differ from the paper in this:

- Its smooth part is a 3×3 box filter of a smooth map; ours has no box.
- Sizes, λ and μ are ours.
- Back-projection moves the result towards images that reduce to y (Set5: 0.09 to 0.23 dB).
- The bundled LR atoms were tuned for the HR image (:mod:`baselines.sparse.csc_sr_refine`; 0.09 to
  0.14 dB, under a looser bound on ‖f_j‖).

A sixth to a quarter of the bundled HR codes are mixtures.  They gain 0.01 to 0.08 dB over the
largest LR code of each alone.  All HR atoms are at the bound on ‖f_j‖; a code that needs more
energy has two equal atoms.

References
----------
Gu, Zuo, Xie, Meng, Feng, Zhang, "Convolutional sparse coding for image super-resolution", ICCV
2015.  Irani, Peleg, "Improving resolution by image registration", CVGIP 53(3), 1991
(back-projection).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines import weights
from baselines.resample import bicubic, imresize, mirror
from baselines.weights import WeightsError
from csc import Solver, coordinate_descent, tikhonov_filter
from csc.checks import (
    check_dictionary,
    check_finite,
    check_images,
    check_integer,
    check_number,
)

TOL = 1e-3  # of the codes of a test image; finer codes change its PSNR by about 0.002 dB
MOST_STEPS = 400  # of the solver; ADMM's codes are good long before its certificate says so
BACK_PROJECTIONS = 5  # of a CSCSR; the paper's method has none
SUM_TOL = 1e-3  # a row of W is stored in half precision, so its sum differs from one by up to this


@dataclass(frozen=True)
class Filters:
    """The learned filters of one scale.

    Attributes
    ----------
    scale : int
        s ≥ 2.
    D : Tensor, shape (N, 1, k, k)
        LR atoms d_i, ‖d_i‖ ≤ 1, k odd.
    W : Tensor, shape (M, N)
        Mapping of codes; its rows lie on the simplex.
    F : Tensor, shape (M, 1, s·k, s·k)
        HR atoms f_j.
    lam : float
        Weight λ > 0, for images in [0, 1].
    mu : float
        Smoothing μ ≥ 0 of the split.

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit, a tensor holds NaN, a row of W is not on the simplex, or a number is
        out of its range.
    """

    scale: int
    D: Tensor
    W: Tensor
    F: Tensor
    lam: float
    mu: float

    def __post_init__(self) -> None:
        check_integer(self.scale, "scale", least=2)
        check_weights(self.lam, self.mu)
        for name, atoms in (("D", self.D), ("F", self.F)):
            check_dictionary(atoms)
            check_finite(atoms, name)
        check_finite(self.W, "W")
        (N, k), M = (self.D.shape[0], self.D.shape[2]), self.F.shape[0]
        side = self.scale * k
        if tuple(self.D.shape[1:]) != (1, k, k) or k % 2 == 0:
            raise ValueError(f"LR atoms must be (N, 1, k, k), k odd; got {tuple(self.D.shape)}")
        if tuple(self.F.shape[1:]) != (1, side, side):
            raise ValueError(f"HR atoms must be (M, 1, {side}, {side}), got {tuple(self.F.shape)}")
        if tuple(self.W.shape) != (M, N):
            raise ValueError(f"W must have shape {(M, N)}, got {tuple(self.W.shape)}")
        off = float((self.W.sum(1) - 1).abs().max())
        if float(self.W.min()) < 0 or off > SUM_TOL:
            raise ValueError(
                "the rows of W must be on the simplex, ≥ 0 with sum one; "
                f"its least entry is {float(self.W.min())}, a sum differs from one by {off:.1e}"
            )

    @property
    def parameters(self) -> int:
        """Number of learned values."""
        return self.D.numel() + self.W.numel() + self.F.numel()


def split(y: Tensor, mu: float, pad: int) -> tuple[Tensor, Tensor]:
    """Return l = argmin ½‖l − y‖² + (μ/2)(‖∇_h l‖² + ‖∇_v l‖²) and y − l, for y mirrored around.

    Parameters
    ----------
    y : Tensor, shape (B, 1, h, w)
        LR images.
    mu : float
        Smoothing μ ≥ 0.
    pad : int
        Pixels of mirror image around y.  ``imresize`` mirrors in the same way.

    Returns
    -------
    smooth, residual : Tensor, shape (B, 1, h + 2·pad, w + 2·pad)

    Raises
    ------
    ValueError, TypeError
        As :func:`csc.tikhonov_filter`.

    Examples
    --------
    >>> smooth, residual = split(torch.ones(1, 1, 2, 3), mu=0.1, pad=6)
    >>> smooth.shape, bool(residual.abs().max() < 1e-6)
    (torch.Size([1, 1, 14, 15]), True)
    """
    check_images(y)
    padded = mirror(y, pad)
    return tikhonov_filter(padded, mu, min(16, *padded.shape[-2:]))


def upscale(
    y: Tensor,
    filters: Filters,
    *,
    solver: Solver = coordinate_descent,
    tol: float = TOL,
    max_iter: int = MOST_STEPS,
    back_projections: int = 0,
) -> Tensor:
    """Return x = l↑ + Σ_j f_j * Z_j, the HR images of LR images y.

    Parameters
    ----------
    y : Tensor, shape (B, 1, h, w)
        LR images in [0, 1], float32 or float64.
    filters : Filters
        The filters of the scale.
    solver : Solver
        :func:`csc.coordinate_descent`, or :func:`csc.admm` as in the paper, which finds the same
        codes 36 to 123 times slower.
    tol, max_iter : float, int
        Relative gap at which the solver stops, and its largest number of steps.
    back_projections : int
        Steps x ← x + (y − x↓)↑ at the end, ↓ and ↑ bicubic.  Ours, not the paper's.

    Returns
    -------
    Tensor, shape (B, 1, scale·h, scale·w)
        Not clipped.

    Raises
    ------
    ValueError, TypeError
        If y is not (B, 1, h, w) in float32 or float64, holds NaN, or a number is out of its range.

    Examples
    --------
    >>> D, W, none = torch.eye(9).view(9, 1, 3, 3), torch.eye(9), torch.zeros(9, 1, 6, 6)
    >>> filters = Filters(2, D, W, none, lam=1.0, mu=0.0)
    >>> y = torch.rand(1, 1, 8, 8)
    >>> torch.allclose(upscale(y, filters), bicubic(y, 2), atol=1e-5)  # its HR atoms are zero
    True
    """
    check_images(y)
    if y.shape[1] != 1:
        raise ValueError(f"CSC-SR takes Y, (B, 1, h, w); got {tuple(y.shape)}")
    check_integer(back_projections, "back_projections")
    scale, pad = filters.scale, margin(filters.D)
    smooth, residual = split(y, filters.mu, pad)
    with warnings.catch_warnings():
        # A flat image has no codes and stays bicubic, which is right.
        warnings.filterwarnings("ignore", "all codes are zero", UserWarning)
        z = solver(residual, filters.D.to(y), filters.lam, tol=tol, max_iter=max_iter).codes
    x = bicubic(smooth, scale) + synthesis_hr(z, filters.W.to(y), filters.F.to(y), scale)
    x = x[..., pad * scale : -pad * scale, pad * scale : -pad * scale]
    for _ in range(back_projections):
        x = x + bicubic(y - imresize(x, 1 / scale), scale)
    return x


def synthesis_hr(z: Tensor, W: Tensor, F_hr: Tensor, scale: int) -> Tensor:
    """Return Σ_j f_j * Z_j with Z_j(s p) = Σ_i w_ji z_i(p), without checks.

    A transposed convolution of stride s inserts the zeros.

    Parameters
    ----------
    z : Tensor, shape (B, N, h, w)
        LR codes.
    W : Tensor, shape (M, N)
        Mapping.
    F_hr : Tensor, shape (M, 1, s·k, s·k)
        HR atoms.
    scale : int
        s.

    Returns
    -------
    Tensor, shape (B, 1, s·(h + k − 1), s·(w + k − 1))

    Examples
    --------
    >>> z, one = torch.tensor([[[[2.0, 3.0]]]]), torch.ones(1, 1)
    >>> synthesis_hr(z, one, torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]), 2)[0, 0]
    tensor([[2., 0., 3., 0.],
            [0., 0., 0., 0.]])
    """
    return F.conv_transpose2d(z, effective_atoms(W, F_hr), stride=scale)


def effective_atoms(W: Tensor, f: Tensor) -> Tensor:
    """Return the effective HR atom of every LR code, Σ_j w_ji f_j, shape (N, ...).

    The mapping and the HR atoms compose, so one effective HR atom per LR code is enough.

    Parameters
    ----------
    W : Tensor, shape (M, N)
        Mapping.
    f : Tensor, shape (M, C, ...)
        HR atoms.
    """
    return torch.einsum("mn,mcuv->ncuv", W, f)


def margin(D: Tensor) -> int:
    """Return the width of the mirrored border in pixels: one more than the side of an atom."""
    return D.shape[-1] + 1


def check_weights(lam: float, mu: float) -> None:
    """Require 0 < λ and 0 ≤ μ, finite."""
    check_number(lam, "lam")
    if lam == 0:
        raise ValueError("lam must be > 0, got 0")
    check_number(mu, "mu")


@dataclass(frozen=True)
class CSCSR:
    """CSC-SR for several scales: a system x_lr → x_sr for :func:`crnet.evaluate`.

    Attributes
    ----------
    filters : tuple of Filters
        The filters of each scale.
    solver, back_projections
        As in :func:`upscale`.

    Raises
    ------
    ValueError, TypeError
        If there are no filters or two for one scale, or if `back_projections` is not an integer
        ≥ 0.

    Examples
    --------
    >>> net = load()
    >>> net.scales, net(torch.rand(1, 1, 12, 10), 3).shape
    ((2, 3, 4), torch.Size([1, 1, 36, 30]))
    """

    filters: tuple[Filters, ...]
    solver: Solver = coordinate_descent
    back_projections: int = BACK_PROJECTIONS
    channels: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_integer(self.back_projections, "back_projections")
        if not self.filters or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"filters must be one for each scale, got scales {self.scales}")

    @property
    def scales(self) -> tuple[int, ...]:
        """The scales it upscales by."""
        return tuple(f.scale for f in self.filters)

    @property
    def parameters(self) -> int:
        """Number of learned values of all scales; ``at(scale).parameters`` counts one scale."""
        return sum(f.parameters for f in self.filters)

    def parameters_at(self, scale: int) -> int:
        """Return the number of learned values of a scale."""
        return self.at(scale).parameters

    def at(self, scale: int) -> Filters:
        """Return the filters of a scale.

        Raises
        ------
        ValueError
            If there are no filters of this scale.
        """
        for f in self.filters:
            if f.scale == scale:
                return f
        raise ValueError(f"there are no filters for scale {scale!r}, only for {self.scales}")

    def __call__(self, x: Tensor, scale: int) -> Tensor:
        """Map LR Y in [0, 1], (B, 1, h, w), to HR Y, (B, 1, scale·h, scale·w), not clipped."""
        return upscale(
            x, self.at(scale), solver=self.solver, back_projections=self.back_projections
        )


def write(
    path: str | Path,
    filters: Sequence[Filters],
    training: Mapping[str, Any],
    psnr: Mapping[str, Mapping[str, float]],
) -> None:
    """Write a weights file in float16, with a card and a checksum in its header.

    Parameters
    ----------
    path : str or Path
        The file; replaced if it exists.
    filters : sequence of Filters
        One for each scale.
    training : mapping
        Data, settings and time of the training, for JSON.
    psnr : mapping
        Measured mean PSNR on Y in dB, by set and then by scale.
    """
    tensors = {
        f"x{f.scale}.{name}": tensor.half()
        for f in filters
        for name, tensor in (("D", f.D), ("W", f.W), ("F", f.F))
    }
    scales = {str(f.scale): {"lam": f.lam, "mu": f.mu} for f in filters}
    card = {"name": "csc-sr", "scales": scales, "training": training, "psnr": psnr}
    weights.write(path, tensors, card)


def card(path: str | Path | None = None) -> dict[str, Any]:
    """Return the card of a weights file: `name`, `scales`, `training` and `psnr`.

    Raises
    ------
    WeightsError
        If the file is missing, damaged or not one of ours.
    """
    return weights.read(path or weights.bundled("csc-sr"))[1]


def load(
    path: str | Path | None = None,
    *,
    solver: Solver = coordinate_descent,
    back_projections: int = BACK_PROJECTIONS,
) -> CSCSR:
    """Return CSC-SR with the filters of a file, in float32.

    Parameters
    ----------
    path : str or Path, optional
        A file of :func:`write`; the bundled file by default.
    solver, back_projections
        As in :func:`upscale`; 0 back-projections are the paper's method.

    Raises
    ------
    WeightsError
        If the file is missing, damaged or not one of ours.
    ValueError, TypeError
        If `back_projections` is not an integer ≥ 0.

    Examples
    --------
    >>> load().at(2).D.shape[2:], load().at(2).F.shape[2:]
    (torch.Size([5, 5]), torch.Size([10, 10]))
    """
    check_integer(back_projections, "back_projections")
    path = path or weights.bundled("csc-sr")
    state, about = weights.read(path)
    try:
        filters = []
        for scale, numbers in about["scales"].items():
            D, W, hr = (state[f"x{scale}.{name}"].float() for name in "DWF")
            filters.append(Filters(int(scale), D, W, hr, numbers["lam"], numbers["mu"]))
        return CSCSR(tuple(filters), solver, back_projections)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is not a file of CSC-SR: {error}") from error
