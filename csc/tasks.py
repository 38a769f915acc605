"""Denoising and inpainting: the smooth part by a filter, the rest by certified sparse codes.

An image is l + D z with noise.  l is the smooth part of :mod:`csc.filters`.  The codes minimise

    ½‖m ⊙ (x − l − D z)‖² + λ‖z‖₁,

m = 1 at known pixels.  The restored image is l + D z, and x itself where it is known without noise.

λ follows from the noise.  If x is white noise of standard deviation σ at the known pixels, then its
correlation with an atom d of unit norm at one place has standard deviation σ‖m ⊙ d‖ ≤ σ.  So

    λ = max(θ²/|⟨d, m ⊙ (x − l)⟩|, 0.003)    with    θ = 3.2 σ‖m ⊙ d‖,

for each atom at each place.  A correlation of size θ has λ = θ.  Weaker ones have a larger λ and
stay zero; stronger ones have a smaller λ and lose little of their size.  These are the weights of
the adaptive lasso.  3.2 was chosen on photos with σ of 10 to 50 grey levels.  0.003, about a grey
level, is for images without noise.  λ never falls as σ grows.

A dictionary of one channel codes each channel of an image separately.  RGB is first turned to an
orthonormal basis, grey and two colour differences.  That keeps white noise white.

References
----------
Elad, Aharon, "Image denoising via sparse and redundant representations over learned dictionaries",
IEEE TIP 15(12), 2006.  Zou, "The adaptive lasso and its oracle properties", JASA 101,
2006.  Wohlberg, "Efficient algorithms for convolutional sparse representations", IEEE TIP 25(1),
2016 (smooth part and mask).
"""

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor
from torch.nn import functional as F

from csc.arrays import Array, Image, like, to_tensor
from csc.checks import Weight, check_dictionary, check_mask, check_number
from csc.conv import synthesis
from csc.dictionary import unit_norm
from csc.filters import tikhonov_filter
from csc.precision import full_precision
from csc.problem import pose
from csc.solution import Solution
from csc.solvers.cd import coordinate_descent

FACTOR, LEAST = 3.2, 0.003
MOST = 1000  # largest λ, as a multiple of θ

# Orthonormal: grey, red − blue, and green against both.
_OPPONENT = [[3**-0.5] * 3, [2**-0.5, 0, -(2**-0.5)], [6**-0.5, -2 * 6**-0.5, 6**-0.5]]


@dataclass(frozen=True)
class Restored:
    """A restored image, its parts and its certificate.

    Attributes
    ----------
    image : Tensor or array
        The restored image, in the layout of the input; float.
    smooth : Tensor, shape (N, C, H, W)
        l.
    solution : Solution
        Codes z of the rest, objective and duality gap.  If D has one channel, each channel of an
        image is a problem of its own, and N = B·C.
    """

    image: Image
    smooth: Tensor
    solution: Solution


def photo_dictionary(dtype: torch.dtype | None = None) -> Tensor:
    """Return the bundled dictionary: 64 grey atoms of 8×8, learned from photos.

    ``benchmarks/photo_dictionary.py`` made it, from 25 photos in the public domain.

    Parameters
    ----------
    dtype : torch.dtype, optional
        Floating-point type; torch's default one by default.

    Returns
    -------
    Tensor, shape (64, 1, 8, 8)

    Examples
    --------
    >>> photo_dictionary().shape
    torch.Size([64, 1, 8, 8])
    """
    stored = load(files("csc").joinpath("photo_dictionary.safetensors").read_bytes())["D"].double()
    return unit_norm(stored).to(dtype or torch.get_default_dtype())


@full_precision
def noise_weights(x: Tensor, D: Tensor, sigma: float, *, mask: Tensor | None = None) -> Tensor:
    """Return λ = max(θ²/|⟨d, m ⊙ x⟩|, 0.003), θ = 3.2 σ‖m ⊙ d‖, of each atom at each place.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        High-pass part of noisy images.
    D : Tensor, shape (M, C, k, k)
        Dictionary.
    sigma : float
        σ ≥ 0, the standard deviation of the noise in the units of x.
    mask : Tensor of bool, optional
        Broadcasts to x; True where a pixel is known.

    Returns
    -------
    Tensor, shape (B, M, H-k+1, W-k+1)

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or devices do not fit, or σ is not a finite number ≥ 0.

    Examples
    --------
    >>> x, D = torch.tensor([[[[0.32, 0.64]]]]), torch.ones(1, 1, 1, 1)
    >>> noise_weights(x, D, 0.1)
    tensor([[[[0.3200, 0.1600]]]])
    """
    check_number(sigma, "sigma")
    p = pose(x, D, 0.0, mask=mask)
    known = torch.ones_like(x) if p.mask is None else p.mask.expand_as(x)
    theta = FACTOR * sigma * F.conv2d(known, D.square()).clamp(min=0).sqrt()
    size = torch.maximum(F.conv2d(p.x, D).abs(), theta / MOST).clamp(min=torch.finfo(x.dtype).tiny)
    return (theta.square() / size).clamp(min=LEAST)


