"""The rounding that a certificate allows for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from csc.problem import pose
from tests.strategies import Problem, problems


@given(problems(weight=(0.05, 0.9)), st.floats(-8, 8), st.integers(0, 2**16))
def test_rounding_of_correlations_bounds_their_error(
    p: Problem, exponent: float, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    D, image = p.D.float(), 10**exponent * torch.randn(p.x.shape, generator=g)
    error = F.conv2d(image, D) - F.conv2d(image.double(), D.double())
    bound = pose(p.x.float(), D, 1.0).rounding_of_correlations(image)
    assert (error.abs().amax((2, 3)) <= bound).all()


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("size", [(5, 5), (5, 11), (12, 9)])
def test_rounding_of_correlations_is_that_of_the_largest_window(
    k: int, size: tuple[int, int]
) -> None:
    """At least (n + 1)·ε/2·‖d‖ max ‖window‖, and at most twice that."""
    g = torch.Generator().manual_seed(0)
    D, image = torch.randn(3, 2, k, k, generator=g), torch.randn(1, 2, *size, generator=g)
    window = F.unfold(image.double(), k).square().sum(1).amax().sqrt()
    atoms = D.double().flatten(1).norm(dim=1)
    bound = 0.5 * torch.finfo(torch.float32).eps * (2 * k * k + 1) * window * atoms
    found = pose(image, D, 0.5).rounding_of_correlations(image)[0]
    assert (found >= bound * (1 - 1e-12)).all()
    assert (found <= 2 * bound * (1 + 1e-12)).all()
