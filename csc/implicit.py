"""Sparse coding as a layer: gradients of the minimiser in x, D and λ, for any solver.

Let z minimise ½‖m ⊙ (x − D z)‖² + Σ λ|z|, optionally with z ≥ 0; m is 1 at known pixels.  On the
support S of z, with signs s and residual r = m ⊙ (x − D z), optimality reads

    D_Sᵀ r = λ_S s_S.

Small changes leave S and s unchanged, almost everywhere.  Differentiating this equation turns the
gradient g of a loss ℓ in z into gradients in x, D and λ, by one linear system:

    (D_Sᵀ m D_S) v_S = g_S,   v = 0 off S,        u = m ⊙ D v,
    ∂ℓ/∂x = u,        ∂ℓ/∂λ = −s v,        ∂ℓ/∂D = ∂/∂D (⟨D v, r⟩ − ⟨D z, u⟩),

with z, v, r and u held fixed in the last derivative.  The solver's steps are not stored, so the
memory is that of the codes.

Conjugate residuals solve the system by convolutions.  The system is scaled to a unit diagonal, and
each image has a step size of its own.

References
----------
Bertrand, Klopfenstein, Massias, Blondel, Vaiter, Gramfort, Salmon, "Implicit differentiation for
fast hyperparameter selection in non-smooth convex learning", JMLR 23, 2022.  Mairal, Bach, Ponce,
"Task-driven dictionary learning", IEEE TPAMI 34(4), 2012 (the gradient in D).  Liu, Milzarek,
Roosta, "Obtaining pseudo-inverse solutions with MINRES", arXiv 2309.17096, 2023 (singular systems).
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from csc.checks import Weight, check_number, check_pair, check_weight
from csc.dictionary import unit_norm
from csc.problem import check_fits, pose
from csc.solvers.cd import coordinate_descent
from csc.solvers.protocol import Solver

MOST_STEPS = 2000  # of conjugate residuals


def sparse_code(
    x: Tensor,
    D: Tensor,
    lam: Weight,
    *,
    nonneg: bool = False,
    mask: Tensor | None = None,
    solver: Solver = coordinate_descent,
    max_iter: int = 10_000,
    tol: float = 1e-5,
) -> Tensor:
    """Return z = argmin ½‖m ⊙ (x − D z)‖² + Σ λ|z|, differentiable in x, D and λ.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images; each is a problem of its own.
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.
    lam : float or Tensor, shape () or (M,), or broadcasting to (B, M, H-kh+1, W-kw+1)
        Weight λ > 0; a tensor may require a gradient.
    nonneg : bool
        Require z ≥ 0.
    mask : Tensor, bool, broadcasting to (B, C, H, W), optional
        True where a pixel is known; x may hold any value elsewhere.
    solver : callable
        A solver with the signature of :func:`csc.ista`.  It is called without gradients.
    max_iter : int
        Largest number of steps of the solver.
    tol : float
        Relative gap at which the solver stops, and relative residual of the backward pass.

    Returns
    -------
    Tensor, shape (B, M, H-kh+1, W-kw+1)

    Raises
    ------
    ValueError, TypeError
        As in the solver and :func:`attach_gradients`.

    Warns
    -----
    RuntimeWarning
        If the solver stops before it reaches `tol`, because the gradients hold at the optimum only.
        :func:`attach_gradients` has further warnings.

    Notes
    -----
    v depends on z only through its support, so the support must be right.  The gradient in D also
    inherits the error of z.  On a photograph the gradients had errors of 1e-3 at the default `tol`,
    in float32 and float64, and of 1e-1 at a `tol` of 1e-3.  float32 certifies down to about 1e-5.

    Examples
    --------
    >>> import torch
    >>> from csc import random_dictionary, synthesis
    >>> g = torch.Generator().manual_seed(0)
    >>> D = random_dictionary(8, 1, 3, generator=g)
    >>> x = torch.rand(1, 1, 16, 16, generator=g)
    >>> lam = torch.tensor(0.5, requires_grad=True)
    >>> error = (synthesis(sparse_code(x, D, lam), D) - x).square().sum()
    >>> error.backward()
    >>> bool(lam.grad > 0)  # more weight, more error
    True
    """
    check_pair(x, D)
    weight = lam.detach() if isinstance(lam, Tensor) else lam
    solution = solver(
        x.detach(), D.detach(), weight, nonneg=nonneg, mask=mask, max_iter=max_iter, tol=tol
    )
    if not solution.converged:
        warnings.warn(
            f"the solver stopped after {solution.iterations} steps at a relative gap of "
            f"{float(solution.relative_gap.max()):.1e}, above tol={tol:.1e}; the gradients hold at "
            "the optimum only; raise max_iter or tol (float32 certifies down to about 1e-5)",
            RuntimeWarning,
            stacklevel=2,
        )
    return attach_gradients(x, D, solution.codes, lam, mask=mask, tol=tol)


def attach_gradients(
    x: Tensor,
    D: Tensor,
    z: Tensor,
    lam: Weight,
    *,
    mask: Tensor | None = None,
    tol: float = 1e-5,
) -> Tensor:
    """Return z with implicit gradients in x, D and λ attached.

    Use it for codes from elsewhere; :func:`sparse_code` calls a solver and then this.  z must be
    optimal, which is not checked.  The gradients are the same with the constraint z ≥ 0.

    Parameters
    ----------
    x, D, lam, mask
        The problem, as in :func:`sparse_code`.
    z : Tensor, shape (B, M, H-kh+1, W-kw+1)
        Minimisers, exactly zero off their support, taken as constants.
    tol : float
        Relative residual at which the backward pass stops solving its linear system.  Values below
        10 ε of the dtype count as 10 ε.

    Returns
    -------
    Tensor, shape (B, M, H-kh+1, W-kw+1)
        Differentiable once.

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or devices do not fit, or a tensor holds NaN at a known pixel.

    Warns
    -----
    RuntimeWarning
        In the backward pass, if the atoms at the non-zero codes are linearly dependent and the
        loss depends on how they split the image.  Then z is not unique and has no gradient; the
        result uses the v of minimum norm, with codes measured in unit-norm atoms.  It also warns
        if `MOST_STEPS` steps do not solve the linear system to `tol`.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor(3.0, requires_grad=True).view(1, 1, 1, 1)
    >>> D = torch.tensor(2.0, requires_grad=True)
    >>> lam = torch.tensor(0.5, requires_grad=True)
    >>> z = (D.detach() * x.detach() - lam.detach()) / D.detach() ** 2  # (d x − λ)/d²
    >>> z = attach_gradients(x, D.view(1, 1, 1, 1), z, lam)
    >>> z.item(), [g.item() for g in torch.autograd.grad(z.sum(), (x, D, lam))]
    (1.375, [0.5, -0.625, -0.25])
    """
    p = pose(x, D, lam, mask=mask)
    check_fits(p, z)
    check_number(tol, "tol")
    # λ in the shape of the codes; autograd sums its gradient back to the original shape.
    weight = p.lam.expand_as(z)
    codes: Tensor = _Optimum.apply(p.x, D, z.detach(), weight, p.mask, tol)  # type: ignore[no-untyped-call]
    return codes


class SparseCoding(nn.Module):
    """Map images to z = argmin ½‖x − D z‖² + λ‖z‖₁, with trainable D and λ.

    The parameters are D and log λ.  The atoms are used at unit norm, because larger atoms would
    evade λ.  The logarithm keeps λ > 0.

    Parameters
    ----------
    D : Tensor, shape (M, C, kh, kw)
        Initial dictionary, copied.
    lam : float or Tensor, shape () or (M,)
        Initial weight λ > 0, copied.
    nonneg : bool
        Require z ≥ 0.
    solver, max_iter, tol
        As in :func:`sparse_code`.

    Raises
    ------
    ValueError, TypeError
        If D is not a finite dictionary, an atom is zero, or λ is not finite and > 0.

    Examples
    --------
    >>> import torch
    >>> from csc import random_dictionary
    >>> layer = SparseCoding(random_dictionary(4, 1, 3), lam=0.1)
    >>> layer(torch.zeros(1, 1, 8, 8)).shape, sorted(dict(layer.named_parameters()))
    (torch.Size([1, 4, 6, 6]), ['D', 'log_lam'])
    """

    D: Tensor
    log_lam: Tensor

    def __init__(
        self,
        D: Tensor,
        lam: Weight,
        *,
        nonneg: bool = False,
        solver: Solver = coordinate_descent,
        max_iter: int = 10_000,
        tol: float = 1e-5,
    ) -> None:
        super().__init__()
        unit_norm(D)  # refuses atoms that are zero
        check_weight(lam, (1, D.shape[0], 1, 1), dtype=D.dtype)
        weight = torch.as_tensor(lam, dtype=D.dtype, device=D.device).detach()
        if not bool((weight > 0).all()):
            raise ValueError(f"lam must be > 0, because its logarithm is learned; got {lam}")
        self.D = nn.Parameter(D.detach().clone())
        self.log_lam = nn.Parameter(weight.log())
        self.nonneg = nonneg
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol

    @property
    def atoms(self) -> Tensor:
        """Return the dictionary of unit-norm atoms (M, C, kh, kw), differentiable in D."""
        return unit_norm(self.D)

    @property
    def lam(self) -> Tensor:
        """Return the weight λ = exp(log λ), shape () or (M,)."""
        return self.log_lam.exp()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W) to codes (B, M, H-kh+1, W-kw+1)."""
        return sparse_code(
            x,
            self.atoms,
            self.lam,
            nonneg=self.nonneg,
            mask=mask,
            solver=self.solver,
            max_iter=self.max_iter,
            tol=self.tol,
        )

    def extra_repr(self) -> str:
        """Describe the layer in ``print(layer)``."""
        M, C, kh, kw = self.D.shape
        return f"M={M}, C={C}, k={kh}x{kw}, nonneg={self.nonneg}, tol={self.tol}"


