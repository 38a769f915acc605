import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from csc import gram, ista, lam_max, lipschitz, random_dictionary, recur, unfold
from csc.recursion.unfold import iterates
from tests.laws import close
from tests.strategies import Problem, problems

# Some of the drawn problems have λ ≥ λ_max where z ≥ 0.
pytestmark = pytest.mark.filterwarnings("ignore:all codes are zero")

nonnegs = st.booleans()


@given(problems(), st.integers(0, 12), nonnegs)
def test_recursion_equals_ista_step_by_step(p: Problem, K: int, nonneg: bool) -> None:
    """Unfolding is algebra: z_k of the recursion is ISTA's step k + 1, to rounding."""
    W, S, theta = unfold(p.D, p.lam, p.L)
    unfolded = list(iterates(F.conv2d(p.x, W), S, theta, K, nonneg=nonneg))
    iterated: list[Tensor] = []
    ista(
        p.x, p.D, p.lam, nonneg=nonneg, max_iter=K + 1, tol=0.0,
        on_step=lambda k, z: iterated.append(z),
    )  # fmt: skip
    assert len(unfolded) == K + 1
    # ISTA stops early only where it is exactly at the optimum.
    for z, step in zip(unfolded, iterated[1:], strict=False):
        close(z, step, 1e-9)


@given(problems(), st.integers(0, 6), nonnegs)
def test_weights_per_atom_unfold_too(p: Problem, K: int, nonneg: bool) -> None:
    lam = p.lam * torch.linspace(0.5, 1, p.D.shape[0], dtype=torch.float64)
    W, S, theta = unfold(p.D, lam, p.L)
    iterated = ista(p.x, p.D, lam, nonneg=nonneg, max_iter=K + 1, tol=0.0)
    close(recur(F.conv2d(p.x, W), S, theta, K, nonneg=nonneg), iterated.codes, 1e-9)


@given(problems(odd=True), st.integers(0, 8), nonnegs)
def test_same_padding_is_ista_on_the_zero_extended_image(p: Problem, K: int, nonneg: bool) -> None:
    """A zero-padded recursion, codes of the image's size; S has sides 2k − 1, unlike in CRNet."""
    down, across = p.D.shape[2] // 2, p.D.shape[3] // 2
    extended = F.pad(p.x, [across, across, down, down])
    L = lipschitz(p.D, (extended.shape[2], extended.shape[3]))
    W, S, theta = unfold(p.D, p.lam, L)
    z = recur(F.conv2d(p.x, W, padding=(down, across)), S, theta, K, nonneg=nonneg)
    assert z.shape[-2:] == p.x.shape[-2:]
    close(z, ista(extended, p.D, p.lam, nonneg=nonneg, max_iter=K + 1, tol=0.0).codes, 1e-9)


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("nonneg", [False, True])
def test_a_cropped_S_is_not_ista(k: int, nonneg: bool, seeded: torch.Generator) -> None:
    """The paper prints S as k×k; the central crop of the exact one is another algorithm."""
    D = random_dictionary(4, 1, k, generator=seeded, dtype=torch.float64)
    x = torch.randn(1, 1, 16, 15, generator=seeded, dtype=torch.float64)
    lam = 0.1 * lam_max(x, D)
    W, S, theta = unfold(D, lam, lipschitz(D, (16, 15)))
    edge = (k - 1) // 2
    cropped = S[:, :, edge:-edge, edge:-edge]
    assert cropped.shape[-1] == k
    u = F.conv2d(x, W)
    exact = ista(x, D, lam, nonneg=nonneg, max_iter=11, tol=0.0).codes
    close(recur(u, S, theta, 10, nonneg=nonneg), exact, 1e-9)
    off = recur(u, cropped, theta, 10, nonneg=nonneg) - exact
    assert off.norm() > 0.02 * exact.norm()


@given(problems())
def test_kernels_are_their_formulas(p: Problem) -> None:
    W, S, theta = unfold(p.D, p.lam, p.L)
    M, _, kh, kw = p.D.shape
    close(W * p.L, p.D, 1e-12)
    delta = torch.zeros(M, M, 2 * kh - 1, 2 * kw - 1, dtype=torch.float64)
    delta[range(M), range(M), kh - 1, kw - 1] = 1
    close(p.L * (delta - S), gram(p.D), 1e-10)
    close(theta, torch.full((M,), p.lam / p.L, dtype=torch.float64), 1e-12)


@given(problems(), st.integers(0, 5))
def test_no_threshold_is_projected_gradient(p: Problem, K: int) -> None:
    """Untrained, the paper's θ = 0 with ReLU descends ½‖x − D z‖², z ≥ 0: without an ℓ1 norm."""
    W, S, _ = unfold(p.D, 0.0, p.L)
    z = recur(F.conv2d(p.x, W), S, None, K, nonneg=True)
    close(z, ista(p.x, p.D, 0.0, nonneg=True, max_iter=K + 1, tol=0.0).codes, 1e-9)


def test_kernels_do_not_share_memory_with_the_dictionary() -> None:
    D = torch.ones(1, 1, 2, 2)
    W, _, theta = unfold(D, 1.0, 1.0)
    W += 1
    theta += 1
    assert torch.equal(D, torch.ones(1, 1, 2, 2))


U = torch.ones(1, 2, 4, 4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: unfold(U, 0.1, 0.0), "L must be finite and > 0, got 0.0"),
        (lambda: unfold(U, 0.1, float("nan")), "L must be finite"),
        (lambda: unfold(U, 0.1, 1e-320), "L must be finite and > 0"),
        (lambda: unfold(U, -0.1, 1.0), "lam must be finite and ≥ 0"),
        (lambda: recur(U, torch.ones(2, 2, 2, 2), 0.1 * torch.ones(2), 1), "sh and sw odd"),
        (lambda: recur(U, torch.ones(3, 3, 1, 1), 0.1 * torch.ones(2), 1), r"\(2, 2, sh, sw\)"),
        (lambda: recur(U, torch.ones(2, 2, 1, 1), None, 1), "makes? h the identity"),
        (lambda: recur(U, torch.ones(2, 2, 1, 1), torch.ones(2), -1), "K must be ≥ 0, got -1"),
    ],
)
def test_bad_input_is_named(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_other_types_of_kernels_are_refused() -> None:
    S = torch.zeros(2, 2, 1, 1)
    with pytest.raises(TypeError, match=r"u is torch.float32 on cpu but S is torch.float64"):
        recur(U, S.double(), torch.ones(2), 1)
    with pytest.raises(TypeError, match=r"S must be dense, .* use S.to_dense\(\)"):
        recur(U, S.to_sparse(), torch.ones(2), 1)
    with torch.autocast("cpu", torch.bfloat16):  # there convolutions choose the type
        recur(U.bfloat16(), S, torch.ones(2), 1)
