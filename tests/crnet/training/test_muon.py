import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from crnet.training.muon import Muon, orthogonalise


@given(st.integers(2, 12), st.integers(2, 40), st.floats(1e-6, 1e6), st.integers(0, 99))
def test_the_step_is_the_polar_factor_nearly(n: int, m: int, size: float, seed: int) -> None:
    """Same singular vectors as U Vᵀ, singular values near one (those not tiny at first)."""
    g = torch.Generator().manual_seed(seed)
    U, _, V = torch.linalg.svd(torch.randn(n, m, generator=g).double(), full_matrices=False)
    s = torch.linspace(1, 3, len(_)).double()
    X = orthogonalise(size * (U * s) @ V)
    inside = U.T @ X @ V.T
    assert (inside - inside.diag().diag()).abs().max() < 1e-6
    assert ((inside.diag() > 0.6) & (inside.diag() < 1.3)).all()


def test_singular_values_by_their_part_of_the_norm() -> None:
    """What the docstring says, of σ from ‖G‖_F / 100,000 to ‖G‖_F."""
    small = torch.logspace(-5, 0, 400, dtype=torch.float64)
    values = torch.stack([small, (1 - small.square()).sqrt()], 1)  # of norm one
    ends = orthogonalise(torch.diag_embed(values))[:, 0, 0]
    assert ((ends > 0.6) & (ends < 1.3))[small >= 1 / 500].all()
    tiny = small < 1e-4
    torch.testing.assert_close(ends[tiny], 485 * small[tiny], rtol=0.02, atol=0)


@pytest.mark.parametrize("shape", [(5, 3, 7), (4, 7, 3)])
def test_matrices_are_orthogonalised_one_by_one(shape: tuple[int, ...]) -> None:
    G = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(orthogonalise(G), torch.stack([orthogonalise(M) for M in G]))


def test_zero_stays_zero_and_vectors_are_refused() -> None:
    assert not orthogonalise(torch.zeros(3, 4)).any()
    with pytest.raises(ValueError, match="must be a matrix"):
        orthogonalise(torch.zeros(3))


def test_kernels_of_one_shape_move_as_if_alone() -> None:
    g = torch.Generator().manual_seed(0)
    shapes = [(9, 8, 3, 3), (9, 8, 3, 3), (8, 9, 3, 3), (12,), (3, 8, 3, 3), (2,)]
    starts, slopes = ([torch.randn(s, generator=g) for s in shapes] for _ in range(2))

    def moved(chosen: list[int]) -> list[torch.Tensor]:
        weights = [nn.Parameter(starts[i].clone()) for i in chosen]
        optimizer = Muon(weights, lr=0.1, weight_decay=0.1)
        for step in range(3):
            for i, w in zip(chosen, weights, strict=True):
                w.grad = (step + 1) * slopes[i] if step or i % 2 else None  # not all every time
            optimizer.step()
        return [w.detach() for w in weights]

    together = moved(list(range(len(shapes))))
    for i, one in enumerate(together):
        torch.testing.assert_close(one, moved([i])[0])


def test_a_kernel_moves_as_its_matrix_whatever_the_layout() -> None:
    g = torch.Generator().manual_seed(0)
    start, slope = (torch.randn(10, 8, 3, 3, generator=g) for _ in range(2))
    moved = []
    for form in (torch.contiguous_format, torch.channels_last):
        w = nn.Parameter(start.clone(memory_format=form))
        w.grad = slope.clone(memory_format=form)
        Muon([w], lr=0.1, momentum=0.9).step()
        moved.append(w.detach() - start)
    torch.testing.assert_close(moved[0], moved[1])
    expected = -0.1 * 0.2 * 72**0.5 * orthogonalise(1.9 * slope.reshape(10, 72))
    torch.testing.assert_close(moved[0].reshape(10, 72), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(64,), (8, 1, 3, 3), (3, 8, 3, 3)])
def test_the_rest_takes_adams_steps(shape: tuple[int, ...]) -> None:
    """Vectors and kernels between few maps, at a third of the rate, by torch's own Adam."""
    g = torch.Generator().manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    a, b = Muon([ours], lr=3e-2), torch.optim.Adam([theirs], lr=1e-2)
    for _ in range(5):
        slope = torch.randn(shape, generator=g)
        ours.grad, theirs.grad = slope.clone(), slope.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs)


def test_it_minimises_and_decays() -> None:
    g = torch.Generator().manual_seed(0)
    A, w = torch.randn(8, 8, generator=g), nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([w], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (w - A).square().sum()
        loss.backward()
        optimizer.step(lambda: 0.0)
    assert loss < 0.05 * A.square().sum()
    still = nn.Parameter(torch.ones(9, 9))
    still.grad = torch.zeros(9, 9)
    Muon([still], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(still.detach(), torch.full((9, 9), 0.95))


def test_state_round_trip() -> None:
    g = torch.Generator().manual_seed(0)
    slopes = [torch.randn(9, 9, generator=g) for _ in range(6)]

    def run(cut: int) -> torch.Tensor:
        w = nn.Parameter(torch.zeros(9, 9))
        optimizer = Muon([w], lr=0.1)
        for i, slope in enumerate(slopes):
            if i == cut:
                state = optimizer.state_dict()
                optimizer = Muon([w], lr=0.5)
                optimizer.load_state_dict(state)
            w.grad = slope.clone()
            optimizer.step()
        return w.detach()

    assert torch.equal(run(3), run(-1))


def test_bad_settings_are_refused() -> None:
    w = nn.Parameter(torch.zeros(2))
    for options in ({"lr": -1.0}, {"lr": 1.0, "momentum": 1.0}, {"lr": 1.0, "weight_decay": -1.0}):
        with pytest.raises(ValueError, match="must be ≥ 0"):
            Muon([w], **options)
