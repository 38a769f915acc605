"""Sparse codes as a denoiser and a prior, with the calls that libraries such as deepinv make.

:class:`Denoiser` is called as (x, σ).  :class:`SparsePrior` has the proximal operator of

    g(u) = min λ‖z‖₁  over all codes z with D z = u,

which is infinite where no codes give u.  Substituting u = D z in its definition gives

    prox_γg(x) = argmin_u ½‖u − x‖² + γ g(u) = D z*,    z* = argmin_z ½‖x − D z‖² + γ λ‖z‖₁.

So one proximal step is one sparse code.  The objective is strongly convex in u with modulus 1.  If
the codes have a duality gap ε, then ‖D z − prox_γg(x)‖ ≤ √(2ε).

References
----------
Venkatakrishnan, Bouman, Wohlberg, "Plug-and-play priors for model based reconstruction", GlobalSIP
2013.  Elad, Milanfar, Rubinstein, "Analysis versus synthesis in signal priors", Inverse Problems
23, 2007 (the synthesis prior g).
"""

import torch
from torch import Tensor, nn

from csc.checks import Weight, check_dictionary, check_weight
from csc.conv import synthesis
from csc.implicit import sparse_code
from csc.tasks import denoise, photo_dictionary


class Denoiser(nn.Module):
    """:func:`denoise` as a module with the call (x, σ), which deepinv and others take.

    Parameters
    ----------
    D : Tensor, shape (M, 1, k, k) or (M, C, k, k), optional
        Dictionary; :func:`photo_dictionary` by default.
    tol : float
        Relative gap at which the codes count as optimal.

    Examples
    --------
    >>> Denoiser()(torch.rand(2, 3, 16, 16), 0.1).shape
    torch.Size([2, 3, 16, 16])
    """

    D: Tensor

    def __init__(self, D: Tensor | None = None, *, tol: float = 1e-2) -> None:
        super().__init__()
        self.register_buffer("D", photo_dictionary() if D is None else D.detach().clone())
        self.tol = tol

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return denoised images.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
            Noisy images in [0, 1].
        sigma : float or Tensor, with 1 or B values
            Standard deviation of the noise, of all images or of each.
        """
        sigmas = torch.as_tensor(sigma, dtype=torch.float64).flatten().expand(len(x)).tolist()
        images = [
            denoise(x[i : i + 1], sigmas[i], self.D.to(x), tol=self.tol).image
            for i in range(len(x))
        ]
        return torch.cat([torch.as_tensor(image) for image in images])


class SparsePrior(nn.Module):
    """The prior λ‖z‖₁ on the codes of an image, by its proximal operator.

    Parameters
    ----------
    D : Tensor, shape (M, C, kh, kw)
        Dictionary, for images of C channels.  It must span what images hold, their mean included.
    lam : float or Tensor, shape () or (M,)
        λ > 0.
    nonneg : bool
        Require z ≥ 0.
    tol : float
        Relative gap at which the codes count as optimal.

    Attributes
    ----------
    explicit_prior : bool
        False: the value g(u) is not computed, since it is a convex problem of its own.

    Raises
    ------
    ValueError, TypeError
        If D is not a dictionary, or λ is not positive.

    Examples
    --------
    >>> from csc import random_dictionary
    >>> D = random_dictionary(8, 1, 3, generator=torch.Generator().manual_seed(0))
    >>> prior, x = SparsePrior(D, 0.1), torch.rand(1, 1, 16, 16)
    >>> prior.prox(x, gamma=0.5).shape
    torch.Size([1, 1, 16, 16])
    """

    D: Tensor
    lam: Tensor
    explicit_prior = False

    def __init__(
        self, D: Tensor, lam: Weight = 1.0, *, nonneg: bool = False, tol: float = 1e-4
    ) -> None:
        super().__init__()
        check_dictionary(D)
        weight = torch.as_tensor(lam, dtype=D.dtype)
        check_weight(weight, (1, len(D), 1, 1))
        if weight.ndim > 1:
            raise ValueError(f"lam must be a number or one per atom, got {tuple(weight.shape)}")
        if not bool((weight > 0).all()):
            raise ValueError("lam must be > 0")
        self.register_buffer("D", D.detach().clone())
        self.register_buffer("lam", weight.detach().clone())
        self.nonneg, self.tol = nonneg, tol

    def prox(self, x: Tensor, *args: object, gamma: float | Tensor = 1.0) -> Tensor:
        """Return prox_γg(x) = D z*, differentiable in x and γ.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
            Images.
        *args
            Ignored: deepinv passes the parameter of a denoiser here.
        gamma : float or Tensor
            γ > 0, the step of the proximal operator; with B values, one for each image.

        Returns
        -------
        Tensor, shape (B, C, H, W)

        Raises
        ------
        ValueError, TypeError
            As :func:`csc.sparse_code`, or if γ is not positive.
        """
        step = torch.as_tensor(gamma).to(x)
        if step.numel() not in (1, len(x)) or not bool((step > 0).all() & step.isfinite().all()):
            raise ValueError(f"gamma must be one number > 0, or one for each image, got {gamma}")
        lam = step.reshape(-1, 1, 1, 1) * self.lam.to(x).reshape(1, -1, 1, 1)
        D = self.D.to(x)
        return synthesis(sparse_code(x, D, lam, nonneg=self.nonneg, tol=self.tol), D)
