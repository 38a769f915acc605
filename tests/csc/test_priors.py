import pytest
import torch
from torch import Tensor

from csc import duality_gap, fista, random_dictionary, sparse_code, synthesis
from csc.priors import Denoiser, SparsePrior
from csc.tasks import denoise, photo_dictionary
from tests.csc.test_tasks import add_noise, photo
from tests.laws import close


@pytest.fixture
def D(seeded: torch.Generator) -> Tensor:
    return random_dictionary(6, 1, 3, generator=seeded, dtype=torch.float64)


@pytest.fixture
def x(seeded: torch.Generator) -> Tensor:
    return torch.rand(2, 1, 12, 12, generator=seeded, dtype=torch.float64)


def test_the_module_denoises_each_image_with_its_sigma() -> None:
    x = torch.cat([add_noise(photo(32), 0.1, seed) for seed in range(2)])
    sigmas = torch.tensor([0.05, 0.1], dtype=torch.float64)
    both, one = Denoiser()(x, sigmas), Denoiser()(x, 0.1)
    for i, sigma in enumerate(sigmas.tolist()):
        image = denoise(x[i : i + 1], sigma, photo_dictionary().double()).image
        assert isinstance(image, Tensor)
        close(both[i : i + 1], image, 1e-12)
    assert torch.equal(one[1], both[1])
    assert not torch.equal(one[0], both[0])


def test_the_step_is_one_sparse_code(x: Tensor, D: Tensor) -> None:
    lam = torch.linspace(0.05, 0.3, 6, dtype=torch.float64)
    prior = SparsePrior(D, lam, tol=1e-10)
    z = sparse_code(x, D, 0.5 * lam, tol=1e-10)
    close(prior.prox(x, None, gamma=0.5), synthesis(z, D), 1e-6)
    each = prior.prox(x, gamma=torch.tensor([0.5, 2.0]))
    close(each[:1], prior.prox(x[:1], gamma=0.5), 1e-6)
    close(each[1:], prior.prox(x[1:], gamma=2.0), 1e-6)


def test_the_step_is_firmly_nonexpansive(x: Tensor, D: Tensor) -> None:
    """‖p − q‖² ≤ ⟨p − q, x − y⟩: what makes it the proximal operator of a convex function."""
    prior = SparsePrior(D, 0.2, tol=1e-10)
    p, q = prior.prox(x).flatten(1)
    moved = x[0].flatten() - x[1].flatten()
    assert float((p - q).square().sum()) <= float((p - q) @ moved) + 1e-6


def test_proximal_gradient_reaches_the_masked_sparse_code(
    x: Tensor, D: Tensor, seeded: torch.Generator
) -> None:
    """min over u of ½‖m ⊙ (x − u)‖² + g(u) is the masked problem of the solvers."""
    mask = torch.rand(x.shape, generator=seeded) < 0.6
    prior, u = SparsePrior(D, 0.1, tol=1e-7), torch.zeros_like(x)
    for _ in range(200):
        u = prior.prox(u - mask * (u - x), None, gamma=1.0)
    wanted = fista(x, D, 0.1, mask=mask, tol=1e-10)
    codes = sparse_code(u - mask * (u - x), D, 0.1, tol=1e-9)
    gap = duality_gap(x, D, codes, 0.1, mask=mask)
    assert bool((gap <= 1e-2 * wanted.objective).all()), gap / wanted.objective
    assert float((u - synthesis(wanted.codes, D))[mask].abs().max()) < 0.02


def test_gradients_are_those_of_finite_differences(x: Tensor, D: Tensor) -> None:
    prior, step = SparsePrior(D, 0.1, tol=1e-12), 1e-5

    def loss(gamma: Tensor) -> Tensor:
        return prior.prox(x, gamma=gamma).square().sum()

    gamma = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    loss(gamma).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        wanted = (loss(gamma + step) - loss(gamma - step)) / (2 * step)
    assert gamma.grad is not None
    close(gamma.grad, wanted, 1e-4)


def test_no_weight_and_no_step_below_zero(x: Tensor, D: Tensor) -> None:
    with pytest.raises(ValueError, match="lam must be > 0"):
        SparsePrior(D, 0.0)
    with pytest.raises(ValueError, match="one per atom"):
        SparsePrior(D, torch.ones(1, 6, 1, 1))
    with pytest.raises(ValueError, match="gamma must be one number > 0"):
        SparsePrior(D, 0.1).prox(x, gamma=0.0)
    with pytest.raises(ValueError, match="gamma must be one number > 0"):
        SparsePrior(D, 0.1).prox(x, gamma=torch.ones(3))