class _Optimum(torch.autograd.Function):
    """The identity on z, with implicit differentiation as its backward pass."""

    @staticmethod
    def forward(
        x: Tensor, D: Tensor, z: Tensor, lam: Tensor, mask: Tensor | None, tol: float
    ) -> Tensor:
        return z.clone()

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, float],
        output: Tensor,
    ) -> None:
        x, D, z, _, mask, ctx.tol = inputs
        ctx.save_for_backward(x, D, z, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, D, z, mask = ctx.saved_tensors
        v = _solve_on_support(g, z != 0, D, x, mask, ctx.tol)
        u = _known(F.conv_transpose2d(v, D), mask)
        grad_D = None
        if ctx.needs_input_grad[1]:
            r = _known(x - F.conv_transpose2d(z, D), mask)
            grad_D = gradient_in_dictionary(D.shape, z=z, v=v, r=r, u=u)
        return u, grad_D, None, -z.sign() * v, None, None


def gradient_in_dictionary(
    shape: torch.Size, *, z: Tensor, v: Tensor, r: Tensor, u: Tensor
) -> Tensor:
    """Return ∂/∂D (⟨D v, r⟩ − ⟨D z, u⟩) with z, v, r and u held, in the shape of D."""
    return _correlate(r, v, shape) - _correlate(u, z, shape)


def _solve_on_support(
    g: Tensor, support: Tensor, D: Tensor, x: Tensor, mask: Tensor | None, tol: float
) -> Tensor:
    """Solve (D_Sᵀ m D_S) v_S = g_S, and return v, zero off the support."""
    known = _known(torch.ones_like(x), mask)
    diagonal = F.conv2d(known, D.square())  # ‖d_m‖² over the known pixels, (B, M, h, w)
    scale = torch.where(support & (diagonal > 0), diagonal.rsqrt(), 0.0)

    def synthesis(v: Tensor) -> Tensor:
        return _known(F.conv_transpose2d(scale * v, D), mask)

    def adjoint(u: Tensor) -> Tensor:
        return scale * F.conv2d(u, D)

    return scale * _conjugate_residuals(synthesis, adjoint, scale * g, tol)


def _conjugate_residuals(
    synthesis: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    g: Tensor,
    tol: float,
) -> Tensor:
    """Return A⁺g of each image, for A = adjoint ∘ synthesis of norm about 1 or more.

    Conjugate residuals minimise ‖g − A v‖ over the Krylov space of conjugate gradients.  They
    converge even if g is not in the range of A.  The residual ρ then lies in the null space of A.
    The part of v in the null space is a multiple of ρ, and is subtracted at the end.
    """
    eps = torch.finfo(g.dtype).eps
    tol = max(tol, 10 * eps)
    size = g.abs().amax((1, 2, 3), keepdim=True)
    g = g / torch.where(size > 0, size, 1.0)  # the squares of a small float32 would vanish
    goal = tol * _norm(g)
    v, r, p = torch.zeros_like(g), g, g
    u = synthesis(r)
    Ar = Ap = adjoint(u)
    rAr = _inner(u, u)  # ⟨r, A r⟩, without the cancellation of a small A r and a large r
    for _ in range(MOST_STEPS):
        solved, stuck = ~(_norm(r) > goal), _norm(Ar) <= eps**0.75 * _norm(r)
        done = solved | stuck
        if bool(done.all()):
            break
        step = torch.where(done, 0.0, rAr / _inner(Ap, Ap))
        v, r = v + step * p, r - step * Ap
        u = synthesis(r)
        Ar = adjoint(u)
        previous, rAr = rAr, _inner(u, u)
        turn = torch.where(done, 0.0, rAr / previous)
        p, Ap = r + turn * p, Ar + turn * Ap
    else:
        worst = float((_norm(r) / _norm(g)).nan_to_num().max())
        warnings.warn(
            f"the gradient of the codes has a relative residual of {worst:.1e} after {MOST_STEPS} "
            f"steps, above {tol:.1e}: atoms at the non-zero codes are nearly dependent; raise lam "
            "or use float64",
            RuntimeWarning,
            stacklevel=2,
        )
    dependent = stuck & ~solved
    if bool(dependent.any()):
        warnings.warn(
            "atoms at the non-zero codes are linearly dependent, so the codes are not unique and "
            "have no gradient; the gradients returned use the minimum-norm v; remove duplicate "
            "atoms, raise lam, or let the loss depend on D z only",
            RuntimeWarning,
            stacklevel=2,
        )
        v = torch.where(dependent, v - _inner(v, r) / _inner(r, r) * r, v)
    return size * v  # NaN for a g that is not finite


def _correlate(image: Tensor, codes: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradient in D of ⟨D codes, image⟩."""
    correlation: Tensor = conv2d_weight(image, shape, codes)  # type: ignore[no-untyped-call]
    return correlation


def _known(image: Tensor, mask: Tensor | None) -> Tensor:
    return image if mask is None else image * mask


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2, 3), keepdim=True)


def _norm(a: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(a, dim=(1, 2, 3), keepdim=True)
    return norm
