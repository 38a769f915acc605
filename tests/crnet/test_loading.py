import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import crnet
from baselines import weights
from crnet import Card, CRNetA, CRNetB, WeightsError
from crnet.loading import _thinned, find, serialize
from tests.laws import only_outlines

ARGUMENTS = {"n0": 4, "m0": 6, "recursions": 2, "threshold": True}
CARD = Card("tiny", "CRNetA", ARGUMENTS, (2, 3), {"data": "none"}, {"Set5": {"2": 30.5}})


@pytest.fixture
def tiny(tmp_path: Path, seeded: torch.Generator) -> tuple[CRNetA, Path]:
    net = CRNetA(**ARGUMENTS, generator=seeded)
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(serialize(net, CARD))
    return net, path


def test_a_file_rebuilds_its_network(tiny: tuple[CRNetA, Path]) -> None:
    net, path = tiny
    x = torch.rand(1, 1, 9, 9)
    again = crnet.load(path)
    assert torch.equal(again(x), net(x))
    assert not again.training
    assert crnet.card(path) == CARD


def test_it_is_plain_safetensors(tiny: tuple[CRNetA, Path]) -> None:
    net, path = tiny
    state = load_file(path)
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())


def test_damage_is_found(tiny: tuple[CRNetA, Path]) -> None:
    _, path = tiny
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="does not match its checksum"):
        crnet.load(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="not a weights file"):
        crnet.load(path)


def test_a_card_that_does_not_fit_is_refused(tiny: tuple[CRNetA, Path]) -> None:
    net, path = tiny
    for arguments in ({**ARGUMENTS, "m0": 7}, {**ARGUMENTS, "colour": 1}):
        path.write_bytes(serialize(net, replace(CARD, arguments=arguments)))
        with pytest.raises(WeightsError, match="does not fit its arch|cannot build CRNetA"):
            crnet.load(path)
    path.write_bytes(serialize(net, replace(CARD, architecture="Nothing")))
    with pytest.raises(WeightsError, match="cannot build Nothing"):
        crnet.load(path)


def test_weights_with_nan_are_refused(tiny: tuple[CRNetA, Path]) -> None:
    net, path = tiny
    net.H.weight.data[0, 0, 0, 0] = torch.nan
    path.write_bytes(serialize(net, CARD))
    with pytest.raises(WeightsError, match="not finite"):
        crnet.load(path)


