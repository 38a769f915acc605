"""CSC-SR: super-resolution by mapping the sparse codes of the LR image to those of the HR image.

The LR image y is split into a smooth part and the rest, whose codes z are those of CSC,

    y = l + r,       l = argmin ½‖l − y‖² + (μ/2)(‖∇_h l‖² + ‖∇_v l‖²),
    z = argmin ½‖r − Σ_i d_i * z_i‖² + λ‖z‖₁,

and the HR image is the enlarged smooth part and HR atoms under HR codes, which are mixtures of the
LR codes with zeros inserted between them,

    x = l↑ + Σ_j f_j * Z_j,     Z_j(s p) = Σ_i w_ji z_i(p),     w_j ≥ 0, Σ_i w_ji = 1,

    y (B, 1, h, w)    d (N, 1, k, k)    W (M, N)    f (M, 1, s k, s k)    x (B, 1, s h, s w)

with s the scale, ↑ bicubic, and Z zero at positions that are no multiple of s.  An HR atom covers
the HR pixels of its LR atom's window, so on our one grid both frames are of the same pixels, and
no code has to be shifted.  The learning is in :mod:`baselines.sparse.csc_sr_train`; what it
learned ships with the package (:func:`load`).

Where we differ from the paper, whose code is not public: the paper's smooth part is a 3×3 box
filter of a smooth map, ours has no box; sizes, λ and μ are ours; steps of back-projection, which
move the result towards the images that reduce to y, are added (Set5: 0.09 to 0.23 dB); and the
bundled LR atoms were tuned for the HR image (:mod:`baselines.sparse.csc_sr_refine`; 0.09 to 0.14
dB, under a looser bound on ‖f_j‖).  A sixth to a quarter of the bundled HR codes are mixtures,
which is worth 0.01 to 0.08 dB over the largest LR code of each; all HR atoms are at the bound, and
a code that needs more energy than that has two equal atoms.

References
----------
Gu, Zuo, Xie, Meng, Feng, Zhang, "Convolutional sparse coding for image super-resolution", ICCV
2015.  Irani, Peleg, "Improving resolution by image registration", CVGIP 53(3), 1991
(back-projection).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines import weights
from baselines.resample import bicubic, imresize, mirror
from baselines.weights import WeightsError
from csc import Solution, coordinate_descent, tikhonov_filter
from csc.checks import check_dictionary, check_finite, check_images

# Where the codes of a test image are good enough: finer ones change its PSNR by some 0.002 dB.
TOL = 1e-3
MOST_STEPS = 400  # of the solver; ADMM's certificate lags its codes by far
BACK_PROJECTIONS = 5  # of a CSCSR; the paper's method has none
SUM_TOL = 1e-3  # how far a row of W may sum from one: it is stored in half precision


@dataclass(frozen=True)
class Filters:
    """What is learned for one scale.

    Attributes
    ----------
    scale : int
        s ≥ 2.
    D : Tensor, shape (N, 1, k, k)
        LR atoms d_i, ‖d_i‖ ≤ 1, k odd.
    W : Tensor, shape (M, N)
        Mapping of codes, rows on the simplex.
    F : Tensor, shape (M, 1, s·k, s·k)
        HR atoms f_j.
    lam : float
        Weight λ > 0, for images in [0, 1].
    mu : float
        Smoothing μ ≥ 0 of the split.

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit, a tensor holds NaN, a row of W is off the simplex, or a number is out
        of its range.
    """

    scale: int
    D: Tensor
    W: Tensor
    F: Tensor
    lam: float
    mu: float

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_numbers(self.lam, self.mu)
        for name, atoms in (("D", self.D), ("F", self.F)):
            check_dictionary(atoms)
            check_finite(atoms, name)
        check_finite(self.W, "W")
        (N, C, k, _), (M, _, K, _) = self.D.shape, self.F.shape
        if C != 1 or k % 2 == 0:
            raise ValueError(f"LR atoms must be (N, 1, k, k), k odd; got {tuple(self.D.shape)}")
        if self.F.shape[1] != 1 or self.scale * k != K:
            side = self.scale * k
            raise ValueError(f"HR atoms must be (M, 1, {side}, {side}), got {tuple(self.F.shape)}")
        if tuple(self.W.shape) != (M, N):
            raise ValueError(f"W must have shape {(M, N)}, got {tuple(self.W.shape)}")
        off = float((self.W.sum(1) - 1).abs().max())
        if float(self.W.min()) < 0 or off > SUM_TOL:
            raise ValueError(
                f"the rows of W must be on the simplex; its least entry is {float(self.W.min())}, "
                f"and a row sums to one but for {off:.1e}"
            )

    @property
    def parameters(self) -> int:
        """Number of learned values."""
        return self.D.numel() + self.W.numel() + self.F.numel()


def split(y: Tensor, mu: float, pad: int) -> tuple[Tensor, Tensor]:
    """Return l = argmin ½‖l − y‖² + (μ/2)(‖∇_h l‖² + ‖∇_v l‖²) and y − l, y mirrored around.

    Parameters
    ----------
    y : Tensor, shape (B, 1, h, w)
        LR images.
    mu : float
        Smoothing μ ≥ 0.
    pad : int
        Pixels of mirror image around y.  HR images are mirrored alike: ``imresize`` reads both so.

    Returns
    -------
    smooth, residual : Tensor, shape (B, 1, h + 2·pad, w + 2·pad)

    Raises
    ------
    ValueError, TypeError
        As :func:`csc.tikhonov_filter`, of which this is the frame.

    Examples
    --------
    >>> smooth, residual = split(torch.ones(1, 1, 2, 3), mu=0.1, pad=6)
    >>> smooth.shape, bool(residual.abs().max() < 1e-6)
    (torch.Size([1, 1, 14, 15]), True)
    """
    check_images(y)
    framed = mirror(y, pad)
    return tikhonov_filter(framed, mu, min(16, *framed.shape[-2:]))


def upscale(
    y: Tensor,
    filters: Filters,
    *,
    solver: Callable[..., Solution] = coordinate_descent,
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
        What was learned for the scale.
    solver : callable
        Called as ``solver(r, D, lam, tol=, max_iter=)``; :func:`csc.coordinate_descent`, or
        :func:`csc.admm` as in the paper, for the same codes 36 to 123 times slower.
    tol, max_iter : float, int
        Relative gap at which the codes count as found, and the solver's largest number of steps.
    back_projections : int
        Steps x ← x + (y − x↓)↑ after it, ↓ and ↑ bicubic.  Ours, not the paper's.

    Returns
    -------
    Tensor, shape (B, 1, scale·h, scale·w)
        Not clipped.

    Raises
    ------
    ValueError, TypeError
        If y is no (B, 1, h, w) of float32 or float64 or holds NaN, or a number is out of its range.

    Examples
    --------
    >>> D, W, none = torch.eye(9).view(9, 1, 3, 3), torch.eye(9), torch.zeros(9, 1, 6, 6)
    >>> some = Filters(2, D, W, none, lam=1.0, mu=0.0)
    >>> y = torch.rand(1, 1, 8, 8)
    >>> torch.allclose(upscale(y, some), bicubic(y, 2), atol=1e-5)  # HR atoms that are zero
    True
    """
    check_images(y)
    if y.shape[1] != 1:
        raise ValueError(f"CSC-SR takes Y, (B, 1, h, w); got {tuple(y.shape)}")
    check_back_projections(back_projections)
    scale, pad = filters.scale, margin(filters.D)
    smooth, residual = split(y, filters.mu, pad)
    z = solver(residual, filters.D.to(y), filters.lam, tol=tol, max_iter=max_iter).codes
    x = bicubic(smooth, scale) + synthesis_hr(z, filters.W.to(y), filters.F.to(y), scale)
    x = x[..., pad * scale : -pad * scale, pad * scale : -pad * scale]
    for _ in range(back_projections):
        x = x + bicubic(y - imresize(x, 1 / scale), scale)
    return x


