"""What notebooks show of solutions, problems and atoms."""

import base64
import io
import re

import numpy as np
import torch
from PIL import Image

import csc
from csc import html
from csc.problem import pose


def _picture(text: str) -> np.ndarray:
    found = re.search(r'base64,([^"]+)"', text)
    assert found
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))


def test_atoms_are_drawn_in_their_places() -> None:
    D = torch.zeros(20, 1, 2, 3)
    D[17, 0, 1, 2] = -5.0  # in the second row, second place
    D[3, 0, 0, 0] = 0.1
    picture = _picture(html.atoms(D))
    assert picture.shape == (6, 64, 3)
    assert (picture[0, 0] == 128).all()  # of a zero atom
    assert (picture[0, 3 * 4] == 255).all()
    assert (picture[4, 4 + 2] == 0).all()
    assert set(np.unique(picture)) == {0, 128, 255}


def test_colour_atoms_keep_their_channels() -> None:
    D = torch.zeros(1, 3, 1, 1)
    D[0, :, 0, 0] = torch.tensor([1.0, -1.0, 0.0])
    assert _picture(html.atoms(D))[0, 0].tolist() == [255, 0, 128]


def test_a_dictionary_that_is_no_picture_is_left_out() -> None:
    assert html.atoms(torch.ones(2, 5, 3, 3)) == ""
    assert html.atoms(torch.full((2, 1, 3, 3), torch.nan)) == ""


def test_a_solution_shows_its_certificate_for_each_image() -> None:
    x, D = torch.rand(2, 1, 12, 12), torch.rand(5, 1, 3, 3)
    solution = csc.fista(x, D, 0.5, max_iter=3)
    text = solution._repr_html_()
    assert text.count("<tr>") == 3  # the head and two images
    assert f"{float(solution.relative_gap[1]):.1e}" in text
    assert "iterations spent" in text


def test_a_problem_shows_its_atoms() -> None:
    text = pose(torch.rand(1, 1, 12, 12), torch.rand(5, 1, 3, 3), 0.5)._repr_html_()
    assert "5×1×3×3" in text
    assert "0.5 to 0.5" in text
    assert _picture(text).shape[0] == 4
