"""Dictionaries: random atoms, cosines, and the unit norm that keeps codes from shrinking to zero.

Without a bound on ‖d_m‖ the scale is ambiguous: larger atoms, smaller codes.  The paper's eq. 2
leaves it open; the field's convention is ‖d_m‖ = 1.
"""

import torch
from torch import Tensor

from csc.checks import (
    check_dictionary,
    check_finite,
    check_integer,
    check_sides,
    check_squares,
)


def unit_norm(D: Tensor) -> Tensor:
    """Return the atoms d_m / ‖d_m‖₂, the norm over channels and positions.

    Parameters
    ----------
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.

    Returns
    -------
    Tensor, shape (M, C, kh, kw)

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
    k: int | tuple[int, int],
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return M atoms drawn uniformly from the unit sphere.

    Parameters
    ----------
    M, C : int
        Number of atoms and of channels, each ≥ 1.
    k : int or (int, int)
        Side of an atom, or its height and width, each ≥ 1.
    generator : torch.Generator, optional
        Source of randomness; torch's global one by default.
    dtype : torch.dtype, optional
        Floating-point type; torch's default one by default.

    Returns
    -------
    Tensor, shape (M, C, kh, kw)

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
    check_integer(M, "M", 1)
    check_integer(C, "C", 1)
    return unit_norm(torch.randn(M, C, *check_sides(k), generator=generator, dtype=dtype))


def dct_dictionary(
    k: int | tuple[int, int],
    n: int | tuple[int, int] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return n² products of cosines, d_uv(i, j) ∝ cos(π u(i + ½)/n) cos(π v(j + ½)/n), unit norm.

    With n = k these are the orthonormal DCT-II atoms; with n > k they are the overcomplete DCT of
    the dictionary-learning literature (without its removal of the mean).

    Parameters
    ----------
    k : int or (int, int)
        Side of an atom, or its height and width, each ≥ 1.
    n : int or (int, int), optional
        Frequencies per axis, or along each axis, ≥ k; k by default.
    dtype : torch.dtype, optional
        Floating-point type; torch's default one by default.

    Returns
    -------
    Tensor, shape (nh·nw, 1, kh, kw)
        Atom u·nw + v has vertical frequency u and horizontal frequency v.

    Raises
    ------
    ValueError, TypeError
        If k or n is not one or two integers ≥ 1, or n < k along an axis.

    Examples
    --------
    >>> D = dct_dictionary(3).flatten(1)
    >>> torch.allclose(D @ D.T, torch.eye(9), atol=1e-6)
    True
    """
    sides = check_sides(k)
    counts = sides if n is None else check_sides(n, "n")
    for count, side in zip(counts, sides, strict=True):
        check_integer(count, "n", side)
    down, across = (_cosines(*axis) for axis in zip(counts, sides, strict=True))
    atoms = torch.einsum("ui,vj->uvij", down, across).reshape(-1, 1, *sides)
    return unit_norm(atoms).to(dtype or torch.get_default_dtype())


def per_channel(D: Tensor, C: int) -> Tensor:
    """Return the atoms d_m in each of C channels by itself: atom m·C + c is d_m in channel c.

    Each channel has its own codes then.  With ``groups=torch.arange(M).repeat_interleave(C)`` the
    solvers code all channels at the same positions: joint sparsity over channels.

    Parameters
    ----------
    D : Tensor, shape (M, 1, kh, kw)
        Dictionary of one channel.
    C : int
        Number of channels, ≥ 1.

    Returns
    -------
    Tensor, shape (M·C, C, kh, kw)

    Raises
    ------
    ValueError, TypeError
        If D is not a finite dictionary of one channel, or C < 1.

    References
    ----------
    Wohlberg, "Convolutional sparse representation of color images", IEEE SSIAI 2014.

    Examples
    --------
    >>> per_channel(torch.ones(1, 1, 1, 1), 2).flatten(1)
    tensor([[1., 0.],
            [0., 1.]])
    """
    check_dictionary(D)
    check_finite(D, "D")
    check_integer(C, "C", 1)
    if D.shape[1] != 1:
        raise ValueError(f"D must have one channel, got {D.shape[1]}; use D[:, :1]")
    channels = torch.eye(C, dtype=D.dtype, device=D.device)[:, :, None, None]
    return (D[:, :, None] * channels).flatten(0, 1)


def _cosines(n: int, k: int) -> Tensor:
    """Return cos(π u(i + ½)/n) for u < n and i < k, shape (n, k), float64."""
    u, i = torch.arange(n, dtype=torch.float64), torch.arange(k, dtype=torch.float64)
    return torch.cos(torch.pi * u[:, None] * (i + 0.5) / n)