def synthesis_hr(z: Tensor, W: Tensor, F_hr: Tensor, scale: int) -> Tensor:
    """Return Σ_j f_j * Z_j with Z_j(s p) = Σ_i w_ji z_i(p), no checks.

    All of it is linear: as many atoms as there are LR codes do, Σ_j w_ji f_j.  A transposed
    convolution of stride s inserts the zeros.

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
    atoms = torch.einsum("mn,mcuv->ncuv", W, F_hr)  # (N, 1, s k, s k)
    return F.conv_transpose2d(z, atoms, stride=scale)


def margin(D: Tensor) -> int:
    """Return how many pixels of mirror image surround an image: an atom and one more."""
    return D.shape[-1] + 1


def check_scale(scale: int) -> None:
    """Require a scale ≥ 2."""
    if not isinstance(scale, Integral) or scale < 2:
        raise ValueError(f"scale must be an integer ≥ 2, got {scale!r}")


def check_numbers(lam: float, mu: float) -> None:
    """Require 0 < λ and 0 ≤ μ, finite."""
    if not isinstance(lam, Real) or not 0 < lam < math.inf:
        raise ValueError(f"lam must be a finite number > 0, got {lam!r}")
    if not isinstance(mu, Real) or not 0 <= mu < math.inf:
        raise ValueError(f"mu must be a finite number ≥ 0, got {mu!r}")


def check_back_projections(steps: int) -> None:
    """Require a number of steps ≥ 0."""
    if not isinstance(steps, Integral) or steps < 0:
        raise ValueError(f"back_projections must be an integer ≥ 0, got {steps!r}")


@dataclass(frozen=True)
class CSCSR:
    """CSC-SR for several scales: a system x_lr → x_sr, as :func:`crnet.evaluate` takes it.

    Attributes
    ----------
    filters : tuple of Filters
        What was learned, one for each scale.
    solver : callable
        As of :func:`upscale`.
    back_projections : int
        As of :func:`upscale`.

    Raises
    ------
    ValueError
        If there are no filters, or two for a scale, or `back_projections` is no integer ≥ 0.

    Examples
    --------
    >>> net = load()
    >>> net.scales, net(torch.rand(1, 1, 12, 10), 3).shape
    ((2, 3, 4), torch.Size([1, 1, 36, 30]))
    """

    filters: tuple[Filters, ...]
    solver: Callable[..., Solution] = coordinate_descent
    back_projections: int = BACK_PROJECTIONS

    def __post_init__(self) -> None:
        check_back_projections(self.back_projections)
        if not self.filters or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"filters must be one for each of some scales, got {self.scales}")

    @property
    def scales(self) -> tuple[int, ...]:
        """Scales there are filters for."""
        return tuple(f.scale for f in self.filters)

    @property
    def parameters(self) -> int:
        """Number of learned values, over all scales; ``net.at(scale).parameters`` for one."""
        return sum(f.parameters for f in self.filters)

    def at(self, scale: int) -> Filters:
        """Return the filters of a scale.

        Raises
        ------
        ValueError
            If there are none.
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


