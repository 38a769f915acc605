import tomllib
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnet.errors import RecipeError
from crnet.training.recipe import Recipe, bundled, from_fields, read

recipes = st.builds(
    Recipe,
    n0=st.integers(1, 999),
    lr=st.floats(1e-9, 10),
    bias=st.booleans(),
    sets=st.lists(st.text(min_size=1), min_size=1).map(tuple),
    scales=st.sampled_from([(2,), (4, 2), (2, 3, 4)]),
    start=st.text(),
    loss=st.sampled_from(["l1", "l2", "l2-sum"]),
) | st.builds(
    Recipe,
    architecture=st.just("DRRN"),
    sizes=st.fixed_dictionaries({"units": st.integers(1, 9), "normalize": st.booleans()}),
    deep=st.just(0.0),
)


@given(recipes)
def test_toml_round_trip(recipe: Recipe) -> None:
    assert from_fields(tomllib.loads(recipe.toml())) == recipe


def test_the_papers_recipes() -> None:
    """Numbers of arXiv 1908.01166, section 4."""
    a, b = read("crnet-a-paper"), read("crnet-b-paper")
    assert (a.n0, a.m0, a.recursions, a.optimizer, a.lr, a.loss) == (
        128, 256, 25, "sgd", 0.1, "l2-sum"
    )  # fmt: skip
    assert a.steps / a.decay_every == 3.5  # 35 epochs, a tenth every 10
    assert (a.schedule, a.decay_factor) == ("step", 0.1)
    assert (b.n0, b.m0, b.recursions, b.optimizer, b.lr, b.loss) == (
        64, 1024, 25, "adam", 1e-4, "l1"
    )  # fmt: skip
    assert b.steps / b.decay_every == 4  # 800 epochs, halved every 200
    assert (b.schedule, b.decay_factor) == ("step", 0.5)


def test_bundled_recipes_say_every_field_they_mean() -> None:
    for name, path in bundled().items():
        assert read(name) == read(path)
        assert "302003.jpg" in read(name).exclude or "BSDS200-train" not in read(name).sets


def test_the_network_of_a_recipe_has_its_arguments() -> None:
    assert Recipe().network() == {
        "n0": 64, "m0": 128, "recursions": 12, "bias": False, "threshold": False
    }  # fmt: skip
    assert Recipe(residual=False).network()["residual"] is False
    assert from_fields({"architecture": "VDSR", "sizes": {"depth": 5}}).network() == {"depth": 5}
    assert read("edsr", {"scales": [3]}).network() == {"scale": 3}
    assert read("scn").network() == {}
    assert read("vdsr").network() == {"bias": False}
    assert read("mdsr", {"sizes": {"maps": 8}}).network() == {"scales": [2, 3, 4], "maps": 8}


def test_a_border_is_an_argument_only_where_there_is_one() -> None:
    """Cards and checkpoints of networks without a border stay as they were."""
    assert "border" not in Recipe(architecture="CRNetB").network()
    assert Recipe(architecture="CRNetB", border=4).network()["border"] == 4


@pytest.mark.parametrize("value", [False, True])
def test_fields_of_earlier_recipes_are_read(value: bool) -> None:
    """`recompute` was called `checkpoint`, and `border` did not exist."""
    fields = asdict(Recipe(architecture="CRNetB"))
    del fields["recompute"], fields["border"]
    recipe = from_fields({**fields, "checkpoint": value})
    assert recipe == Recipe(architecture="CRNetB", recompute=value)
    assert from_fields({"checkpoint": value, "recompute": not value}).recompute is not value


def test_overrides_replace_fields() -> None:
    assert read("crnet-a-paper", {"lr": 1}) == replace(read("crnet-a-paper"), lr=1.0)


def test_rates() -> None:
    cosine = Recipe(steps=1000, warmup=100)
    rates = [cosine.rate(s) for s in range(1001)]
    assert rates[0] == pytest.approx(0.01)
    assert rates.index(max(rates)) == 99
    assert rates[500] == pytest.approx(0.5)
    assert rates[1000] == pytest.approx(0, abs=1e-12)
    step = Recipe(schedule="step", decay_every=10, decay_factor=0.5, warmup=0)
    assert [step.rate(s) for s in (0, 9, 10, 25)] == [1, 1, 0.5, 0.25]


