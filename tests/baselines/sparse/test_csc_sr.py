"""CSC-SR, its learning and its file, against oracles written with loops and dense matrices."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from baselines import bicubic, imresize
from baselines.resample import mirror
from baselines.sparse import csc_sr_refine
from baselines.sparse.csc_sr import (
    CSCSR,
    Filters,
    card,
    effective_atoms,
    load,
    margin,
    split,
    synthesis_hr,
    upscale,
    write,
)
from baselines.sparse.csc_sr_refine import dictionary_gradient, refine
from baselines.sparse.csc_sr_train import (
    Sums,
    code_pairs,
    fit_hr,
    make_pairs,
    our_dictionary,
    project_simplex,
    train,
)
from baselines.weights import WeightsError
from crnet.data import read_y
from crnet.measuring.evaluate import evaluate, score
from crnet.measuring.protocol import degrade, psnr_and_ssim
from csc import admm, attach_gradients, coordinate_descent, random_dictionary
from csc.learning.sporco import sporco_dictionary
from csc.learning.surrogate import apply_correlations, correlation_spectrum
from csc.workers import Processes
from tests.csc.on_workers import Loses
from tests.laws import close

# Coding compiles for each k and dtype, so these keep to k = 3 and to float32 but where noted.
BUNDLED = load()


def seed(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def photo(side: int = 40, n: int = 0) -> Tensor:
    """A piecewise smooth image in [0, 1]: discs and a ramp."""
    g = seed(n)
    i = torch.arange(side, dtype=torch.float32)
    x = 0.3 + 0.3 * (i[:, None] + i) / (2 * side)
    for _ in range(6):
        p, q, r, v = torch.rand(4, generator=g).tolist()
        disc = (i[:, None] - p * side) ** 2 + (i - q * side) ** 2 < (r * side / 3) ** 2
        x = torch.where(disc, v, x)
    return x[None, None]


PHOTOS = [photo(40 + 4 * n, n) for n in range(3)]


def some_filters(scale: int = 2, N: int = 5, M: int = 7, k: int = 3) -> Filters:
    g = seed(3)
    D = random_dictionary(N, 1, k, generator=g)
    W = project_simplex(torch.rand(M, N, generator=g))
    hr = torch.randn(M, 1, scale * k, scale * k, generator=g)
    return Filters(scale, D, W, hr, 0.02, 0.2)


def some_sums(N: int = 4, scale: int = 2, k: int = 3) -> Sums:
    pairs = make_pairs(PHOTOS, scale, 0.2, k + 1)
    return code_pairs(pairs, random_dictionary(N, 1, k, generator=seed(1)), 0.01, scale)


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 30), st.integers(0, 9))
def test_the_split_solves_the_normal_equations(h: int, w: int, mu: float, pad: int) -> None:
    """(I + μ ∇ᵀ∇) l = y on the mirrored image, ∇ᵀ∇ built difference by difference."""
    y = torch.rand(1, 1, h, w, generator=seed(h * 10 + w), dtype=torch.float64)
    smooth, residual = split(y, mu, pad)
    padded = np.pad(y[0, 0].numpy(), pad, mode="symmetric")
    close(smooth + residual, torch.from_numpy(padded)[None, None], 1e-12)
    # The filter mirrors its input once more and wraps around; do so here, too.
    more = min(16, *padded.shape)
    whole = np.pad(padded, more, mode="symmetric")
    H, W = whole.shape
    differences = [np.eye(n) - np.eye(n)[np.roll(np.arange(n), -1)] for n in (H, W)]  # periodic
    axes = [mu * d.T @ d for d in differences]
    (a, U), (b, V) = (np.linalg.eigh(axis) for axis in axes)
    solved = U @ ((U.T @ whole @ V) / (1 + a[:, None] + b)) @ V.T
    inside = solved[more : H - more, more : W - more]
    close(smooth[0, 0], torch.from_numpy(inside.copy()), 1e-8)


@pytest.mark.parametrize("pad", [0, 3, 11])
def test_mirroring_is_numpys(pad: int) -> None:
    x = torch.rand(2, 1, 3, 5, generator=seed())
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="symmetric")
    assert torch.equal(mirror(x, pad), torch.from_numpy(expected))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_hr_synthesis_inserts_zeros(scale: int) -> None:
    """Every HR code by hand: mixed, put at scale · p, and an atom added there."""
    f = some_filters(scale)
    z = torch.randn(1, 5, 4, 3, generator=seed(1))
    side = 3 * scale
    expected = torch.zeros(scale * 6, scale * 5)
    for j in range(7):
        for p in range(4):
            for q in range(3):
                value = sum(f.W[j, i] * z[0, i, p, q] for i in range(5))
                window = expected[scale * p : scale * p + side, scale * q : scale * q + side]
                window += value * f.F[j, 0]
    close(synthesis_hr(z, f.W, f.F, scale)[0, 0], expected, 1e-4)


@given(st.integers(1, 5), st.integers(1, 6), st.floats(-2, 2))
def test_simplex_projection_meets_its_optimality_conditions(M: int, N: int, shift: float) -> None:
    """w ≥ 0, Σ w = 1, and v − w is θ where w > 0, at most θ elsewhere."""
    v = torch.randn(M, N, generator=seed(M * 10 + N), dtype=torch.float64) + shift
    w = project_simplex(v)
    assert (w >= 0).all()
    close(w.sum(1), torch.ones(M, dtype=torch.float64), 1e-12)
    theta = (v - w).masked_fill(w == 0, -torch.inf).amax(1, keepdim=True)
    assert ((v - w) <= theta + 1e-12).all()
    close((v - w)[w > 0], theta.expand_as(w)[w > 0], 1e-12)


@pytest.mark.parametrize(("hr_atoms", "energy"), [(3, 4.0), (9, 4.0), (9, 1e4)])
def test_training_falls_on_the_simplex_within_the_bound(hr_atoms: int, energy: float) -> None:
    sums = some_sums()
    W, hr, objective = fit_hr(sums, hr_atoms, energy, rounds=3, generator=seed())
    assert (W >= 0).all()
    close(W.sum(1), torch.ones(hr_atoms, dtype=torch.float64), 1e-9)
    norms = hr.flatten(1).square().sum(1)
    assert (norms <= energy * (1 + 1e-9)).all()
    assert (norms.max() > 0.99 * energy) == (energy == 4.0)
    assert len(objective) == 6
    falls = np.diff([sums.energy / 2, *objective])
    assert falls[0] < 0
    assert (falls <= 0).all()
    if (hr_atoms, energy) == (9, 4.0):  # the bound binds, so that the mapping matters
        assert falls[1] < 0


def planted(hr_atoms: int) -> tuple[Sums, float]:
    """Sums of HR residuals that mixtures of 6 LR codes explain exactly, and the bound e."""
    A = some_sums(N=6).A
    g = seed(7)
    W = project_simplex(torch.rand(hr_atoms, 6, generator=g, dtype=torch.float64))
    hr = torch.randn(hr_atoms, 4, 3, 3, generator=g, dtype=torch.float64)
    hr *= 2 / hr.flatten(1).norm(dim=1)[:, None, None, None]  # ‖f_j‖² = e = 4
    E = effective_atoms(W, hr)
    B = apply_correlations(correlation_spectrum(A), E)
    return Sums(A, B, float((E * B).sum())), 4.0


def test_a_planted_mixture_is_found() -> None:
    """Where copies of LR codes leave an eighth, mixtures leave half a percent."""
    sums, energy = planted(3)
    W, _, objective = fit_hr(sums, 3, energy, rounds=40, generator=seed())
    assert objective[0] > 0.1 * sums.energy / 2  # copies, and the HR atoms best for them
    assert objective[1] < 0.9 * objective[0]  # the first step in W
    assert objective[-1] < 0.006 * sums.energy / 2
    assert ((W > 0.05).sum(1) > 1).all()


def test_training_does_not_depend_on_workers(pool: Processes) -> None:
    """Bit for bit; the sums leave out the image of a lost worker."""
    images = [torch.rand(1, 1, 24 + 4 * i, 20, generator=seed(i)) for i in range(3)]
    options = {"atoms": 3, "hr_atoms": 4, "side": 3, "lam": 0.02, "rounds": 1, "refinement": 1}
    images[0] = torch.rand(1, 1, 72, 72, generator=seed())  # a crop to refine
    here, there = (
        train(images, 2, generator=seed(), executor=executor, **options)
        for executor in (None, pool)
    )
    assert torch.equal(here.filters.F, there.filters.F)
    assert here.objective == there.objective
    pairs = make_pairs(images, 2, 0.1, 4)
    with pytest.warns(RuntimeWarning, match="item 1 is left out"):
        lossy = code_pairs(pairs, here.filters.D, 0.02, 2, executor=Loses(1))
    rest = code_pairs([pairs[0], pairs[2]], here.filters.D, 0.02, 2)
    assert torch.equal(lossy.A, rest.A)
    assert lossy.energy == rest.energy


def test_hr_atoms_differ_where_the_bound_binds() -> None:
    W, hr, objective = fit_hr(some_sums(), 12, 4.0, rounds=2, generator=seed())
    assert len(hr.flatten(1).unique(dim=0)) == len(W.unique(dim=0)) == 12
    assert (np.diff(objective) < 0).all()


def test_the_objective_is_that_of_the_images() -> None:
    """½Σ‖x − l↑ − Σ f * Z‖² over the mirrored images, one by one."""
    g = seed(5)
    trained = train(PHOTOS, 2, atoms=4, hr_atoms=6, side=3, lam=0.02, mu=0.2, rounds=2, generator=g)
    f = trained.filters
    total = 0.0
    for pair in make_pairs(PHOTOS, 2, 0.2, margin(f.D)):
        z = coordinate_descent(pair.low, f.D, f.lam, tol=0.03, max_iter=300).codes
        error = pair.high - synthesis_hr(z, f.W, f.F, 2)
        total += float(error.square().sum()) / 2
    assert total == pytest.approx(trained.objective[-1], rel=1e-4)


def test_a_slack_bound_gives_least_squares() -> None:
    """As many HR as LR atoms, without a bound: the normal equations A * E = B hold."""
    sums = some_sums(N=3)
    W, hr, _ = fit_hr(sums, 3, 1e9, rounds=1, generator=seed())
    E = torch.einsum("mn,mcuv->ncuv", W, hr)
    N, C, k, _ = E.shape
    matrix = np.zeros((N * k * k, N * k * k))
    for m, u, v in np.ndindex(N, k, k):
        for n, s, t in np.ndindex(N, k, k):
            # z_m at p+u against z_n at p+s: a shift of u − s.
            entry = sums.A[m, n, k - 1 + u - s, k - 1 + v - t]
            matrix[(m * k + u) * k + v, (n * k + s) * k + t] = entry
    right = sums.B.permute(0, 2, 3, 1).reshape(N * k * k, C).numpy()
    exact = np.linalg.lstsq(matrix, right, rcond=None)[0]
    left = matrix @ E.permute(0, 2, 3, 1).reshape(N * k * k, C).numpy()
    assert np.linalg.norm(left - right) < 2e-3 * np.linalg.norm(right)
    value = lambda X: float((X * (0.5 * matrix @ X - right)).sum())  # noqa: E731
    assert value(E.permute(0, 2, 3, 1).reshape(N * k * k, C).numpy()) == pytest.approx(
        value(exact), rel=1e-5
    )


@pytest.mark.parametrize("scale", [2, 3])
def test_training_beats_bicubic_and_is_deterministic(scale: int) -> None:
    trained = [
        train(PHOTOS, scale, atoms=6, hr_atoms=8, side=3, lam=0.005, generator=seed(2))
        for _ in range(2)
    ]
    for name in "DWF":
        assert torch.equal(*(getattr(t.filters, name) for t in trained))
    unseen = (255 * photo(48, 9)).to(torch.uint8)
    net = CSCSR((trained[0].filters,))
    assert score(unseen, scale, net)[0] > score(unseen, scale, bicubic)[0] + 0.3


def test_the_gradient_in_the_atoms_is_that_of_implicit_differentiation(monkeypatch) -> None:
    """Solved directly here, iterated in :mod:`csc.implicit`."""
    monkeypatch.setattr(csc_sr_refine, "DAMPING", 0.0)
    g = seed(6)
    D = random_dictionary(6, 1, 3, generator=g, dtype=torch.float64)
    x = torch.randn(2, 1, 12, 15, generator=g, dtype=torch.float64)
    z = coordinate_descent(x, D, 0.5, tol=1e-9).codes
    slope = torch.randn(z.shape, generator=g, dtype=torch.float64)
    atoms = D.clone().requires_grad_()
    (attach_gradients(x, atoms, z, 0.5, tol=1e-10) * slope).sum().backward()
    close(dictionary_gradient(x, D, z, slope), atoms.grad, 1e-7)


def test_refinement_lowers_the_error_of_hr_images() -> None:
    images = [photo(72, n) for n in range(4)]
    heard = []
    kind = {"atoms": 5, "hr_atoms": 5, "side": 3, "lam": 0.02, "rounds": 1, "energy": 64.0}
    plain, refined = (
        train(
            images, 2, refinement=n, generator=seed(4), on_step=lambda *a: heard.append(a), **kind
        )
        for n in (0, 40)
    )
    assert [step for step, _ in heard] == list(range(1, 41))
    assert refined.objective[-1] < 0.985 * plain.objective[-1]
    close(refined.filters.D.flatten(1).norm(dim=1), torch.ones(5), 1e-5)


def test_refinement_keeps_the_bound() -> None:
    g = seed(8)
    pairs = make_pairs([photo(72)], 2, 0.2, 4)
    W = project_simplex(torch.rand(5, 4, generator=g))
    D = random_dictionary(4, 1, 3, generator=g)
    _, hr = refine(D, W, torch.zeros(5, 4, 3, 3), pairs, 0.02, 0.01, steps=20, generator=g)
    norms = hr.flatten(1).square().sum(1)
    assert 0.0099 < norms.max() < 0.0101


def test_sporcos_learning_is_an_option() -> None:
    low = [pair.low for pair in make_pairs(PHOTOS, 2, 0.2, 4)]
    D = random_dictionary(4, 1, 3, generator=seed())
    learned = sporco_dictionary(low, D, 0.02, passes=3, max_iter=20, generator=seed())
    again = sporco_dictionary(low, D, 0.02, passes=3, max_iter=20, generator=seed())
    assert torch.equal(learned, again)
    close(learned.flatten(1).norm(dim=1), torch.ones(4), 1e-5)

    def objective(D: Tensor) -> float:
        return sum(float(coordinate_descent(x, D, 0.02).objective) for x in low)

    assert objective(learned) < 0.985 * objective(D)
    assert objective(our_dictionary(low, D, 0.02, generator=seed())) < 0.97 * objective(D)
    trained = train(
        PHOTOS[:1], 2, atoms=4, hr_atoms=4, side=3, learner=sporco_dictionary, generator=seed()
    )
    assert tuple(trained.filters.D.shape) == (4, 1, 3, 3)


def test_admm_and_coordinate_descent_agree() -> None:
    """The same result within 0.02 dB, and codes as sparse."""
    f = BUNDLED.at(3)
    original = (255 * photo(60, 4)).to(torch.uint8)
    y = degrade(original, 3)
    both = {}
    for solver in (admm, coordinate_descent):
        seen = []

        def solve(*args, **kwargs):
            seen.append(solver(*args, **kwargs))  # noqa: B023
            return seen[-1]  # noqa: B023

        x = upscale(y, f, solver=solve)
        density = float((seen[0].codes != 0).float().mean())
        both[solver] = psnr_and_ssim(x, original, 3)[0], density
    (a, density_a), (b, density_b) = both.values()
    assert abs(a - b) < 0.02
    assert density_b < 1.05 * density_a < 0.05


def test_back_projection_approaches_the_lr_image() -> None:
    y = degrade((255 * photo(48, 4)).to(torch.uint8), 2)
    errors = [
        float((imresize(upscale(y, BUNDLED.at(2), back_projections=n), 0.5) - y).norm())
        for n in (0, 1, 5)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@settings(max_examples=8)
@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from([2, 3, 4]))
def test_any_size_and_a_constant_stays(h: int, w: int, scale: int) -> None:
    out = BUNDLED(torch.full((2, 1, h, w), 0.4), scale)
    close(out, torch.full((2, 1, scale * h, scale * w), 0.4), 1e-5)


def test_turning_the_image_by_its_batch() -> None:
    """Images of a batch do not see one another."""
    y = torch.cat([degrade((255 * p[..., :40, :40]).to(torch.uint8), 2) for p in PHOTOS])
    together = BUNDLED(y, 2)
    # The codes are found to a relative gap, in threads whose order of additions is not fixed.
    close(together, torch.cat([BUNDLED(one[None], 2) for one in y]), 2e-4)


def test_the_bundled_file() -> None:
    assert BUNDLED.scales == (2, 3, 4)
    assert BUNDLED.parameters == sum(BUNDLED.at(s).parameters for s in (2, 3, 4))
    about = card()["training"]
    assert "302003.jpg" in about["data"]
    for f in BUNDLED.filters:
        assert f.D.flatten(1).norm(dim=1).max() < 1.001


@pytest.mark.parametrize("f", BUNDLED.filters, ids=lambda f: f"x{f.scale}")
def test_the_bundled_mapping_mixes_and_its_bound_binds(f: Filters) -> None:
    M, N = f.W.shape
    # Two equal atoms on one code are what gives it twice the energy of the bound.
    assert len(f.F.flatten(1).unique(dim=0)) > 0.9 * M
    assert len(f.W.unique(dim=0)) > 1.25 * N
    assert (f.W.amax(1) < 0.99).float().mean() > 0.1  # mixtures
    energy = card()["training"]["by_scale"][f"x{f.scale}"]["energy"]
    norms = f.F.flatten(1).square().sum(1)
    assert norms.max() < 1.001 * energy
    assert (norms > 0.99 * energy).float().mean() > 0.9


def test_a_file_gives_back_what_it_was_given(tmp_path: Path) -> None:
    f = some_filters()
    path = tmp_path / "some.safetensors"
    write(path, [f], {"data": "none"}, {"Set5": {"2": 36.3701}})
    again = load(path, solver=admm, back_projections=0)
    assert (again.solver, again.back_projections) == (admm, 0)
    assert (again.at(2).lam, again.at(2).mu) == (f.lam, f.mu)
    for name in "DWF":
        close(getattr(again.at(2), name), getattr(f, name).half().float(), 0)
    assert card(path) == {
        "name": "csc-sr",
        "scales": {"2": {"lam": f.lam, "mu": f.mu}},
        "training": {"data": "none"},
        "psnr": {"Set5": {"2": 36.3701}},
    }


def damaged(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "some.safetensors"
    f = some_filters()
    write(path, [f], {}, {})
    content = bytearray(path.read_bytes())
    if kind == "cut":
        content = content[:-100]
    elif kind == "bit":
        content[-1] ^= 1
    elif kind == "text":
        content = bytearray(b"not weights")
    path.write_bytes(content)
    if kind == "foreign":
        save_file({"x": torch.zeros(3)}, path)
    elif kind == "nan":
        object.__setattr__(f, "F", f.F * math.nan)
        write(path, [f], {}, {})
    elif kind == "simplex":
        object.__setattr__(f, "W", 2 * f.W)
        write(path, [f], {}, {})
    elif kind == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no weights file"),
        ("text", "not a weights file"),
        ("cut", "not a weights file"),
        ("bit", "checksum"),
        ("foreign", "not a weights file of csc-crnet"),
        ("nan", "not finite"),
        ("simplex", "simplex"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, kind: str, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        load(damaged(tmp_path, kind))


Y = torch.full((1, 1, 8, 8), 0.5)
F2 = some_filters()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: upscale(Y[0], F2), ValueError, r"\(B, C, H, W\)"),
        (lambda: upscale(Y.expand(1, 3, 8, 8), F2), ValueError, "takes Y"),
        (lambda: upscale(Y * math.nan, F2), ValueError, "NaN"),
        (lambda: upscale(Y.half(), F2), TypeError, "float32 or float64"),
        (lambda: upscale(Y, F2, back_projections=-1), ValueError, "back_projections"),
        (lambda: upscale(Y, F2, tol=-1), ValueError, "tol"),
        (lambda: load(back_projections=-1), ValueError, "back_projections"),
        (lambda: CSCSR((F2,), back_projections=0.5), TypeError, "back_projections"),
        (lambda: CSCSR((F2,))(Y, 3), ValueError, r"no filters for scale 3, only for \(2,\)"),
        (lambda: CSCSR(()), ValueError, "one for each"),
        (lambda: CSCSR((F2, F2)), ValueError, "one for each"),
        (lambda: Filters(1, F2.D, F2.W, F2.F, 1, 1), ValueError, "scale must be"),
        (lambda: Filters(3, F2.D, F2.W, F2.F, 1, 1), ValueError, "HR atoms must be"),
        (lambda: Filters(2, F2.D, -F2.W, F2.F, 1, 1), ValueError, "simplex"),
        (lambda: Filters(2, F2.D, F2.W.T, F2.F, 1, 1), ValueError, "W must have shape"),
        (lambda: Filters(2, F2.D, F2.W, F2.F, 0, 1), ValueError, "lam must be"),
        (lambda: Filters(2, F2.D, F2.W, F2.F, 1, -1), ValueError, "mu must be"),
        (lambda: train([], 2), ValueError, "no images"),
        (lambda: train([Y[0]], 2), ValueError, r"images\[0\] must have shape"),
        (lambda: train([Y.expand(1, 3, 8, 8)], 2), ValueError, r"\(1, 1, H, W\)"),
        (lambda: train([Y * math.nan], 2), ValueError, "NaN"),
        (lambda: train([Y], 1), ValueError, "scale must be"),
        (lambda: train([Y], 2, side=4), ValueError, "side must be odd"),
        (lambda: train([Y], 2, atoms=0), ValueError, "atoms must be ≥ 1, got 0"),
        (lambda: train([Y], 2, atoms=2.0), TypeError, "atoms must be an integer, got 2.0"),
        (lambda: train([Y], 2, refinement=-1), ValueError, "refinement must be ≥ 0, got -1"),
        (
            lambda: train([photo(8)], 2, atoms=2, side=3, refinement=1),
            ValueError,
            "smaller than a crop",
        ),
        (lambda: train([Y], 2, energy=0), ValueError, "energy must be"),
        (lambda: train([Y], 2, lam=-1), ValueError, "lam must be"),
        (lambda: sporco_dictionary([], F2.D, 1), ValueError, "no images"),
        (lambda: sporco_dictionary([Y], F2.D, 0), ValueError, "lam must be"),
        (lambda: sporco_dictionary([Y], F2.D, 1, passes=0), ValueError, "passes must be"),
        (lambda: sporco_dictionary([Y.half()], F2.D.half(), 1), TypeError, "float32 or float64"),
        (lambda: sporco_dictionary([Y.expand(2, 1, 8, 8)], F2.D, 1), ValueError, r"\(1, C, H, W"),
    ],
)
def test_bad_input_is_named(call, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


@pytest.mark.data
@pytest.mark.parametrize(("scale", "margin_db"), [(2, 1.5), (3, 1.2), (4, 1.0)])
def test_bundled_weights_beat_bicubic_on_set5(root: Path, scale: int, margin_db: float) -> None:
    """By the bar, and by as much as the card says."""
    ours, base = evaluate({"csc-sr": BUNDLED, "bicubic": bicubic}, root, ["Set5"], [scale])
    assert ours.psnr > base.psnr + margin_db
    assert ours.psnr == pytest.approx(card()["psnr"]["Set5"][str(scale)], abs=0.02)


@pytest.mark.slow
@pytest.mark.data
def test_solvers_agree_on_a_photo(root: Path) -> None:
    original = read_y(root / "Set5" / "butterfly.png")[..., 60:188, 60:188]
    a, b = (score(original, 4, load(solver=solver))[0] for solver in (admm, coordinate_descent))
    assert abs(a - b) < 0.02


def test_card_is_json() -> None:
    assert json.loads(json.dumps(card()))["name"] == "csc-sr"
