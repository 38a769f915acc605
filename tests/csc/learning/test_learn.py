"""Dictionary learning; the laws of its sums and of its exact step are in test_surrogate.py."""

import io
import itertools
import warnings
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from csc import (
    LearningStep,
    coordinate_descent,
    lam_max,
    learn_dictionary,
    random_dictionary,
    synthesis,
)
from csc.learning.learn import _draw_patches
from csc.learning.surrogate import correlations
from tests.csc.learning.test_surrogate import sparse
from tests.laws import close

# Coding compiles for each k and C, so runs keep to k = 3, C = 1 in float64.
CODING = 1.0  # the default tolerance


def planted(M: int = 3, images: int = 4, side: int = 24) -> tuple[Tensor, Tensor]:
    """Images of M atoms at 4 % of the places, and the atoms."""
    g = torch.Generator().manual_seed(7)
    D = random_dictionary(M, 1, 3, generator=g, dtype=torch.float64)
    z = sparse(images, M, side - 2, side - 2, share=0.04, seed=8)
    return synthesis(z, D), D


def start(M: int = 3, C: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return random_dictionary(M, C, 3, generator=torch.Generator().manual_seed(9), dtype=dtype)


def seed(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def equal(a: object, b: object) -> bool:
    """Compare states, tensors bit for bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return a == b


def test_it_recovers_planted_atoms() -> None:
    """Up to sign and order; eight atoms are learned, so that each of the three finds one."""
    x, truth = planted(images=6)
    learned = learn_dictionary(x, start(8), 0.1, passes=20, generator=seed())
    correlation = truth.flatten(1) @ learned.dictionary.flatten(1).T  # (true, learned)
    assert (correlation.abs().amax(1) > 0.99).all(), correlation


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_objective_falls_and_atoms_stay_in_the_ball(nonneg: bool, batch: int) -> None:
    x, _ = planted()
    heard: list[float] = []
    learned = learn_dictionary(
        x, start(5), 0.05, nonneg=nonneg, batch=batch, passes=6, generator=seed(),
        on_step=lambda s: heard.append(float(s.dictionary.flatten(1).norm(dim=1).max())),
    )  # fmt: skip
    assert max(heard) <= 1 + 1e-12
    before, after = (
        coordinate_descent(x, D, 0.05, nonneg=nonneg).objective.mean()
        for D in (start(5), learned.dictionary)
    )
    assert after < 0.85 * before
    assert len(learned.objective) == len(heard) == 6 * (4 if batch == 1 else 2)


def test_without_a_discount_the_surrogate_is_that_of_all_images() -> None:
    """ρ = 0: the sums are those of all codes, each with the atoms of its time."""
    x, _ = planted()
    heard = []
    options = {"passes": 1, "batch": 2, "forgetting": 0.0, "coding_tol": 1e-3}
    learned = learn_dictionary(x, start(), 0.1, on_step=heard.append, **options)
    assert len(heard) == 2
    A, B = torch.zeros_like(learned.state["A"]), torch.zeros_like(learned.state["B"])
    for D, step in zip((start(), heard[0].dictionary), heard, strict=True):
        coded = coordinate_descent(x[list(step.images)], D, 0.1, tol=1e-3)
        for i, z in zip(step.images, coded.codes, strict=True):
            a, b = correlations(x[i], z)
            A, B = A + a, B + b
        assert step.objective == pytest.approx(float(coded.objective.mean()), rel=1e-12)
    close(learned.state["A"], A, 1e-10)
    close(learned.state["B"], B, 1e-10)


def test_the_discount_is_mairals() -> None:
    """An image of zeros has no codes: A and B only fade, by (1 − 1/t)^ρ."""
    x, _ = planted(images=2)
    heard = []
    x[1] = 0
    learn_dictionary(x, start(), 0.1, passes=2, forgetting=3.0, patience=99, on_step=heard.append)
    for previous, now in itertools.pairwise(heard):
        if now.images == (1,):
            close(now.state["A"], previous.state["A"] * (1 - 1 / now.step) ** 3.0, 1e-12)


def test_the_same_seed_gives_the_same_atoms() -> None:
    x, _ = planted()
    a, b, c = (learn_dictionary(x, start(), 0.05, generator=seed(n)) for n in (0, 0, 1))
    assert torch.equal(a.dictionary, b.dictionary)
    assert not torch.equal(a.dictionary, c.dictionary)


@pytest.mark.parametrize("stop", [2, 4, 7])
def test_a_resumed_run_is_the_uninterrupted_one(stop: int) -> None:
    """Bit for bit, through a file, in the middle of a pass and at its end, with re-starts."""
    x, _ = planted()
    D = start(4)
    states = []
    kwargs = {"passes": 3, "patience": 3, "generator": seed()}
    D[3] = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1, 1]).view(1, 3, 3) / 1e6  # never used
    whole = learn_dictionary(x, D, 0.05, on_step=lambda s: states.append(s.state), **kwargs)
    file = io.BytesIO()
    torch.save(states[stop - 1], file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed = learn_dictionary(x, D, 0.05, state=state, **kwargs)
    assert len(states) == 12
    assert states[-1]["D"][3].norm() == pytest.approx(1)  # it was re-started
    assert equal(resumed.state, whole.state)
    assert torch.equal(resumed.dictionary, whole.dictionary)
    assert torch.equal(resumed.objective, whole.objective)
    file.seek(0)
    assert equal(state, torch.load(file, weights_only=True))  # an argument does not change


def reader(x: Tensor) -> Iterator[Tensor]:
    """Gives images one by one, as from files.  It is a stream: it has no length and no index."""
    yield from x


@pytest.mark.parametrize("batch", [1, 2])
def test_a_stream_cut_into_pieces_is_the_whole_stream(batch: int) -> None:
    """Learning on after a state is right: pieces of other images give the whole run, bit for bit.

    With re-starts, of atoms that the first piece does not use.
    """
    x, _ = planted(images=6)
    options = {"passes": 1, "batch": batch, "patience": 3}
    whole = learn_dictionary(reader(x), start(5), 0.05, generator=seed(), **options)
    state = learn_dictionary(reader(x[:2]), start(5), 0.05, generator=seed(), **options).state
    for piece in (x[2:4], x[4:]):
        state = learn_dictionary(reader(piece), start(5), 0.05, after=state, **options).state
    assert state["step"] == len(state["objective"]) == 6 // batch
    for name in ("D", "A", "B", "unused", "random", "objective"):
        assert torch.equal(state[name], whole.state[name]), name
    restarted = learn_dictionary(x[:2], start(5), 0.05, state=None, generator=seed(), **options)
    assert restarted.state["settings"]["images"] != whole.state["settings"]["images"]


def test_learning_on_keeps_sums_and_discount_and_counts_passes_anew() -> None:
    """The images are shuffled as in any run; at ρ = 0 the sums of both runs add up."""
    x, _ = planted(images=6)
    options = {"passes": 2, "forgetting": 0.0, "patience": 99}
    first = learn_dictionary(x[:2], start(), 0.05, generator=seed(), **options)
    heard: list[LearningStep] = []
    second = learn_dictionary(
        x[2:], start(), 0.05, after=first.state, on_step=heard.append, **options
    )
    assert [s.step for s in heard] == list(range(5, 13))
    assert sorted(i for s in heard[:4] for i in s.images) == [0, 1, 2, 3]
    A = first.state["A"].clone()
    atoms = [first.dictionary, *(s.dictionary for s in heard)]
    for D, s in zip(atoms[:-1], heard, strict=True):
        (i,) = s.images
        A += correlations(x[2 + i], coordinate_descent(x[2 + i][None], D, 0.05, tol=1).codes[0])[0]
    close(second.state["A"], A, 1e-10)
    again = learn_dictionary(x[2:], start(), 0.05, state=heard[2].state, **options)
    assert equal(again.state, second.state)  # and such a run resumes like any other


def test_a_stream_holds_the_images_of_one_step() -> None:
    """An image that was coded is let go before the next batch is read."""
    x, _ = planted(images=6)
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def images() -> Iterator[Tensor]:
        nonlocal most
        for image in x:
            one = image.clone()
            alive.append(weakref.ref(one))
            most = max(most, sum(ref() is not None for ref in alive))
            yield one

    learn_dictionary(images(), start(), 0.05, passes=1, batch=2)
    assert most <= 3  # two, and the last one of the generator


class Folder:
    """An iterable that can be read again.  It has no length and no index."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.x)


def test_a_stream_is_read_in_its_order_in_every_pass() -> None:
    x, _ = planted()
    heard: list[LearningStep] = []
    learn_dictionary(Folder(x), start(), 0.05, passes=2, batch=3, on_step=heard.append)
    assert [s.images for s in heard] == [(0, 1, 2), (3,)] * 2


def test_what_a_stream_cannot_do_is_refused() -> None:
    x, D = planted()[0], start()
    state = learn_dictionary(Folder(x), D, 0.05, passes=1).state
    for match, images, options in [
        ("an iterator is read once, so it cannot give 4 passes", reader(x), {}),
        ("cannot be resumed; give the rest of it, with after=", Folder(x), {"state": state}),
        ("the stream gave no images", Folder(x[:0]), {}),
        (r"images\[2\] has 1 NaN", Folder(torch.cat([x[:2], x[:1] / 0 * 0])), {}),
        ("state to resume a run, or after", x, {"state": state, "after": state}),
        ("after comes from a run with lam", x, {"after": state, "lam": 0.06}),
        ("after comes from a run with nonneg", x, {"after": state, "nonneg": True}),
        ("after has A of shape", x, {"after": {**state, "A": state["B"]}}),
    ]:
        with pytest.raises(ValueError, match=match.replace("1 NaN", r"\d+ NaN")):
            learn_dictionary(images, D, **{"lam": 0.05, **options})
    with pytest.warns(UserWarning, match="all codes were zero"):
        learn_dictionary(Folder(x), D, 1e3, passes=1)
    with pytest.raises(TypeError, match="a torch.Tensor or a sequence or stream"):
        learn_dictionary(3, D, 0.05)


def test_a_finished_run_goes_on_with_more_passes() -> None:
    x, _ = planted()
    done = learn_dictionary(x, start(), 0.05, passes=2, generator=seed())
    longer = learn_dictionary(x, start(), 0.05, passes=3, state=done.state)
    whole = learn_dictionary(x, start(), 0.05, passes=3, generator=seed())
    assert torch.equal(longer.dictionary, whole.dictionary)
    again = learn_dictionary(x, start(), 0.05, passes=1, state=done.state)
    assert torch.equal(again.dictionary, done.dictionary)


def test_a_restarted_atom_has_no_sums() -> None:
    """Atom 1 is used by image 0 and by no other: re-started, its rows of A and B are zero."""
    D = torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    D[0, 0, 1, 1], D[1, 0] = 1, torch.tensor([[1, -1, 1], [-1, 1, -1], [1, -1, 1]]) / 3
    z = torch.zeros(3, 2, 10, 10, dtype=torch.float64)
    z[:, 0, 2, 2] = 1
    z[0, 1, 6, 6] = 1
    x = synthesis(z, D)
    heard = []
    learn_dictionary(
        x, D, 0.1, patience=2, passes=4, generator=seed(), forgetting=0.0, on_step=heard.append
    )
    restarts = [n for n, s in enumerate(heard) if 1 in s.restarted]
    assert restarts
    for n in restarts:
        before, after = heard[n - 1].state, heard[n].state
        assert before["A"][1, 1, 2, 2] > 0
        assert before["B"][1].any()
        assert not after["A"][1].any()
        assert not after["A"][:, 1].any()
        assert not after["B"][1].any()
        assert after["unused"][1] == 0
        assert after["A"][0, 0, 2, 2] > 0


def test_dead_atoms_are_restarted_from_the_residual() -> None:
    x, _ = planted()
    D = start(3)
    D[1] /= 1e6  # too short to be used
    heard = []
    learned = learn_dictionary(
        x, D, 0.05, patience=2, passes=3, generator=seed(), on_step=heard.append
    )
    assert heard[1].restarted == (1,)
    new, before, image = heard[1].dictionary[1], heard[0].dictionary, x[list(heard[1].images)]
    r = image - synthesis(coordinate_descent(image, before, 0.05, tol=CODING).codes, before)
    windows = r[0, 0].unfold(0, 3, 1).unfold(1, 3, 1).reshape(-1, 9)
    windows = windows[windows.norm(dim=1) > 0]
    cosines = windows @ new.flatten() / windows.norm(dim=1)
    assert new.norm() == pytest.approx(1)
    assert float(cosines.max()) == pytest.approx(1)
    assert heard[2].state["unused"][1] == 0
    assert learned.state["A"][1, 1, 2, 2] > 0
    assert not any(1 in s.restarted for s in heard[2:])


def test_a_restarted_atom_forgets_and_records_stand() -> None:
    """Two of three images are too faint for codes: at patience 1 they re-start every atom."""
    x = planted(images=3)[0]
    x[1:] *= 1e-3
    heard, copies = [], []

    def on_step(s: LearningStep) -> None:
        heard.append(s)
        copies.append(s.dictionary.clone())

    learn_dictionary(x, start(), 0.1, patience=1, passes=3, generator=seed(), on_step=on_step)
    for s in heard:
        nothing = s.images != (0,)
        assert s.restarted == ((0, 1, 2) if nothing else ())
        assert (s.state["A"].count_nonzero() == 0) == nothing
        assert (s.state["B"].count_nonzero() == 0) == nothing
    for s, copy in zip(heard, copies, strict=True):
        assert torch.equal(s.dictionary, copy)
    with pytest.warns(UserWarning, match="all codes are zero"):
        both = learn_dictionary(x[1:], start(), 0.1, patience=2, passes=1, batch=2)
    assert both.state["unused"].tolist() == [0, 0, 0]  # patience counts images, not steps


def test_the_first_atoms_are_projected_on_the_ball() -> None:
    x = planted()[0]
    D = start()
    D[0] *= 0.5  # stays
    runs = [
        learn_dictionary(x, atoms, 0.05, passes=1, generator=seed())
        for atoms in (D, D * torch.tensor([1.0, 2.0, 3.0]).double().view(3, 1, 1, 1))
    ]
    close(runs[0].dictionary, runs[1].dictionary, 1e-9)
    assert torch.equal(D[1:], start()[1:])  # an argument does not change


def test_every_pass_has_an_order_of_its_own() -> None:
    heard = []
    learn_dictionary(planted()[0], start(), 0.1, passes=5, generator=seed(), on_step=heard.append)
    orders = {tuple(s.images[0] for s in heard[i : i + 4]) for i in range(0, 20, 4)}
    assert len(orders) > 1
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)


def test_patches_are_those_of_the_residuals_by_energy() -> None:
    r = torch.zeros(1, 2, 6, 7, dtype=torch.float64)
    r[0, :, 4, 5] = torch.tensor([3.0, 4.0])
    other = torch.zeros(1, 2, 5, 5, dtype=torch.float64)
    patches = _draw_patches([other, r], 50, (2, 2), seed())
    assert patches.shape == (50, 2, 2, 2)
    places = patches[:, 0].flatten(1).argmax(1)
    assert places.unique().tolist() == [0, 1, 2, 3]
    close(patches[:, 0].flatten(1).amax(1), torch.full((50,), 0.6, dtype=torch.float64))
    other[0, 0, 0, 0] = 10.0  # one window of energy 100, beside four of 25
    drawn = _draw_patches([other, r], 2000, (2, 2), seed())
    share = float((drawn[:, 1].flatten(1).amax(1) == 0).double().mean())
    assert share == pytest.approx(0.5, abs=0.05)
    assert _draw_patches([0 * r], 3, (2, 2), seed()).shape == (0, 2, 2, 2)


def test_images_without_content_leave_the_atoms_alone() -> None:
    with pytest.warns(UserWarning, match=r"lam is at least λ_max = 0 .* use other images"):
        learned = learn_dictionary(torch.zeros(2, 1, 8, 8).double(), start(), 0.1, patience=1)
    assert torch.equal(learned.dictionary, start())


@pytest.mark.parametrize("nonneg", [False, True])
def test_a_weight_above_lam_max_is_told_and_moves_no_atom(nonneg: bool) -> None:
    """λ_max of the images together; just below it, nothing is told and atoms move."""
    x, _ = planted()
    most = lam_max(x, start(), nonneg=nonneg)
    options = {"nonneg": nonneg, "passes": 1, "generator": seed()}
    with pytest.warns(UserWarning, match=rf"at least λ_max = {most:.4g} .* use lam < {most:.4g}"):
        learned = learn_dictionary(x, start(), 1.0001 * most, **options)
    assert torch.equal(learned.dictionary, start())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = most * torch.tensor([0.999, 0.5, 1.001], dtype=torch.float64)
        learned = learn_dictionary(x, start(), weights, **options)
    assert not torch.equal(learned.dictionary, start())


def test_images_of_several_sizes_and_forms() -> None:
    x, _ = planted()
    several = [x[0], x[1:2, :, :15], x[2, :, 5:, 3:]]
    heard = []
    learned = learn_dictionary(several, start(), 0.05, generator=seed(), on_step=heard.append)
    assert learned.objective[-3:].mean() < learned.objective[:3].mean()
    for k in range(0, 12, 3):
        assert sorted(i for s in heard[k : k + 3] for i in s.images) == [0, 1, 2]
    same = [learn_dictionary(y, start(), 0.05, generator=seed()) for y in (x, list(x))]
    assert torch.equal(same[0].dictionary, same[1].dictionary)


def test_channels_and_a_weight_per_atom() -> None:
    """Colour; an atom of infinite price in effect is never used."""
    z = sparse(3, 3, 18, 18, share=0.04)
    x = synthesis(z, random_dictionary(3, 2, 3, generator=seed(), dtype=torch.float64))
    lam = torch.tensor([0.05, 1e6, 0.05], dtype=torch.float64)
    learned = learn_dictionary(x, start(3, 2), lam, generator=seed())
    assert learned.dictionary.shape == (3, 2, 3, 3)
    assert learned.objective[-3:].mean() < learned.objective[:3].mean()
    close(learned.dictionary[1], start(3, 2)[1], 1e-12)


@pytest.mark.parametrize("nonneg", [False, True])
def test_on_step_hears_what_happened(nonneg: bool) -> None:
    x, _ = planted()
    heard = []
    learned = learn_dictionary(
        x, start(), 0.05, nonneg=nonneg, passes=2, generator=seed(), on_step=heard.append
    )
    assert [s.step for s in heard] == list(range(1, 9))
    assert [s.objective for s in heard] == learned.objective.tolist()
    assert all(0 < s.density < 0.5 for s in heard)
    assert torch.equal(heard[-1].dictionary, learned.dictionary)
    first = coordinate_descent(x[list(heard[0].images)], start(), 0.05, nonneg=nonneg, tol=CODING)
    assert heard[0].density == float((first.codes != 0).double().mean())
    assert heard[0].objective == float(first.objective.mean())


# Bad input


def test_bad_input_is_named_before_any_work(monkeypatch) -> None:
    def work(*args: object, **kwargs: object) -> None:
        raise AssertionError("work before the checks")

    monkeypatch.setattr("csc.learning.learn.coordinate_descent", work)
    x, D = planted()[0], start()
    nan = x.clone()
    nan[2, 0, 0, 0] = torch.nan
    zero = D.clone()
    zero[1] = 0
    for error, match, images, atoms, kwargs in [
        (TypeError, "images must be a torch.Tensor or a sequence", x.numpy(), D, {}),
        (
            TypeError,
            r"images\[1\] must be a torch.Tensor, got ndarray",
            [x[0], x[1].numpy()],
            D,
            {},
        ),
        (ValueError, "there are no images", [], D, {}),
        (ValueError, r"images must have shape \(B, C, H, W\)", x[0], D, {}),
        (ValueError, r"images\[0\] must have shape \(C, H, W\) or", [x], D, {}),
        (ValueError, r"images\[2\] has 1 NaN", nan, D, {}),
        (ValueError, r"images\[1\]: an atom of 3x3 does not fit", [x[0], x[1, :, :2]], D, {}),
        (ValueError, r"images\[0\]: x has 1 channels but the atoms", x, start(3, 2), {}),
        (TypeError, r"images\[0\]: x is torch.float32", x.float(), D, {}),
        (TypeError, "float32 or float64, got torch.bfloat16", x.bfloat16(), D.bfloat16(), {}),
        (ValueError, r"atoms \[1\] are zero", x, zero, {}),
        (ValueError, "D has 9 NaN", x, D * torch.tensor([1, torch.nan, 1]).view(3, 1, 1, 1), {}),
        (ValueError, "lam must be finite and ≥ 0, got -1", x, D, {"lam": -1.0}),
        (ValueError, "lam must be finite", x, D, {"lam": float("nan")}),
        (ValueError, r"one value per atom, shape \(3,\)", x, D, {"lam": torch.ones(2)}),
        (ValueError, "batch must be ≥ 1, got 0", x, D, {"batch": 0}),
        (TypeError, "passes must be an integer, got 1.5", x, D, {"passes": 1.5}),
        (ValueError, "passes must be ≥ 0", x, D, {"passes": -1}),
        (ValueError, "patience must be ≥ 1", x, D, {"patience": 0}),
        (ValueError, "forgetting must be finite and ≥ 0", x, D, {"forgetting": -1.0}),
        (ValueError, "coding_tol must be finite", x, D, {"coding_tol": float("nan")}),
        (ValueError, "dictionary_tol must be finite", x, D, {"dictionary_tol": -1e-3}),
        (TypeError, "dictionary_tol must be a number", x, D, {"dictionary_tol": "fine"}),
        (ValueError, "threads must be ≥ 1", x, D, {"threads": 0}),
        (TypeError, "generator must be a torch.Generator, got int", x, D, {"generator": 3}),
    ]:
        with pytest.raises(error, match=match):
            learn_dictionary(images, atoms, **{"lam": 0.1, **kwargs})


def test_a_state_of_another_run_is_refused() -> None:
    x, D = planted()[0], start()
    state = learn_dictionary(x, D, 0.05, passes=1).state
    for match, images, atoms, lam, kwargs in [
        ("a run with lam = ", x, D, 0.06, {}),
        ("a run with batch = 1, this one has 2", x, D, 0.05, {"batch": 2}),
        ("a run with nonneg = False", x, D, 0.05, {"nonneg": True}),
        ("a run with images = ", x[:3], D, 0.05, {}),
        ("a run with D = ", x, start(4), 0.05, {}),
        ("a run with dtype = torch.float64", x.float(), D.float(), 0.05, {}),
    ]:
        with pytest.raises(ValueError, match=match):
            learn_dictionary(images, atoms, lam, state=state, **kwargs)
    other = x.clone()
    other[2, 0, 5, 5] += 1e-12
    for images in (other, x.flip(-1), x[[1, 0, 2, 3]]):
        with pytest.raises(ValueError, match="other images of the same sizes; give the images of"):
            learn_dictionary(images, D, 0.05, state=state)
    learn_dictionary(list(x.clone()), D, 0.05, passes=1, state=state)  # the same values will do
    learn_dictionary(other, state["D"], 0.05, passes=1)  # what the message says to do
    with pytest.raises(TypeError, match="state must be that of a LearnedDictionary"):
        learn_dictionary(x, D, 0.05, state=D)
    with pytest.raises(ValueError, match=r"state lacks \['A', 'B'"):
        learn_dictionary(x, D, 0.05, state={"D": D})
    with pytest.raises(TypeError, match="state has settings of type int, expected dict"):
        learn_dictionary(x, D, 0.05, state={**state, "settings": 3})
    with pytest.raises(ValueError, match="state's A has 225 NaN"):
        learn_dictionary(x, D, 0.05, state={**state, "A": torch.nan * state["A"]})
    with pytest.raises(ValueError, match="state has A of shape"):
        learn_dictionary(x, D, 0.05, state={**state, "A": state["B"]})


def masked(images: int = 6, share: float = 0.8) -> tuple[Tensor, Tensor]:
    """Planted images, and a mask with this share of known pixels."""
    x, _ = planted(images=images)
    return x, torch.rand(x.shape, generator=seed(3)) < share


def test_atoms_of_the_known_pixels_code_whole_images() -> None:
    """They are much better than atoms of images with zeros for the missing pixels."""
    x, mask = masked()
    atoms = (
        start(5),
        learn_dictionary(mask * x, start(5), 0.1, passes=6, generator=seed()).dictionary,
        learn_dictionary(x, start(5), 0.1, mask=mask, passes=6, generator=seed()).dictionary,
    )
    before, zeros, known = (float(coordinate_descent(x, D, 0.1).objective.sum()) for D in atoms)
    assert known < 0.7 * before
    assert known < 0.9 * zeros


def test_missing_pixels_change_nothing() -> None:
    x, mask = masked(images=2)
    other = torch.where(mask, x, 7.0)
    a, b, c = (
        learn_dictionary(images, start(), 0.1, mask=m, passes=2, generator=seed()).dictionary
        for images, m in ((x, mask), (other, mask), (list(other), list(mask)))
    )
    assert torch.equal(a, b)
    assert torch.equal(a, c)


def test_a_mask_of_known_pixels_is_as_no_mask() -> None:
    x, _ = planted(images=2)
    every = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    a, b = (
        learn_dictionary(x, start(), 0.1, mask=mask, passes=2, generator=seed()).state
        for mask in (None, every)
    )
    assert equal(a, b)


def test_a_run_resumes_with_its_mask_only() -> None:
    x, mask = masked(images=2)
    half = learn_dictionary(x, start(), 0.1, mask=mask, passes=1, generator=seed())
    whole = learn_dictionary(x, start(), 0.1, mask=mask, passes=2, generator=seed())
    resumed = learn_dictionary(x, start(), 0.1, mask=mask, passes=2, state=half.state)
    assert torch.equal(whole.dictionary, resumed.dictionary)
    with pytest.raises(ValueError, match="other images"):
        learn_dictionary(x, start(), 0.1, mask=~mask, passes=2, state=half.state)


def test_masks_that_do_not_fit_are_refused() -> None:
    x, mask = masked(images=2)
    with pytest.raises(ValueError, match="2 images but 3 masks"):
        learn_dictionary(x, start(), 0.1, mask=[mask[0]] * 3)
    with pytest.raises(TypeError, match="bool"):
        learn_dictionary(x, start(), 0.1, mask=mask.double())
    with pytest.raises(ValueError, match="broadcast"):
        learn_dictionary(x, start(), 0.1, mask=mask[..., 1:])
    with pytest.raises(ValueError, match="in memory"):
        learn_dictionary(iter(x), start(), 0.1, mask=mask, passes=1)
