"""Convolutional synthesis ``D`` and its adjoint, the two linear maps of CSC.

An image x is modelled as a sum of M atoms convolved with sparse codes,

    x = D z = Σ_m d_m * z_m,        Dᵀ x = (d_m ⋆ x)_m,

with ``*`` convolution and ``⋆`` correlation.  Codes live on the grid of
positions where a whole atom fits, so no boundary rule is needed and
⟨D z, x⟩ = ⟨z, Dᵀ x⟩ holds exactly:

    x (B, C, H, W)      D (M, C, kh, kw)      z (B, M, H-kh+1, W-kw+1)

Codes of the image's own size come from padding the *image* by kh // 2 rows and kw // 2 columns
(kh and kw odd).  A signal is an image of one row, and its atoms are (M, C, 1, kw).
"""

from torch import Tensor
from torch.nn import functional as F

from csc.checks import check_codes, check_dictionary, check_finite, check_pair


def synthesis(z: Tensor, D: Tensor) -> Tensor:
    """Return the images D z = Σ_m d_m * z_m.

    Parameters
    ----------
    z : Tensor, shape (B, M, h, w)
        Codes.
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.

    Returns
    -------
    Tensor, shape (B, C, h+kh-1, w+kw-1)

    Raises
    ------
    ValueError, TypeError
        If the shapes, dtypes or devices of z and D do not fit, or one holds NaN.

    Examples
    --------
    >>> import torch
    >>> synthesis(torch.ones(1, 1, 1, 1), torch.arange(4.0).view(1, 1, 2, 2))
    tensor([[[[0., 1.],
              [2., 3.]]]])
    """
    check_codes(z, D)
    check_finite(z, "z")
    check_finite(D, "D")
    return F.conv_transpose2d(z, D)


def adjoint(x: Tensor, D: Tensor) -> Tensor:
    """Return Dᵀ x, the correlation (d_m ⋆ x)_m of each atom with the images.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images.
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.

    Returns
    -------
    Tensor, shape (B, M, H-kh+1, W-kw+1)

    Raises
    ------
    ValueError, TypeError
        If the shapes, dtypes or devices of x and D do not fit, an atom is larger than the
        image, or one holds NaN.

    Examples
    --------
    >>> import torch
    >>> D = torch.arange(4.0).view(1, 1, 2, 2)
    >>> adjoint(D, D)  # the squared norm of the atom
    tensor([[[[14.]]]])
    """
    check_pair(x, D)
    check_finite(x, "x")
    check_finite(D, "D")
    return F.conv2d(x, D)


def gram(D: Tensor) -> Tensor:
    """Return the kernel G of DᵀD, so that DᵀD z = ``conv2d(z, G, padding=(kh-1, kw-1))``.

    G_ij = d_i ⋆ d_j, summed over channels: the correlations of all pairs of atoms at all shifts.
    G is symmetric under i ↔ j together with a flip of both axes.

    Parameters
    ----------
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.

    Returns
    -------
    Tensor, shape (M, M, 2kh-1, 2kw-1)

    Raises
    ------
    ValueError, TypeError
        If D is not a non-empty dictionary of finite floating-point atoms.

    Examples
    --------
    >>> import torch
    >>> gram(torch.tensor([[[[1.0, 2.0], [0.0, 0.0]]]]))[0, 0, 1]  # 1·2, 1·1 + 2·2, 2·1
    tensor([2., 5., 2.])
    """
    check_dictionary(D)
    check_finite(D, "D")
    return F.conv2d(D, D, padding=(D.shape[2] - 1, D.shape[3] - 1))
