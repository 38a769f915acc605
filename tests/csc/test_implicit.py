import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Lasso
from torch import Tensor
from torch.nn import functional as F

from csc import (
    Solution,
    SparseCoding,
    attach_gradients,
    coordinate_descent,
    fista,
    implicit,
    lam_max,
    random_dictionary,
    sparse_code,
    synthesis,
    unit_norm,
)
from csc.solution import Status
from csc.solvers.protocol import Solver
from tests.laws import close, dense
from tests.strategies import Problem, problems


def exact(
    x: Tensor,
    D: Tensor,
    lam: float | Tensor,
    *,
    nonneg: bool,
    max_iter: int,
    tol: float,
    mask: Tensor | None = None,
) -> Solution:
    """A solver to rounding, apart from the library: scikit-learn's support, then a dense solve."""
    B, (M, _, kh, kw) = x.shape[0], D.shape
    shape = (B, M, x.shape[2] - kh + 1, x.shape[3] - kw + 1)
    weights = torch.as_tensor(lam, dtype=x.dtype)
    weights = weights[:, None, None] if weights.ndim == 1 else weights
    weights = weights.expand(shape).flatten(1).numpy()
    known = np.ones(x[0].numel(), bool)
    codes = np.zeros((B, weights.shape[1]))
    for b in range(B):
        if mask is not None:
            known = mask.expand_as(x)[b].flatten().numpy()
        A, y, w = (
            dense(D, (x.shape[2], x.shape[3]))[known],
            x[b].flatten().numpy()[known],
            weights[b],
        )
        model = Lasso(
            alpha=1 / y.size, fit_intercept=False, positive=nonneg, tol=1e-12, max_iter=100_000
        )
        signs = np.sign(model.fit(A / w, y).coef_)
        S = signs != 0
        codes[b, S] = np.linalg.solve(A[:, S].T @ A[:, S], A[:, S].T @ y - (w * signs)[S])
        # Optimal, and a small change of the problem leaves the support as it is.
        assert (codes[b, S] * signs[S] > 1e-4).all()
        slack = (A.T @ (y - A @ codes[b]) / w)[~S]
        assert ((slack if nonneg else np.abs(slack)) < 1 - 1e-4).all()
    nothing = torch.zeros(B, dtype=torch.float64)
    return Solution(
        torch.from_numpy(codes).view(shape), nothing, nothing, 0, (Status.CONVERGED,) * B
    )


def fixed_problem(seed: int = 0, share: float = 0.3) -> tuple[Tensor, Tensor, float]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 2, 6, 5, generator=g, dtype=torch.float64)
    D = random_dictionary(3, 2, 3, generator=g, dtype=torch.float64)
    D = D * torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)[:, None, None, None]
    return x, D, share * lam_max(x, D)


def pixels(x: Tensor, seed: int = 5) -> Tensor:
    """A mask of its own for each image, the same for its channels; about 4/5 are known."""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(x[:, :1].shape, generator=g) < 0.8


