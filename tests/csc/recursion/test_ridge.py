"""The recursion blocks with a stated minimiser: their laws, for drawn kernels and features."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from csc import fista, ista, recur
from csc.recursion.ridge import RidgeBlock, RidgeStack, TiedBlock, norm_bound
from tests.laws import close

Drawn = tuple[RidgeBlock, Tensor]


def kernel(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=g, dtype=torch.float64)


@st.composite
def ridges(draw: st.DrawFn) -> Drawn:
    """A ridge block of any sizes, and features; D is large enough to reach the bound."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    M, p, C = (draw(st.integers(1, n)) for n in (5, 3, 3))
    k, K = draw(st.sampled_from((1, 3, 5))), draw(st.integers(0, 4))
    bound = draw(st.sampled_from((0.3, 1.0, 4.0)))
    lam = draw(st.sampled_from((0.0, 0.2))) * torch.rand(M, generator=g, dtype=torch.float64)
    block = RidgeBlock(kernel((M, p, k, k), g), kernel((M, C, 3, 3), g), lam, K, bound=bound)
    size = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    return block, kernel((draw(st.integers(1, 2)), C, *size), g)


def solved(block: RidgeBlock, y: Tensor) -> Tensor:
    """The minimiser, by steps beyond any doubt."""
    K, block.recursions = block.recursions, 600
    z = block(y).detach()
    block.recursions = K
    return z


def synthesis_matrix(D: Tensor, size: tuple[int, int]) -> Tensor:
    """The dense matrix of z ↦ D z on the grid of the codes."""
    M = len(D)
    basis = torch.eye(M * size[0] * size[1], dtype=D.dtype).view(-1, M, *size)
    return F.conv_transpose2d(basis, D).flatten(1).T


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).norm(dim=1)


@given(ridges())
def test_the_bound_holds_for_the_dense_matrix(drawn: Drawn) -> None:
    block, y = drawn
    D = block.D.detach()
    norm = float(torch.linalg.matrix_norm(synthesis_matrix(D, tuple(y.shape[2:])), 2))
    assert norm <= norm_bound(D) * (1 + 1e-12)
    assert norm**2 <= block.bound


def test_the_bound_holds_between_its_grid_points() -> None:
    """On a fine grid some kernels exceed their values on the coarse one; none exceeds the bound."""
    g, short = torch.Generator().manual_seed(0), 0
    for _ in range(50):
        D = kernel((1, 1, 5, 5), g)
        fine = float(torch.fft.fft2(D, s=(400, 400)).abs().max())
        coarse = float(torch.fft.fft2(D, s=(32, 32)).abs().max())
        assert fine <= norm_bound(D)
        assert norm_bound(D) <= 1.05 * fine
        short += coarse < 0.999 * fine
    assert short > 10


@given(ridges())
def test_a_step_contracts_by_q_and_the_energy_never_rises(drawn: Drawn) -> None:
    block, y = drawn
    block.recursions = 5
    codes = [z.detach() for z in block.codes(y)]
    best, q = solved(block, y), block.bound / (2 + block.bound)
    errors = [distance(z, best) for z in codes]
    for before, after in zip(errors, errors[1:], strict=False):
        assert bool((after <= q * before + 1e-10).all())
    energies = torch.stack([block.certify(y, z).objective for z in codes])
    assert bool((energies.diff(dim=0) <= 1e-10 * (1 + energies[0].abs())).all())


@given(ridges())
def test_the_certificate_bounds_objective_and_distance(drawn: Drawn) -> None:
    block, y = drawn
    z, best = block(y).detach(), solved(block, y)
    found, optimal = block.certify(y, z), block.certify(y, best)
    slack = 1e-9 * (1 + optimal.objective.abs())
    assert bool((found.objective - optimal.objective <= found.gap + slack).all())
    assert bool((found.gap >= 0).all())
    true = distance(z, best)
    assert bool((true <= found.distance + 1e-8).all())
    norm = best.flatten(1).norm(dim=1)
    assert bool((true <= found.relative * norm + 1e-8).all())
    assert bool((optimal.distance <= 1e-6 * (1 + norm)).all())  # tight at the minimiser


