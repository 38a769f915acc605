"""Networks in one line and in notebooks: what is shown is true."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

import crnet
from crnet.sparse import SparseCRNetA, SparseCRNetB

SMALL = {"n0": 6, "m0": 10, "recursions": 2}
NETWORKS = {
    "CRNetA": (crnet.CRNetA, {"channels": 1}),
    "CRNetB": (crnet.CRNetB, {"scales": (2, 4), "border": 3}),
    "SparseCRNetA": (SparseCRNetA, {"blocks": 2, "rank": 3}),
    "SparseCRNetB": (SparseCRNetB, {"blocks": 2, "rank": 3, "scales": (3, 4)}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_one_line_of_its_arguments(name: str) -> None:
    kind, more = NETWORKS[name]
    net = kind(**SMALL, **more)
    weights = sum(p.numel() for p in net.parameters())
    given = ", ".join(f"{key}={value}" for key, value in (SMALL | more).items())
    assert repr(net) == f"{name}({given}, weights={weights:,})"


@pytest.mark.parametrize("name", NETWORKS)
def test_notebooks_show_sizes_and_atoms(name: str) -> None:
    kind, more = NETWORKS[name]
    net = kind(**SMALL, **more)
    text = net._repr_html_()
    assert f"<td>{SMALL['m0']}</td>" in text
    found = re.search(r'base64,([^"]+)"', text)
    assert found
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))
    scales = more.get("scales")
    atoms = net.atoms(scales[0]) if scales else net.atoms()
    assert picture.shape == (atoms.shape[2] + 1, 10 * (atoms.shape[3] + 1), 3)


def test_atoms_that_depend_on_other_codes_are_not_drawn() -> None:
    assert "<img" not in crnet.CRNetA(**SMALL, bias=True)._repr_html_()
    assert "<img" not in crnet.CRNetB(**SMALL, bias=True)._repr_html_()


def test_a_network_without_values_is_shown_without_atoms() -> None:
    assert "<img" not in crnet.CRNetA(**SMALL).to("meta")._repr_html_()


@pytest.mark.parametrize(("recursions", "shown"), [(0, "20.0%"), (2, "0.8%")])
@torch.no_grad()
def test_the_shown_certificate_holds(recursions: int, shown: str) -> None:
    """Each of the K + 1 steps leaves at most a fifth of the distance to the minimiser."""
    net = crnet.load("crnet-b-fast")
    assert isinstance(net, SparseCRNetB)
    net.coder.recursions = recursions
    assert f"≤ {shown}" in net._repr_html_()
    y = net.coder.features(torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)))
    block = net.coder.stack.blocks[0]
    z = block(y)
    block.recursions = 40
    best = block(y)
    left = float((z - best).norm() / best.norm())
    assert 0 < left <= (1 / 5) ** (recursions + 1)


def test_free_kernels_have_no_certificate() -> None:
    assert "not certified" in crnet.CRNetA(**SMALL)._repr_html_()