def write(path: str | Path, filters: Sequence[Filters], training: dict[str, Any]) -> None:
    """Write a weights file: float16, with a card and a checksum in its header.

    Parameters
    ----------
    path : str or Path
        The file; replaced if it is there.
    filters : sequence of Filters
        One for each scale.
    training : dict
        What to say of the training, for JSON: data, settings, time, by scale or for all.
    """
    tensors = {f"x{f.scale}.{name}": getattr(f, name).half() for f in filters for name in "DWF"}
    scales = {str(f.scale): {"lam": f.lam, "mu": f.mu} for f in filters}
    weights.write(path, tensors, {"name": "csc-sr", "scales": scales, "training": training})


def card(path: str | Path | None = None) -> dict[str, Any]:
    """Return what a weights file says of itself: `name`, `scales` and `training`.

    Raises
    ------
    WeightsError
        If the file is missing, damaged or not one of ours.
    """
    return weights.read(path or weights.bundled("csc-sr"))[1]


def load(
    path: str | Path | None = None,
    *,
    solver: Callable[..., Solution] = coordinate_descent,
    back_projections: int = BACK_PROJECTIONS,
) -> CSCSR:
    """Return CSC-SR with the filters of a file, float32; those that ship with the package if None.

    Parameters
    ----------
    path : str or Path, optional
        A file of :func:`write`.
    solver : callable
        As of :func:`upscale`.
    back_projections : int
        As of :func:`upscale`; 0 for the paper's method.

    Raises
    ------
    WeightsError
        If the file is missing, damaged or not one of ours.
    ValueError
        If `back_projections` is no integer ≥ 0.

    Examples
    --------
    >>> load().at(2).D.shape[2:], load().at(2).F.shape[2:]
    (torch.Size([5, 5]), torch.Size([10, 10]))
    """
    check_back_projections(back_projections)
    state, about = weights.read(path or weights.bundled("csc-sr"))
    try:
        filters = []
        for scale, numbers in about["scales"].items():
            D, W, hr = (state[f"x{scale}.{name}"].float() for name in "DWF")
            filters.append(Filters(int(scale), D, W, hr, numbers["lam"], numbers["mu"]))
        return CSCSR(tuple(filters), solver, back_projections)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path or 'the bundled file'} is no CSC-SR: {error}") from error
