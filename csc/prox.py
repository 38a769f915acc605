"""Proximal maps of the ℓ1 norm: what a step of ISTA does after the gradient.

prox_θ(a) = argmin_v ½(v − a)² + θ|v|, entry by entry, with or without v ≥ 0.
"""

from torch import Tensor

from csc.checks import Weight, check_finite, check_images, check_weight, spread


def soft_threshold(a: Tensor, theta: Weight) -> Tensor:
    """Return sign(a) max(|a| − θ, 0), the proximal map of θ‖·‖₁.

    Computed as a − clip(a, −θ, θ), Moreau's decomposition, which is exactly zero where |a| ≤ θ.

    Parameters
    ----------
    a : Tensor, shape (B, M, h, w)
        Codes before the threshold.
    theta : float or Tensor
        Threshold θ ≥ 0: a number, one value per atom (M,), or four axes that broadcast to
        `a`.

    Returns
    -------
    Tensor, shape (B, M, h, w)

    Raises
    ------
    ValueError, TypeError
        If `a` is not a finite floating-point (B, M, h, w), or θ is negative, NaN, infinite or
        misshapen.

    Examples
    --------
    >>> import torch
    >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]).view(1, 1, 1, 3), 1.0).flatten()
    tensor([-2.,  0.,  1.])
    """
    check_images(a, "a")
    check_finite(a, "a")
    check_weight(theta, a.shape, "theta")
    return shrink(a, spread(theta, a), nonneg=False)


def nonneg_soft_threshold(a: Tensor, theta: Weight) -> Tensor:
    """Return max(a − θ, 0), the proximal map of θ‖·‖₁ plus the constraint z ≥ 0.

    With θ = 0 this is the ReLU of the paper's eq. 10.

    Parameters
    ----------
    a : Tensor, shape (B, M, h, w)
        Codes before the threshold.
    theta : float or Tensor
        Threshold θ ≥ 0: a number, one value per atom (M,), or four axes that broadcast to
        `a`.

    Returns
    -------
    Tensor, shape (B, M, h, w)

    Raises
    ------
    ValueError, TypeError
        If `a` is not a finite floating-point (B, M, h, w), or θ is negative, NaN, infinite or
        misshapen.

    Examples
    --------
    >>> import torch
    >>> nonneg_soft_threshold(torch.tensor([-3.0, 0.5, 2.0]).view(1, 1, 1, 3), 1.0).flatten()
    tensor([0., 0., 1.])
    """
    check_images(a, "a")
    check_finite(a, "a")
    check_weight(theta, a.shape, "theta")
    return shrink(a, spread(theta, a), nonneg=True)


def shrink(a: Tensor, theta: Tensor, *, nonneg: bool) -> Tensor:
    """Apply either map without checks; θ broadcasts against `a`. For the inside of loops."""
    if nonneg:
        return (a - theta).relu_()
    if theta.numel() == 1 and theta.device.type == "cpu" and not theta.requires_grad:
        return a - a.clamp(-theta.item(), theta.item())  # three times faster than with tensors
    return a - a.clamp(-theta, theta)