def weights_of(kind: str, lam: float, shape: tuple[int, ...]) -> Tensor:
    sizes = {"number": (), "atom": (shape[1],), "place": (1, 1, *shape[2:]), "code": shape}
    g = torch.Generator().manual_seed(3)
    return lam * (0.7 + 0.6 * torch.rand(sizes[kind], generator=g, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["number", "atom", "place", "code"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("nonneg", [False, True])
def test_gradients_are_finite_differences(nonneg: bool, masked: bool, kind: str) -> None:
    """Of x, D and λ, for two images of two channels, each with a support of its own."""
    x, D, lam = fixed_problem()
    weight = weights_of(kind, lam, (2, 3, 4, 3))
    mask = pixels(x) if masked else None
    inputs = [t.requires_grad_() for t in (x, D, weight)]

    def solve(x: Tensor, D: Tensor, lam: Tensor) -> Tensor:
        return sparse_code(x, D, lam, nonneg=nonneg, mask=mask, solver=exact, tol=1e-12)

    z = solve(*inputs)
    assert (z != 0).flatten(1).any(1).all()
    assert bool((z >= 0).all()) == nonneg
    assert torch.autograd.gradcheck(solve, inputs, fast_mode=True)


def test_every_single_derivative_is_a_finite_difference() -> None:
    x, D, lam = fixed_problem()
    inputs = [t[:1].requires_grad_() for t in (x, D[2:], torch.tensor([lam]).double())]
    assert torch.autograd.gradcheck(lambda *t: sparse_code(*t, solver=exact, tol=1e-12), inputs)


@given(problems(), st.booleans(), st.integers(0, 2**16))
def test_gradients_are_those_of_dense_matrices(p: Problem, masked: bool, seed: int) -> None:
    """For any codes: v by a pseudo-inverse in units of unit norm, ∂ℓ/∂D along a random direction.

    The loss is a function of D z at the known pixels, so there is a v if atoms are dependent.
    """
    g = torch.Generator().manual_seed(seed)
    D = p.D * (0.5 + torch.rand(len(p.D), generator=g, dtype=torch.float64))[:, None, None, None]
    z = p.draw_codes(seed) * (torch.rand(p.code_shape, generator=g) < 0.2)
    mask = pixels(p.x, seed) if masked else None
    known = torch.ones_like(p.x) if mask is None else mask.expand_as(p.x).double()
    image, direction = (torch.randn(t.shape, generator=g, dtype=t.dtype) for t in (p.x, D))
    inputs = [t.clone().requires_grad_() for t in (p.x, D, torch.full_like(z, p.lam))]

    out = attach_gradients(*inputs[:2], z, inputs[2], mask=mask, tol=1e-13)
    assert torch.equal(out, z)
    x_grad, D_grad, lam_grad = torch.autograd.grad(out, inputs, F.conv2d(known * image, D))

    A, dA, slope = dense(D, p.size), dense(direction, p.size), 0.0
    for b in range(len(z)):
        code, m = z[b].flatten().numpy(), known[b].flatten().numpy()
        S = code != 0
        B = m[:, None] * A[:, S]
        norm = np.sqrt((B**2).sum(0))
        norm[norm == 0] = 1.0
        v = np.linalg.pinv(B / norm, rcond=1e-9) @ image[b].flatten().numpy() / norm
        u, r = B @ v, m * (p.x[b].flatten().numpy() - A @ code)
        by_weight = np.zeros_like(code)
        by_weight[S] = -np.sign(code[S]) * v
        close(x_grad[b].flatten(), torch.from_numpy(u), 1e-7)
        close(lam_grad[b].flatten(), torch.from_numpy(by_weight), 1e-7)
        slope += r @ dA[:, S] @ v - u @ dA[:, S] @ code[S]
    assert float((D_grad * direction).sum()) == pytest.approx(slope, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("solver", [coordinate_descent, fista])
@pytest.mark.parametrize("nonneg", [False, True])
def test_any_solver_gives_the_gradients_of_the_exact_one(solver: Solver, nonneg: bool) -> None:
    x, D, lam = fixed_problem(share=0.4)
    expected, got = (
        gradients(x, D, torch.tensor(lam).double(), nonneg=nonneg, solver=s, tol=1e-9)
        for s in (exact, solver)
    )
    for a, b in zip(got, expected, strict=True):
        close(a, b, 1e-5)


def gradients(x: Tensor, D: Tensor, lam: Tensor, **options: object) -> tuple[Tensor, ...]:
    """Of a loss that every code matters to."""
    inputs = [t.detach().clone().requires_grad_() for t in (x, D, lam)]
    z = sparse_code(*inputs, **options)
    ramp = torch.linspace(1, 2, z[0].numel()).to(z).view_as(z[0])
    return torch.autograd.grad((ramp * z.square()).sum(), inputs)


@pytest.mark.parametrize("solver", [coordinate_descent, fista])
def test_the_solvers_of_the_library_take_masks_and_weights(solver: Solver) -> None:
    x, D, lam = fixed_problem()
    mask, weight = pixels(x), weights_of("code", lam, (2, 3, 4, 3))
    image = torch.where(mask, x, torch.nan)  # what is not known does not matter
    inputs = [t.requires_grad_() for t in (image, D, weight)]
    g = torch.Generator().manual_seed(1)
    loss = torch.randn(2, 3, 4, 3, generator=g, dtype=torch.float64)
    grads = []
    for solve, tol in ((exact, 1e-12), (solver, 1e-11)):
        z = sparse_code(*inputs, mask=mask, solver=solve, tol=tol, max_iter=100_000)
        grads.append((z, *torch.autograd.grad((loss * z).sum(), inputs)))
    for found, expected in zip(grads[1], grads[0], strict=True):
        close(found, expected, 1e-5)


def test_weights_that_are_one_share_one_gradient() -> None:
    x, D, lam = fixed_problem()
    full = gradients(x, D, torch.full((2, 3, 4, 3), lam, dtype=x.dtype), solver=exact)[2]
    for kind, dims in (("atom", (0, 2, 3)), ("place", (0, 1)), ("number", (0, 1, 2, 3))):
        weight = torch.full_like(weights_of(kind, lam, full.shape), lam)
        got = gradients(x, D, weight, solver=exact)[2]
        close(got, full.sum(dims).view(weight.shape), 1e-12)


def test_images_of_a_batch_do_not_mix() -> None:
    x, D, lam = fixed_problem()
    x = torch.cat([x, 0.01 * x[:1]])  # the third has no code and no gradient
    weight, mask = weights_of("atom", lam, (3, 3)), pixels(x)
    together = gradients(x, D, weight, mask=mask, solver=exact, tol=1e-12)
    alone = [
        gradients(x[b : b + 1], D, weight, mask=mask[b : b + 1], solver=exact, tol=1e-12)
        for b in range(3)
    ]
    for got, parts in zip(together, zip(*alone, strict=True), strict=True):
        close(got, torch.cat(parts) if got.shape == x.shape else sum(parts), 1e-9)
    assert not together[0][2].any()
    assert together[0][:2].any()


def test_codes_off_the_support_have_no_gradient() -> None:
    x, D, lam = fixed_problem()
    inputs = [t.requires_grad_() for t in (x, D, torch.tensor(lam).double())]
    z = sparse_code(*inputs, solver=exact)
    for grad in torch.autograd.grad((z * (z == 0)).sum() + 0 * z.sum(), inputs):
        assert not grad.any()


def test_unknown_pixels_neither_count_nor_get_a_gradient() -> None:
    x, D, lam = fixed_problem()
    mask = pixels(x)
    expected = gradients(x, D, torch.tensor(lam).double(), mask=mask, solver=exact)
    spoilt = torch.where(mask, x, torch.nan)
    got = gradients(spoilt, D, torch.tensor(lam).double(), mask=mask, solver=exact)
    for a, b in zip(got, expected, strict=True):
        close(a, b, 1e-12)
    assert not got[0][~mask.expand_as(x)].any()


def test_the_loss_of_a_reconstruction_is_flat_in_the_unknown_scale_of_an_atom() -> None:
    """(s d, λ s) has codes z/s and the same D z: the slope along this change is zero."""
    x, D, lam = fixed_problem()
    inputs = [t.requires_grad_() for t in (x, D, torch.full((3,), lam, dtype=x.dtype))]
    image = F.conv_transpose2d(sparse_code(*inputs, solver=exact, tol=1e-12), inputs[1])
    _, d, w = torch.autograd.grad((image - x.detach()).pow(4).sum(), inputs)
    assert w.abs().max() > 0.1
    close((d * D).sum((1, 2, 3)) + w * lam, torch.zeros(3).double(), 1e-8)


def test_dependent_atoms_are_told_and_get_the_minimum_norm() -> None:
    """Twice the same atom shares the codes: the gradient is split, the rest has no solution."""
    x, D, lam = fixed_problem()
    z = exact(x, D, lam, nonneg=False, max_iter=1, tol=0).codes
    half = torch.cat([z / 2, z / 2], 1)
    twice = torch.cat([D, D]).requires_grad_()
    g = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).double()
    D.requires_grad_()
    (single,) = torch.autograd.grad(attach_gradients(x, D, z, lam, tol=1e-13), D, g)
    both = attach_gradients(x, twice, half, lam, tol=1e-13)
    (got,) = torch.autograd.grad(both, twice, torch.cat([g, g], 1))  # consistent: no warning
    close(got[:3] + got[3:], single, 1e-8)
    both = attach_gradients(x, twice, half, lam, tol=1e-13)
    uneven = torch.cat([2 * g, 0 * g], 1)  # the mean is the consistent part
    with pytest.warns(RuntimeWarning, match="linearly dependent, so the codes are not unique"):
        (minimal,) = torch.autograd.grad(both, twice, uneven)
    close(minimal, got, 1e-8)


@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 2**16))
def test_conjugate_residuals_apply_the_pseudo_inverse(n: int, rank: int, seed: int) -> None:
    """For any rank and any right-hand side, in a batch of two of different scale."""
    g = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))[0]
    eigenvalues = (1 + torch.rand(n, generator=g, dtype=torch.float64)) * (torch.arange(n) < rank)
    B = eigenvalues.sqrt()[:, None] * Q.T
    b = torch.randn(2, n, 1, 1, generator=g, dtype=torch.float64)
    b[1] *= 1e-6
    steps = 0

    def synthesis(v: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        return torch.einsum("ij,bjkl->bikl", B, v)

    def adjoint(u: Tensor) -> Tensor:
        return torch.einsum("ji,bjkl->bikl", B, u)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        v = implicit._conjugate_residuals(synthesis, adjoint, b, 1e-13)
    assert steps <= rank + 4  # one for each eigenvalue, but for rounding
    expected = torch.einsum("ij,bjkl->bikl", torch.linalg.pinv(B.T @ B, rtol=1e-9), b)
    close(v[0], expected[0], 1e-9)
    close(1e6 * v[1], 1e6 * expected[1], 1e-9)


def test_a_system_that_is_not_solved_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    x, D, lam = fixed_problem()
    monkeypatch.setattr(implicit, "MOST_STEPS", 2)
    with pytest.warns(RuntimeWarning, match=r"residual of .* after 2 steps, above 1\.0e-05"):
        gradients(x, D, torch.tensor(lam).double(), solver=exact)


def test_codes_of_separate_atoms_take_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaled by ‖d_m‖² over the known pixels, their system is the identity.

    Atoms of norms from 0.01 to 100, some of them half masked, none of them overlapping.
    """
    g = torch.Generator().manual_seed(4)
    norms = torch.logspace(-2, 2, 4, dtype=torch.float64)[:, None, None, None]
    D = norms * random_dictionary(4, 1, 2, generator=g, dtype=torch.float64)
    z = torch.zeros(1, 4, 7, 7, dtype=torch.float64)
    for m in range(4):
        z[0, m, 2 * m, [0, 2, 4]] = 1.0
    x = torch.randn(1, 1, 8, 8, generator=g, dtype=torch.float64).requires_grad_()
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    mask[..., ::2, 2] = False  # the left upper pixel of one code of each atom
    mask[..., :2, 4:6] = False  # all of one code
    monkeypatch.setattr(implicit, "MOST_STEPS", 2)  # the second finds the first enough
    loss = torch.randn(z.shape, generator=g, dtype=torch.float64)
    loss[0, 0, 0, 4] = 0  # a code without known pixels has no gradient
    (found,) = torch.autograd.grad(attach_gradients(x, D, z, 0.1, mask=mask), x, loss)
    known, expected = mask[0, 0].double(), torch.zeros(8, 8, dtype=torch.float64)
    for _, m, p, q in z.nonzero().tolist():
        atom = D[m, 0] * known[p : p + 2, q : q + 2]
        if atom.any():
            v = loss[0, m, p, q] / atom.square().sum()
            expected[p : p + 2, q : q + 2] += v * atom
    close(found[0, 0], expected, 1e-9)


def test_a_solver_that_stops_early_is_told() -> None:
    x, D, lam = fixed_problem()
    with pytest.warns(
        RuntimeWarning, match=r"stopped after 3 steps at a relative gap of .*tol=1\.0e-05"
    ):
        sparse_code(x, D, lam, solver=fista, max_iter=3)


def test_it_differentiates_once() -> None:
    x, D, lam = fixed_problem()
    x.requires_grad_()
    z = sparse_code(x, D, lam, solver=exact)
    (grad,) = torch.autograd.grad(z.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_nothing_to_differentiate_costs_nothing() -> None:
    x, D, lam = fixed_problem()
    z = sparse_code(x, D, lam, solver=exact)
    assert not z.requires_grad
    assert not attach_gradients(x, D, z.requires_grad_(), lam).requires_grad
    D.requires_grad_()
    assert sparse_code(x, D, lam, solver=exact).requires_grad


def test_float32_agrees_and_weights_keep_their_type() -> None:
    x, D, lam = fixed_problem(share=0.4)
    weight = torch.tensor(lam).double()
    single = gradients(x.float(), D.float(), weight, solver=fista, max_iter=5000)
    assert [t.dtype for t in single] == [torch.float32, torch.float32, torch.float64]
    for a, b in zip(single, gradients(x, D, weight, solver=exact), strict=True):
        close(a.double(), b, 2e-2)


def test_the_gradient_is_linear_in_that_of_the_loss_at_any_scale() -> None:
    """Also where the squares of float32 vanish or overflow; what is not finite stays in sight."""
    x, D, lam = fixed_problem()
    z = exact(x, D, lam, nonneg=False, max_iter=1, tol=0).codes.float()
    x = x.float().requires_grad_()
    ones = torch.ones_like(z)

    def carried(g: Tensor) -> Tensor:
        return torch.autograd.grad(attach_gradients(x, D.float(), z, lam), x, g)[0]

    for scale in (1e-30, 1e-10, 1e25):
        close(carried(scale * ones) / scale, carried(ones), 1e-4)
    for bad in (torch.nan, torch.inf):
        grad = carried(torch.where(torch.arange(2).view(2, 1, 1, 1) == 0, bad, ones))
        assert grad[0].isnan().all()
        close(grad[1], carried(ones)[1], 1e-6)


def test_descent_on_the_weight_finds_a_good_denoiser() -> None:
    """Within a tenth of the error of a search over λ, on an image with noise."""
    g = torch.Generator().manual_seed(2)
    D = random_dictionary(4, 1, 3, generator=g, dtype=torch.float64)
    codes = (
        3 * torch.rand(1, 4, 12, 12, generator=g) * (torch.rand(1, 4, 12, 12, generator=g) < 0.05)
    )
    clean = synthesis(codes.double(), D)
    x = clean + 0.2 * torch.randn(clean.shape, generator=g, dtype=torch.float64)

    def error(lam: Tensor) -> Tensor:
        z = sparse_code(x, D, lam, solver=fista, tol=1e-6)
        return (F.conv_transpose2d(z, D) - clean).square().sum()

    searched = min(float(error(lam)) for lam in torch.linspace(0.05, 1.0, 20).double())
    theta = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    start = float(error(theta.detach().exp()))
    optimizer = torch.optim.Adam([theta], lr=0.15)
    for _ in range(20):
        optimizer.zero_grad()
        error(theta.exp()).backward()
        optimizer.step()
    assert 2 * searched < start
    assert float(error(theta.detach().exp())) < 1.1 * searched


def layer(nonneg: bool = False, share: float = 0.1) -> tuple[SparseCoding, Tensor]:
    x, D, _ = fixed_problem()
    lam = share * lam_max(x, unit_norm(D))
    return SparseCoding(D, lam, nonneg=nonneg, solver=fista), x


def test_training_a_layer_lowers_its_reconstruction_error() -> None:
    net, x = layer(share=0.3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (F.conv_transpose2d(net(x), net.atoms) - x).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("nonneg", [False, True])
def test_a_layer_is_sparse_code_with_unit_norm_atoms(nonneg: bool) -> None:
    net, x = layer(nonneg)
    z = sparse_code(x, unit_norm(net.D), float(net.lam.detach()), nonneg=nonneg, solver=fista)
    close(net(x), z, 1e-9)
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_a_layer_passes_a_mask_on() -> None:
    net, x = layer()
    net.solver = exact
    mask = pixels(x)
    z = exact(x, net.atoms.detach(), net.lam.detach(), nonneg=False, max_iter=1, tol=0, mask=mask)
    close(net(x, mask), z.codes, 1e-9)


def test_layers_are_copied_and_restored() -> None:
    D = torch.ones(2, 1, 2, 2)
    net = SparseCoding(D, torch.tensor([0.1, 0.2]))
    twin, other = copy.deepcopy(net), SparseCoding(torch.rand(2, 1, 2, 2), torch.ones(2))
    other.load_state_dict(net.state_dict())
    D.zero_()
    with torch.no_grad():
        net.log_lam.add_(1.0)
    assert net.D.all()
    for kept in (twin, other):
        close(kept.lam.detach(), torch.tensor([0.1, 0.2]), 1e-6)
        assert torch.equal(kept.D.detach(), torch.ones(2, 1, 2, 2))
    assert repr(net) == "SparseCoding(M=2, C=1, k=2x2, nonneg=False, tol=1e-05)"


def test_bad_input_is_named() -> None:
    x, D, z = torch.ones(2, 1, 5, 5), torch.ones(3, 1, 2, 2), torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"have shape \(2, 3, 4, 4\), got \(1, 3, 4, 4\)"):
        attach_gradients(x, D, z[:1], 0.1)
    for lam in (torch.ones(2), torch.ones(4, 4), torch.ones(3, 1, 1), torch.ones(1, 1, 5, 4)):
        with pytest.raises(ValueError, match=rf"one value per atom, .*got shape \({lam.shape[0]},"):
            attach_gradients(x, D, z, lam)
    with pytest.raises(ValueError, match="x has 50 NaN"):
        attach_gradients(x * torch.nan, D, z, 0.1)
    with pytest.raises(ValueError, match="z has 96 NaN"):
        attach_gradients(x, D, z * torch.nan, 0.1)
    with pytest.raises(TypeError, match="x is torch.float32 on cpu but D is torch.float64"):
        attach_gradients(x, D.double(), z, 0.1)
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        attach_gradients(x, D, z, 0.1, mask=x)
    with pytest.raises(ValueError, match=r"broadcast to the images \(2, 1, 5, 5\), got \(5, 5\)"):
        attach_gradients(x, D, z, 0.1, mask=x[0, 0] > 0)
    with pytest.raises(ValueError, match="tol must be finite and ≥ 0, got -1"):
        attach_gradients(x, D, z, 0.1, tol=-1.0)
    with pytest.raises(ValueError, match="lam must be finite and ≥ 0"):
        sparse_code(x, D, -0.1)
    with pytest.raises(TypeError, match="x must be a torch.Tensor, got ndarray"):
        sparse_code(x.numpy(), D, 0.1)
    with pytest.raises(ValueError, match="lam must be > 0, because its logarithm"):
        SparseCoding(D, 0.0)
    with pytest.raises(ValueError, match=r"atoms \[0, 1, 2\] are zero"):
        SparseCoding(0 * D, 0.1)