def denoise(
    x: Image,
    sigma: float,
    D: Tensor | None = None,
    *,
    lam: Weight | None = None,
    mu: float = 5.0,
    tol: float = 1e-2,
) -> Restored:
    """Remove white noise of standard deviation σ: return l + D z.

    Parameters
    ----------
    x : Tensor (B, C, H, W), or array (H, W) or (H, W, C)
        Noisy image, float32 or float64 in [0, 1]; an array may be uint8.
    sigma : float
        σ ≥ 0, for values in [0, 1]: noise of 25 grey levels is 25/255.
    D : Tensor, shape (M, 1, k, k) or (M, C, k, k), optional
        Dictionary; :func:`photo_dictionary` by default.
    lam : float or Tensor, optional
        Weight λ ≥ 0; :func:`csc.tasks.noise_weights` by default.
    mu : float
        Smoothing of :func:`csc.tikhonov_filter`.
    tol : float
        Relative gap at which the codes count as optimal.

    Returns
    -------
    Restored

    Raises
    ------
    ValueError, TypeError
        As :func:`csc.coordinate_descent`; or if x is uint8 and σ > 1.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> clean = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    >>> noisy = clean + 0.1 * torch.randn(clean.shape, generator=g)
    >>> found = denoise(noisy, 0.1)
    >>> bool((found.image - clean).std() < 0.3 * (noisy - clean).std()), found.solution.converged
    (True, True)
    """
    images = _images(x, sigma)
    restored, smooth, solution = _restore(images, None, D, sigma, lam, mu, tol)
    return Restored(like(restored, x), smooth, solution)


def inpaint(
    x: Image,
    known: Tensor | Array,
    D: Tensor | None = None,
    sigma: float = 0.0,
    *,
    lam: Weight | None = None,
    mu: float = 5.0,
    tol: float = 1e-2,
) -> Restored:
    """Fill in the missing pixels of an image by l + D z.

    Known pixels stay if σ = 0, and are denoised otherwise.

    Parameters
    ----------
    x : Tensor (B, C, H, W), or array (H, W) or (H, W, C)
        Image, float32 or float64 in [0, 1]; an array may be uint8.  Its values at missing pixels
        are ignored.
    known : Tensor of bool that broadcasts to x, or array of bool (H, W) or (H, W, C)
        True where a pixel is known.
    D : Tensor, shape (M, 1, k, k) or (M, C, k, k), optional
        Dictionary; :func:`photo_dictionary` by default.
    sigma : float
        Standard deviation of the noise of known pixels.
    lam, mu, tol
        As of :func:`denoise`.  μ is multiplied by the share of known pixels, because the term
        that it is weighed against has so many pixels less.

    Returns
    -------
    Restored

    Raises
    ------
    ValueError, TypeError
        As :func:`csc.coordinate_descent`; if a channel has no known pixel; or if x is uint8 and
        σ > 1.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    >>> known = torch.rand(x.shape, generator=g) < 0.5
    >>> found = inpaint(torch.where(known, x, torch.nan), known)
    >>> bool((found.image - x).abs().max() < 0.1), found.solution.converged
    (True, True)
    """
    images = _images(x, sigma)
    mask = _mask(known).to(images.device)
    check_mask(mask, images)
    images = torch.where(mask, images, 0.0)
    restored, smooth, solution = _restore(images, mask, D, sigma, lam, mu, tol)
    if sigma == 0:
        restored = torch.where(mask, images, restored)
    return Restored(like(restored, x), smooth, solution)


def _restore(
    images: Tensor,
    mask: Tensor | None,
    D: Tensor | None,
    sigma: float,
    lam: Weight | None,
    mu: float,
    tol: float,
) -> tuple[Tensor, Tensor, Solution]:
    """Return l + D z, l and the solution."""
    D = photo_dictionary(images.dtype).to(images.device) if D is None else D
    check_dictionary(D)
    B, C, H, W = images.shape
    separate = D.shape[1] == 1 < C
    whole = mask is None or mask.shape[1] == 1  # a rotation needs whole pixels
    rotate = separate and whole and C == 3
    basis = images.new_tensor(_OPPONENT) if rotate else torch.eye(C).to(images)
    turned = torch.einsum("ij,bjhw->bihw", basis, images)
    if separate:
        turned = turned.reshape(B * C, 1, H, W)
        mask = None if mask is None else mask.expand(images.shape).reshape(B * C, 1, H, W)
    mu = mu if mask is None else mu * float(mask.double().mean())
    smooth, rest = tikhonov_filter(turned, mu, min(16, H, W), mask=mask)
    lam = noise_weights(rest, D, sigma, mask=mask) if lam is None else lam
    solution = coordinate_descent(rest, D, lam, mask=mask, tol=tol)
    restored = (smooth + synthesis(solution.codes, D)).reshape(B, C, H, W)
    return torch.einsum("ij,bihw->bjhw", basis, restored), smooth, solution


def _images(x: Image, sigma: float) -> Tensor:
    """Return images as a tensor; refuse σ in grey levels."""
    check_number(sigma, "sigma")
    if sigma > 1 and isinstance(x, np.ndarray) and x.dtype == np.uint8:
        raise ValueError(f"sigma is for values in [0, 1], got {sigma}; use sigma={sigma:g}/255")
    return to_tensor(x)


def _mask(known: Tensor | Array) -> Tensor:
    """Return a mask with four axes."""
    if isinstance(known, Tensor):
        return known
    if known.dtype != np.bool_ or known.ndim not in (2, 3):
        raise TypeError(
            "known must be an array of bool, (H, W) or (H, W, C), True where a pixel is known; "
            f"got {known.dtype} of shape {known.shape}"
        )
    mask = torch.from_numpy(known.copy())
    return mask[None, None] if mask.ndim == 2 else mask.permute(2, 0, 1)[None]