def test_rates_of_a_run_of_some_minutes_follow_the_clock() -> None:
    """The shape is that of steps; the warm-up ends after a twentieth of the time at the latest."""
    cosine = Recipe(steps=1000, warmup=100, minutes=1.0)
    for spent in (0.2, 0.5, 0.77, 1.0):
        for done in (100, 10**6):
            assert cosine.rate(done, spent) == pytest.approx(cosine.rate(round(1000 * spent)))
    assert cosine.rate(9, 0.0) == pytest.approx(0.1)
    assert cosine.rate(0, 0.05) > 0.99
    step = Recipe(steps=40, schedule="step", decay_every=10, decay_factor=0.5, warmup=0)
    assert [step.rate(7, spent) for spent in (0.0, 0.24, 0.25, 0.7)] == [1, 1, 0.5, 0.25]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stepz": 3}, "unknown recipe field 'stepz'; did you mean steps?"),
        ({"qqq": 3}, "unknown recipe field 'qqq'$"),
        ({"n0": 0}, "n0 must be finite and > 0"),
        ({"lr": float("nan")}, "lr must be finite and > 0"),
        ({"seed": -1}, "seed must be finite and ≥ 0"),
        ({"minutes": -1}, "minutes must be finite and ≥ 0"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\)"),
        ({"scales": [5]}, r"scales must be some of 2, 3 and 4, got 5"),
        ({"scales": []}, "scales must be"),
        ({"sets": []}, "sets must name"),
        ({"n0": 3.5}, "n0 must be a whole number, got 3.5"),
        ({"bias": 1}, "bias must be true or false, got 1"),
        ({"sets": "T91"}, "sets must be a list of str, got 'T91'"),
        ({"loss": "l3"}, "loss must be l1, l2 or l2-sum, got 'l3'"),
        ({"optimizer": "adamw"}, "optimizer must be adam, muon or sgd"),
        (
            {"architecture": "SRGAN"},
            "architecture must be CRNetA, CRNetB, SparseCRNetA, SparseCRNetB, SCN",
        ),
        ({"architecture": "EDSR"}, r"EDSR makes one scale, got 2, 3 and 4"),
        (
            {"architecture": "SRDenseNet", "scales": [2]},
            "SRDenseNet upscales by 4, not by 2",
        ),
        ({"architecture": "VDSR", "n0": 3}, "n0 is a field of CRNets; VDSR takes sizes"),
        (
            {"architecture": "VDSR", "sizes": {"dept": 3}},
            "no size 'dept'; did you mean depth",
        ),
        ({"sizes": {"depth": 3}}, "CRNetA has no size 'depth'"),
        ({"architecture": "VDSR", "sizes": {"depth": "3"}}, "sizes must be a table of numbers"),
        ({"architecture": "VDSR", "sizes": {"maps": 0}}, "maps must be a whole number ≥ 1, got 0"),
        ({"architecture": "VDSR", "sizes": {"maps": 2**62}}, "VDSR cannot have these sizes"),
        ({"architecture": "VDSR", "sizes": {"bias": 1}}, "bias must be true or false, got 1"),
        ({"architecture": "SCN", "sizes": {"M": 8.0}}, "M must be a whole number ≥ 1, got 8.0"),
        ({"architecture": "CSCN", "sizes": {"stages": 1}}, "upscales by 2, not by 3 or 4"),
        ({"architecture": "DDBPN", "scales": [3]}, "by 2, 4 or 8, not by 3"),
        ({"architecture": "VDSR", "residual": False}, "residual is a field of CRNets"),
        ({"architecture": "CRNetB", "residual": False}, "CRNetB cannot leave out its skip"),
        ({"border": 4}, "CRNetA has no border"),
        ({"architecture": "CRNetB", "border": -1}, "border must be finite and ≥ 0"),
        ({"deep": 0.5}, "CRNetA has one output; deep must be 0"),
        ({"architecture": "DRCN", "deep": 1.5}, r"deep must be in \[0, 1\]"),
    ],
)
def test_bad_fields_are_named(change: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        from_fields(change)


def test_bad_files_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("lr = ")
    with pytest.raises(RecipeError, match=r"bad\.toml is not a recipe"):
        read(bad)
    bad.write_text("lrr = 3")
    with pytest.raises(
        RecipeError, match=r"bad\.toml: unknown recipe field 'lrr'; did you mean lr"
    ):
        read(bad)
    with pytest.raises(RecipeError, match="no recipe and no file crnet-a-papr; did you mean"):
        read("crnet-a-papr")


def test_differences_are_listed() -> None:
    a = Recipe()
    assert a.differences(replace(a, steps=7, lr=0.5)) == [
        f"steps: {a.steps}, 7", f"lr: {a.lr}, 0.5"
    ]  # fmt: skip


def test_every_field_is_documented() -> None:
    assert Recipe.__doc__ is not None
    for field in fields(Recipe):
        assert field.name in Recipe.__doc__


@pytest.mark.parametrize(
    ("recipe", "has", "lacks"),
    [
        ("crnet-a-compact", {"n0", "residual", "recompute"}, {"sizes", "deep"}),
        ("crnet-b-compact", {"n0", "threshold", "border"}, {"residual", "sizes", "deep"}),
        ("srcnn-compact", {"sizes"}, {"n0", "m0", "recursions", "bias", "recompute", "deep"}),
        ("drcn", {"sizes", "deep"}, {"n0", "recursions", "recompute"}),
    ],
)
def test_a_recipe_shows_the_fields_of_its_architecture(
    recipe: str, has: set[str], lacks: set[str]
) -> None:
    shown = tomllib.loads(read(recipe).toml()).keys()
    assert has <= shown
    assert not lacks & shown