def test_half_precision_is_stored_and_float32_computed(tmp_path: Path) -> None:
    net = CRNetB(8, 6, 1)
    about = Card(
        "b", "CRNetB", {"n0": 8, "m0": 6, "recursions": 1, "scales": [2, 3, 4]}, (2,), {}, {}
    )
    (tmp_path / "b.safetensors").write_bytes(serialize(net.half(), about))
    again = crnet.load(tmp_path / "b.safetensors")
    assert next(again.parameters()).dtype == torch.float32
    pairs = zip(again.parameters(), net.float().parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert crnet.card(tmp_path / "b.safetensors") == about


def test_save_writes_what_load_takes_and_refuses_what_it_would_not(tmp_path: Path) -> None:
    net, path = CRNetA(**ARGUMENTS), tmp_path / "a.safetensors"
    crnet.save(path, net, CARD)
    crnet.save(path, net, CARD)  # replaced
    assert all(torch.equal(a, b) for a, b in zip(crnet.load(path).parameters(), net.parameters(),
                                                 strict=True))  # fmt: skip
    path.unlink()
    with pytest.raises(WeightsError, match="the network is not that of its card"):
        crnet.save(path, net, replace(CARD, arguments={**ARGUMENTS, "m0": 7}))
    with pytest.raises(WeightsError, match="cannot build Nothing"):
        crnet.save(path, net, replace(CARD, architecture="Nothing"))
    with pytest.raises(WeightsError, match="must end in .safetensors"):
        crnet.save(tmp_path / "a.ckpt", net, CARD)
    net.H.weight.data[0, 0, 0, 0] = torch.inf
    with pytest.raises(WeightsError, match="not finite"):
        crnet.save(path, net, CARD)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "a b"}, "a card's name must be letters"),
        ({"name": 3}, "a card's name must be letters"),
        ({"scales": (0,)}, "a card's scales must be whole numbers > 0"),
        ({"arguments": {"n0": ["4"]}}, "a card's argument n0 must be a number"),
        ({"arguments": 4}, "a card's arguments must be dict"),
        ({"architecture": None}, "a card's architecture must be str"),
        ({"training": "long"}, "a card's training must be dict"),
        ({"psnr": [30.5]}, "a card's psnr must be dict"),
    ],
)
def test_a_card_names_the_field_that_is_wrong(wrong: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        replace(CARD, **wrong)
    path = tmp_path / "a.safetensors"
    weights.write(path, CRNetA(**ARGUMENTS).state_dict(), {**asdict(CARD), **wrong})
    with pytest.raises(WeightsError, match=says):
        crnet.card(path)


def test_save_says_what_it_could_not_write(tmp_path: Path) -> None:
    net = CRNetA(**ARGUMENTS)
    (tmp_path / "folder.safetensors").mkdir()
    for path in (tmp_path / "folder.safetensors", tmp_path / "none" / "a.safetensors"):
        with pytest.raises(WeightsError, match="the weights were not written"):
            crnet.save(path, net, CARD)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("VDSR", {"depth": 10**7, "maps": 4}), ("CRNetA", {**ARGUMENTS, "n0": 20_000}),
        ("CRNetA", {**ARGUMENTS, "n0": 10**12}), ("MemNet", {"blocks": 10**6}),
        ("CSCN", {"stages": 40}), ("CRNetB", {"n0": 20_000, "m0": 20_000}),
    ],
)  # fmt: skip
def test_a_card_of_an_absurd_network_is_refused_at_once(
    architecture: str, arguments: dict, tmp_path: Path
) -> None:
    """The digest is right, but the card is not that of the tensors."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(
        serialize(
            CRNetA(**ARGUMENTS), replace(CARD, architecture=architecture, arguments=arguments)
        )
    )
    says = "cannot build|does not fit its architecture"
    with only_outlines(), pytest.raises(WeightsError, match=says):
        crnet.load(path)


def test_a_file_that_lacks_a_tensor_names_it(tiny: tuple[CRNetA, Path]) -> None:
    net, path = tiny
    state = net.state_dict()
    for change, says in (
        ({"extra": torch.ones(1)}, "the network has no extra"),
        ({"F0.weight": torch.ones(5, 1, 3, 3)}, r"F0.weight has shape \(5, 1, 3, 3\)"),
    ):
        weights.write(path, {**state, **change}, asdict(CARD))
        with pytest.raises(WeightsError, match=says):
            crnet.load(path)
    del state["H.weight"]
    weights.write(path, state, asdict(CARD))
    with pytest.raises(WeightsError, match="H.weight is missing|cannot build"):
        crnet.load(path)


def test_a_model_is_float32_whatever_torch_defaults_to(tiny: tuple[CRNetA, Path]) -> None:
    net, path = tiny
    x = torch.rand(1, 1, 9, 9)
    torch.set_default_dtype(torch.float64)
    try:
        again = crnet.load(path)
        assert {p.dtype for p in again.parameters()} == {torch.float32}
        assert torch.equal(again(x), net(x))
        for name in crnet.bundled():
            one = crnet.load(name)
            image = torch.rand(1, 3 if one.rgb else 1, 8, 8, dtype=torch.float32)
            out = crnet.Upscaler(one)(image, crnet.card(name).scales[0])
            assert out.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_curve_is_thinned_to_its_last_point() -> None:
    for n in (0, 1, 5, 20, 21, 40, 41, 99, 1000):
        curve = [[float(i), 30.0] for i in range(n)]
        thin = _thinned(curve)
        assert thin == [point for point in curve if point in thin]  # in order
        assert thin[-1:] == curve[-1:]
        assert min(n, 10) <= len(thin) <= 20
        assert len({b[0] - a[0] for a, b in itertools.pairwise(thin)}) <= 1  # evenly spaced


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"w": torch.ones(2)}, other)
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    for path in (other, text):
        with pytest.raises(WeightsError, match="not a weights file of csc-crnet"):
            crnet.load(path)
    with pytest.raises(WeightsError, match="no model and no file nothing; bundled models: crnet"):
        crnet.load("nothing")


def test_the_bundle_describes_itself() -> None:
    assert "crnet-a" in crnet.bundled()
    for name, path in crnet.bundled().items():
        card = crnet.card(name)
        assert card.name == name
        assert path == find(name)
        assert {"data", "recipe"} <= card.training.keys()
        assert set(card.psnr["Set5"]) == {str(s) for s in card.scales}
        json.dumps(card.training)
        assert path.stat().st_size < (6e6 if card.architecture.endswith("CRNetB") else 1.5e6)
        net = crnet.load(name)
        assert type(net).__name__ == card.architecture
        if card.architecture.startswith("CRNet"):
            assert net.cista.recursions == card.arguments["recursions"]


def test_a_card_shows_its_figures_in_notebooks() -> None:
    about = crnet.card("crnet-b")
    text = about._repr_html_()
    assert "CRNetB" in text
    assert f"{about.psnr['Set5']['3']:.2f}" in text


def test_a_card_is_one_line() -> None:
    about = crnet.card("crnet-a")
    told = repr(about)
    assert told.startswith("Card(crnet-a: CRNetA(n0=64, m0=128, recursions=8,")
    assert f"×2, ×3 and ×4, Set5 {about.psnr['Set5']['2']:.2f} / " in told
    assert len(told) < 200  # without the recipe
    assert "any scale" in repr(crnet.Card("x", "VDSR", {}, (), {}, {}))
