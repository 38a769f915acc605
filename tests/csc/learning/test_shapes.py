"""Dictionaries of signals, colours and cubes learn as well as they code."""

import pytest
import torch

from csc import coordinate_descent, learn_dictionary, random_dictionary, synthesis
from tests.csc.learning.test_surrogate import sparse


@pytest.mark.parametrize(
    ("C", "kh", "kw", "size"),
    [(1, 1, 4, (1, 300)), (3, 2, 2, (16, 20)), (4, 2, 2, (16, 12))],
    ids=["signal", "colours", "cube"],
)
def test_learned_atoms_code_as_well_as_the_planted_ones(
    C: int, kh: int, kw: int, size: tuple[int, int]
) -> None:
    """On images that were not learned from, the objective is within 5 % of that of the truth."""
    g = torch.Generator().manual_seed(0)
    truth = random_dictionary(3, C, (kh, kw), generator=g, dtype=torch.float64)
    z = sparse(8, 3, size[0] - kh + 1, size[1] - kw + 1, share=0.04, seed=1)
    x = synthesis(z, truth)
    start = random_dictionary(6, C, (kh, kw), generator=g, dtype=torch.float64)
    learned = learn_dictionary(x[:6], start, 0.1, passes=12, patience=4, generator=g)
    assert learned.dictionary.shape == start.shape
    best, found, before = (
        float(coordinate_descent(x[6:], D, 0.1).objective.sum())
        for D in (truth, learned.dictionary, start)
    )
    assert found <= 1.05 * best
    assert before > 1.1 * best
