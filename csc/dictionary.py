"""Dictionaries: random atoms, cosines, and the unit norm that keeps codes from shrinking to zero.

Without a bound on ‖d_m‖ the scale is ambiguous: larger atoms, smaller codes.  The paper's eq. 2
leaves it open; the field's convention is ‖d_m‖ = 1.
"""

import torch
from torch import Tensor

from csc.checks import check_dictionary, check_finite, check_integer, check_squares


def unit_norm(D: Tensor) -> Tensor:
    """Return the atoms d_m / ‖d_m‖₂, the norm over channels and positions.

    Parameters
    ----------
    D : Tensor, shape (M, C, k, k)
        Dictionary.

    Returns
    -------
    Tensor, shape (M, C, k, k)

    Raises
    ------
    ValueError, TypeError
        If D is not a finite dictionary, or an atom is zero.

    Examples
    --------
    >>> unit_norm(torch.tensor([3.0, 0.0, 0.0, 4.0]).view(1, 1, 2, 2)).flatten()
    tensor([0.6000, 0.0000, 0.0000, 0.8000])
    """
    check_dictionary(D)
    check_finite(D, "D")
    check_squares(D, "D")
    norm: Tensor = torch.linalg.vector_norm(D, dim=(1, 2, 3), keepdim=True)
    zero = (norm == 0).flatten().nonzero().flatten().tolist()
    if zero:
        raise ValueError(f"atoms {zero} are zero and have no direction; remove or redraw them")
    return D / norm


def random_dictionary(
    M: int,
    C: int,
    k: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return M atoms drawn uniformly from the unit sphere.

    Parameters
    ----------
    M, C, k : int
        Number of atoms, channels, and side of an atom, each ≥ 1.
    generator : torch.Generator, optional
        Source of randomness; torch's global one by default.
    dtype : torch.dtype, optional
        Floating-point type; torch's default one by default.

    Returns
    -------
    Tensor, shape (M, C, k, k)

    Raises
    ------
    ValueError, TypeError
        If a size is not an integer ≥ 1.

    Examples
    --------
    >>> D = random_dictionary(5, 3, 4, generator=torch.Generator().manual_seed(0))
    >>> D.shape, torch.allclose(D.square().sum((1, 2, 3)), torch.ones(5))
    (torch.Size([5, 3, 4, 4]), True)
    """
    for value, name in ((M, "M"), (C, "C"), (k, "k")):
        check_integer(value, name, least=1)
    return unit_norm(torch.randn(M, C, k, k, generator=generator, dtype=dtype))


def dct_dictionary(k: int, n: int | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return n² products of cosines, d_uv(i, j) ∝ cos(π u(i + ½)/n) cos(π v(j + ½)/n), unit norm.

    With n = k these are the orthonormal DCT-II atoms; with n > k they are the overcomplete DCT of
    the dictionary-learning literature (without its removal of the mean).

    Parameters
    ----------
    k : int
        Side of an atom, ≥ 1.
    n : int, optional
        Frequencies per axis, ≥ k; k by default.
    dtype : torch.dtype, optional
        Floating-point type; torch's default one by default.

    Returns
    -------
    Tensor, shape (n², 1, k, k)
        Atom u·n + v has vertical frequency u and horizontal frequency v.

    Raises
    ------
    ValueError, TypeError
        If k is not an integer ≥ 1, or n not an integer ≥ k.

    Examples
    --------
    >>> D = dct_dictionary(3).flatten(1)
    >>> torch.allclose(D @ D.T, torch.eye(9), atol=1e-6)
    True
    """
    check_integer(k, "k", least=1)
    n = k if n is None else n
    check_integer(n, "n", least=k)
    u, i = torch.arange(n, dtype=torch.float64), torch.arange(k, dtype=torch.float64)
    cosines = torch.cos(torch.pi * u[:, None] * (i + 0.5) / n)  # (n, k)
    atoms = torch.einsum("ui,vj->uvij", cosines, cosines).reshape(n * n, 1, k, k)
    return unit_norm(atoms).to(dtype or torch.get_default_dtype())
