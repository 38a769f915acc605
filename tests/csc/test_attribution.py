import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from csc import synthesis
from csc.attribution import contributions, shares
from tests.laws import close
from tests.strategies import Problem, problems


@given(problems())
def test_contributions_sum_to_the_image(p: Problem) -> None:
    z = p.draw_codes()
    parts = contributions(z, p.D)
    assert parts.shape == (len(z), len(p.D), *p.x.shape[1:])
    close(parts.sum(1), synthesis(z, p.D), 1e-12)


@given(problems(), st.integers(0, 3))
def test_a_contribution_is_the_image_of_one_atom(p: Problem, m: int) -> None:
    """The image without the other codes."""
    m %= len(p.D)
    z = p.draw_codes()
    alone = torch.zeros_like(z)
    alone[:, m] = z[:, m]
    close(contributions(z, p.D)[:, m], synthesis(alone, p.D), 1e-12)
    assert torch.equal(contributions(z, p.D, [m])[:, 0], contributions(z, p.D)[:, m])


def test_shares_by_hand() -> None:
    """x = (4, 2): parts (3, 0), (1, 4), (0, −2) have ⟨·, x⟩/20 = 12/20, 12/20, −4/20."""
    parts = torch.tensor([[3.0, 0.0], [1.0, 4.0], [0.0, -2.0]]).view(1, 3, 1, 1, 2)
    assert shares(parts)[0].tolist() == pytest.approx([0.6, 0.6, -0.2])
    left = torch.tensor([True, False]).view(1, 1, 1, 2)
    assert shares(parts, left)[0].tolist() == pytest.approx([0.75, 0.25, 0])
    assert torch.equal(shares(parts, left[0, 0]), shares(parts, left))  # a mask (H, W)


@given(problems(), st.integers(0, 99))
def test_shares_sum_to_one_in_every_region(p: Problem, seed: int) -> None:
    z = p.draw_codes() + 0.1
    parts = contributions(z, p.D)
    region = torch.rand(p.size, generator=torch.Generator().manual_seed(seed))[None, None] < 0.5
    region[..., 0, 0] = True
    close(shares(parts, region).sum(1), torch.ones(len(z)).double(), 1e-9)
    close(shares(parts).sum(1), torch.ones(len(z)).double(), 1e-9)


def test_shares_of_nothing_are_zero() -> None:
    parts = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1, 1)
    assert shares(parts).tolist() == [[0, 0]]


PARTS, Z, D = torch.ones(1, 2, 1, 3, 3), torch.ones(1, 2, 2, 2), torch.ones(2, 1, 2, 2)


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: contributions(Z, D, [2]), ValueError, r"indices from 0 to 1, got \[2\]"),
        (lambda: contributions(Z, D, [0, -1]), ValueError, r"from 0 to 1, got \[0, -1\]"),
        (lambda: contributions(Z, D, []), ValueError, "atoms must be indices"),
        (lambda: contributions(Z[:, :1], D), ValueError, "z has 1 maps but D has 2 atoms"),
        (lambda: shares(PARTS[0]), ValueError, r"\(B, A, C, H, W\)"),
        (lambda: shares(PARTS.long()), TypeError, "floating-point"),
        (lambda: shares(PARTS, torch.ones(3, 3)), TypeError, "mask must be a bool"),
        (lambda: shares(PARTS, torch.ones(2, 2).bool()), ValueError, "must be 4-D"),
    ],
)
def test_bad_input_is_named(call, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        call()