@given(ridges())
def test_unfolded_it_is_the_recursion_of_W_S_theta(drawn: Drawn) -> None:
    block, y = drawn
    W, S, theta = block.unfolded()
    u = F.conv2d(y, W, padding=W.shape[-1] // 2)
    close(recur(u, S, theta, block.recursions, nonneg=True), block(y).detach(), 1e-10)


@settings(max_examples=6)
@given(ridges())
def test_fista_reaches_the_same_codes(drawn: Drawn) -> None:
    block, y = drawn
    x, D, lam = block.as_problem(y)
    found = fista(x, D, lam, nonneg=True, tol=1e-12, max_iter=3000)
    u = F.conv2d(y, block.W.detach(), padding=1)
    energy = block.certify(y, found.codes).objective + 0.5 * u.square().sum((1, 2, 3))
    close(energy, found.objective, 1e-9)
    assert float(distance(found.codes, solved(block, y)).max()) <= 1e-4


@given(ridges())
def test_an_optimizer_step_stays_in_the_certified_set(drawn: Drawn) -> None:
    block, _ = drawn
    with torch.no_grad():
        block.D.mul_(7).add_(1)
        block.lam.sub_(1)
    block.project()
    assert norm_bound(block.D) ** 2 <= block.bound
    assert bool((block.lam >= 0).all())
    before = block.D.detach().clone()
    block.project()
    close(block.D.detach(), before, 1e-5)


def stack(g: torch.Generator, blocks: int = 3) -> tuple[RidgeStack, Tensor]:
    made = [
        RidgeBlock(
            kernel((6, 2, 3, 3), g), 0.3 * kernel((6, 4, 3, 3), g),
            torch.full((6,), 0.05, dtype=torch.float64), 1,
        )
        for _ in range(blocks)
    ]  # fmt: skip
    back = [0.1 * kernel((4, 6, 3, 3), g) for _ in range(blocks - 1)]
    return RidgeStack(made, back), kernel((2, 4, 8, 9), g)


@settings(max_examples=20)
@given(st.integers(0, 2**20))
def test_the_stacked_bound_holds_for_the_exact_stack(seed: int) -> None:
    net, y = stack(torch.Generator().manual_seed(seed))
    codes = [z.detach() for z in net.all_codes(y)]
    found = net.certify(y)
    for block in net.blocks:
        block.recursions = 200
    exact = [z.detach() for z in net.all_codes(y)]
    for z, best, bound in zip(codes, exact, found.total, strict=True):
        assert bool((distance(z, best) <= bound + 1e-9).all())
    assert bool((found.total[0] == found.blocks[0].distance).all())
    # What the first blocks leave over is counted: the last block's own certificate is not enough.
    assert bool((found.total[-1] > found.blocks[-1].distance).all())


@pytest.mark.parametrize("nonneg", [True, False])
def test_the_tied_block_is_ista(nonneg: bool) -> None:
    g = torch.Generator().manual_seed(3)
    block = TiedBlock(
        kernel((6, 2, 3, 3), g), torch.full((6,), 0.1, dtype=torch.float64), 30, nonneg=nonneg
    )
    y = kernel((2, 2, 7, 8), g)
    x, D, lam = block.as_problem(y)
    theirs = ista(x, D, lam, nonneg=nonneg, max_iter=2000, tol=1e-10).objective
    found = block.certify(y, block(y).detach())
    assert bool((found.objective - theirs <= found.gap + 1e-9).all())
    W, S, theta = block.unfolded()
    u = F.conv2d(y, W, padding=1)
    close(recur(u, S, theta, 30, nonneg=nonneg), block(y).detach(), 1e-10)
    energies = torch.stack([block.certify(y, z.detach()).objective for z in block.codes(y)])
    assert bool((energies.diff(dim=0) <= 1e-10).all())


def test_gradients_are_those_of_finite_differences() -> None:
    net, y = stack(torch.Generator().manual_seed(5), blocks=2)
    parameters = list(net.parameters())

    def run(*given: Tensor) -> Tensor:
        names = [name for name, _ in net.named_parameters()]
        out: Tensor = torch.func.functional_call(net, dict(zip(names, given, strict=True)), (y,))
        return out[:, :, :3, :3].square().sum()

    inputs = tuple(p.detach().clone().requires_grad_() for p in parameters)
    assert torch.autograd.gradcheck(run, inputs, eps=1e-6, atol=1e-5, fast_mode=True)


def test_the_state_comes_back() -> None:
    g = torch.Generator().manual_seed(6)
    (net, y), (other, _) = stack(g), stack(g)
    assert not torch.equal(net(y), other(y))
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(y), other(y))


def test_what_does_not_fit_is_refused() -> None:
    D, W, lam = torch.ones(3, 2, 3, 3), torch.ones(3, 4, 3, 3), torch.zeros(3)
    for bad in (
        lambda: RidgeBlock(torch.ones(3, 2, 2, 2), W, lam, 1),
        lambda: RidgeBlock(D, W[:2], lam, 1),
        lambda: RidgeBlock(D, W, lam[:2], 1),
        lambda: RidgeBlock(D, W, lam - 1, 1),
        lambda: RidgeBlock(D, W, lam, -1),
        lambda: RidgeBlock(D, W, lam, 1, bound=0.0),
        lambda: TiedBlock(D, lam, 1, relaxation=2.0),
        lambda: RidgeStack([RidgeBlock(D, W, lam, 1)], [torch.ones(4, 3, 3, 3)]),
        lambda: RidgeStack([RidgeBlock(D, W, lam, 1)] * 2, [torch.ones(3, 4, 3, 3)]),
        lambda: RidgeBlock(D, W, lam, 1).certify(torch.ones(1, 4, 5, 5), -torch.ones(1, 3, 5, 5)),
    ):
        with pytest.raises(ValueError, match=r"must|need"):
            bad()
