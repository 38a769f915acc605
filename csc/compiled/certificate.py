"""The certificate of codes that are mostly zero, by compiled kernels in float64."""

import numpy as np
import torch
from torch import Tensor

from csc.compiled.image import Image
from csc.compiled.records import Floats, Ints
from csc.problem import CodeSizes, Gap

SMALL = 0.1  # part of a gap that rounding may be


def certify_dense(image: Image, z: Tensor, tol: float) -> Gap:
    """Return the certificate of codes z (M, h, w), as :meth:`csc.problem.Problem.certify`."""
    if not image.weights.least.all():
        return image.problem.certify(z[None], tol=tol)
    on = np.flatnonzero(z.numpy())
    at = np.stack(np.unravel_index(on, z.shape)).astype(np.int32)
    return certify(image, at, z.numpy().ravel()[on], tol)


def certify(
    image: Image,
    at: Ints,
    values: Floats,
    tol: float,
    dual: tuple[Floats, float] | None = None,
) -> Gap:
    """Return the certificate of codes, as :meth:`csc.problem.Problem.certify`.

    Parameters
    ----------
    image : Image
        The problem, with λ > 0 everywhere.
    at : array (3, n)
        Atoms, rows and columns of the codes that may be other than zero.
    values : array (n,)
        These codes.
    tol : float
        As in :func:`csc.ista`.
    dual : array and float, optional
        A flat image ν, by default x − D z, and max |Dᵀν|/λ in its dtype.  The dual point is the
        best multiple of ν.
    """
    p, exact = image.problem, image.problem.double()
    fine = Image(exact, image.threads)
    codes = values.astype(np.float64)
    r = fine.tensor(fine.residual(at, codes))
    sizes = _sizes(fine, at, codes)
    if dual is None:
        flat = image.flat(r.to(p.x))
        dual = flat, image.largest_ratio(flat)
    v, ratio = image.tensor(dual[0]), dual[1]
    rounding = _rounding(image, v)
    found = exact.certificate(sizes, r, v, _number(ratio + rounding))
    if found.within(tol) or _is_precise(found, ratio, rounding, tol):
        return found
    ratio = fine.largest_ratio(fine.flat(v.double())) + _rounding(fine, v.double())
    return exact.certificate(sizes, r, v, _number(ratio))


def _rounding(image: Image, v: Tensor) -> float:
    """Return a bound on the rounding of max |Dᵀv|/λ."""
    bound = image.problem.rounding_of_correlations(v)[0].numpy()
    return float((bound / image.weights.least).max())


def _is_precise(found: Gap, ratio: float, rounding: float, tol: float) -> bool:
    """Tell whether without the rounding of the ratio the gap would be above tol, and hardly less.

    Δ is concave and Δ(0) = 0, so the rounding lowers it by at most its part of the ratio.
    """
    if not ratio > 0:
        return False
    lost = rounding / ratio * (found.objective - found.gap)
    least = Gap(found.objective, found.gap - lost)
    return not least.within(tol) and bool((lost <= SMALL * found.gap).all())


def _sizes(image: Image, at: Ints, values: Floats) -> CodeSizes:
    """Return the sizes of the codes."""
    penalty = float(image.weights.lam[tuple(at)] @ np.abs(values))
    if image.weights.nonneg and (values < 0).any():
        penalty = np.inf
    norms = np.bincount(at[0], values**2, image.codes[0]) ** 0.5
    return CodeSizes(_number(penalty), torch.from_numpy(norms)[None])


def _number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)
