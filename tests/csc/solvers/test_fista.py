"""What is FISTA's own; the laws shared with the other solvers are in test_ista.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from csc import (
    Solver,
    coordinate_descent,
    fista,
    ista,
    lam_max,
    lipschitz,
    objective,
    random_dictionary,
)
from csc.checks import spread
from csc.problem import pose
from csc.prox import nonneg_soft_threshold, soft_threshold
from csc.solvers import steps
from csc.solvers.steps import Compiled, Fourier, Spatial, choose, fast_length
from tests.csc.solvers.test_cd import atoms, photo_like
from tests.laws import Reads, close, dense

nonnegs = st.booleans()
ways = pytest.mark.parametrize("way", [Compiled, Fourier, Spatial])


@ways
@given(
    # A kind compiles for seconds.
    kind=st.sampled_from([(1, 1, 4), (1, 5, 5), (2, 3, 2)]),
    M=st.integers(1, 11),
    B=st.integers(1, 2),
    slack=st.tuples(st.integers(0, 5), st.integers(0, 70)),
    nonneg=nonnegs,
    varied=st.booleans(),
    free=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25)
def test_a_step_is_its_formula(
    way: type,
    kind: tuple[int, int, int],
    M: int,
    B: int,
    slack: tuple[int, int],
    nonneg: bool,
    varied: bool,
    free: bool,
    seed: int,
) -> None:
    """h(y + Dᵀr/L), D of it, and the two inner products, on the dense matrix; three in a row."""
    C, kh, kw = kind
    H, W = kh + slack[0], kw + slack[1]
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x, D, z = draw(B, C, H, W), draw(M, C, kh, kw), draw(B, M, 1 + slack[0], 1 + slack[1])
    z *= torch.rand(z.shape, generator=g) < 0.1
    z = z.abs() if nonneg else z
    lam = 0.5 + draw(*z.shape).abs() if varied else 1.5
    if varied and free:
        lam *= torch.rand(z.shape, generator=g) < 0.7
    p = pose(x, D, lam, nonneg=nonneg)
    A = torch.from_numpy(dense(D, (H, W)))
    steps = way(p)
    close(steps.synthesis(z).flatten(1), z.flatten(1) @ A.T)
    if not (varied and free):
        ratio = p.largest_ratio((x.flatten(1) @ A).view_as(z))
        close(steps.largest_ratio(x).flatten(), ratio.flatten())
    state = steps.begin(z)
    now = before = z
    h = nonneg_soft_threshold if nonneg else soft_threshold
    for _ in range(3):
        L, factor = (1 + draw(B, 1, 1, 1).abs() for _ in range(2))
        momentum, r = draw(B, 1, 1, 1).abs(), draw(B, C, H, W)
        steps.step(state, momentum, r, 2 * L, factor)  # a step that is taken again
        found = steps.step(state, momentum, r, L, factor)
        y = now + momentum * (now - before)
        gradient = (r.flatten(1) @ A).view_as(z)
        new = h(y + gradient / L, (factor * spread(lam, z) / L).expand_as(z))
        close(found.state.now.z, new)
        close(found.image.flatten(1), new.flatten(1) @ A.T)
        close(found.squared_move, (y - new).square().sum((1, 2, 3), keepdim=True))
        close(found.restart_test, ((y - new) * (new - now)).sum((1, 2, 3), keepdim=True))
        state, now, before = found.state, new, now


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_compiled_steps_solve_large_problems(dtype: torch.dtype, monkeypatch) -> None:
    """The three ways come to the same optimum, and so does coordinate descent."""
    monkeypatch.setattr(steps, "LARGE", 1)
    x, D = photo_like(48, 40, dtype=dtype), atoms(dtype=dtype)
    lam, tol = 0.1 * lam_max(x, D), 1e-5 if dtype == torch.float32 else 1e-8
    assert isinstance(choose(pose(x, D, lam)), Compiled)
    found = fista(x, D, lam, tol=tol, max_iter=20_000)
    assert found.converged
    monkeypatch.setattr(steps, "LARGE", 2**62)
    assert isinstance(choose(pose(x, D, lam)), Fourier)
    others = [solve(x, D, lam, tol=tol, max_iter=20_000) for solve in (fista, coordinate_descent)]
    for other in others:
        close(found.objective, other.objective, 2 * tol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_compiled_certificate_is_the_other(
    dtype: torch.dtype, nonneg: bool, varied: bool, masked: bool
) -> None:
    g = torch.Generator().manual_seed(1)
    x, D = photo_like(40, 30, dtype=dtype).repeat(2, 1, 1, 1), atoms(dtype=dtype)
    x[1] *= 0.5
    mask = torch.rand(x.shape, generator=g) < 0.8 if masked else None
    shape = (1, len(D), x.shape[2] - D.shape[2] + 1, x.shape[3] - D.shape[3] + 1)
    lam = 0.2 * lam_max(x, D) * (1 + torch.rand(shape if varied else (), generator=g)).to(dtype)
    p = pose(x, D, lam, nonneg=nonneg, mask=mask)
    z = fista(x, D, lam, nonneg=nonneg, mask=mask, tol=0.0, max_iter=20).codes
    found, other = Compiled(p).certify(z, 0.0), p.certify(z)
    close(found.objective, other.objective, 1e-12)
    assert (found.gap >= 0.99 * other.gap).all()
    assert (found.gap <= 1.12 * other.gap).all()  # float64 correlations where it would be more
    if dtype == torch.float64:
        close(found.gap, other.gap, 1e-9)


def test_a_compiled_certificate_of_negative_codes_is_infinite() -> None:
    x, D = photo_like(20, 20), atoms()
    p = pose(x, D, 0.1, nonneg=True)
    z = torch.zeros(1, len(D), 20 - D.shape[2] + 1, 20 - D.shape[3] + 1, dtype=x.dtype)
    z[0, 0, 3, 3] = -1
    assert Compiled(p).certify(z, 0.0).objective.isinf().all()


def test_what_is_chosen() -> None:
    def way(C: int, k: int, side: int, dtype: torch.dtype = torch.float32) -> type:
        x, D = torch.zeros(1, C, side, side, dtype=dtype), torch.ones(8, C, k, k, dtype=dtype)
        return type(choose(pose(x, D, 1.0)))

    assert way(1, 8, 200) is Compiled
    assert way(1, 8, 32) is Fourier
    assert way(1, 3, 32) is Spatial
    assert way(1, 20, 200) is Fourier
    assert way(64, 3, 200) is Spatial
    assert way(1, 8, 32, torch.bfloat16) is Spatial


def test_curvature_along_the_way_is_far_below_the_lipschitz_constant() -> None:
    """That is what backtracking is for: a tenth of the steps of ISTA, and few of FISTA's own."""
    x, D = photo_like(64, 64), atoms()
    lam = 0.2 * lam_max(x, D)
    best = coordinate_descent(x, D, lam, tol=1e-9).objective
    error = (fista(x, D, lam, max_iter=60, tol=0.0).objective - best) / best
    assert float(error) < 1e-3
    assert float((ista(x, D, lam, max_iter=600, tol=0.0).objective - best) / best) > float(error)
    run = []
    original = steps.Fourier.step

    def spy(self, state, momentum, r, L, factor):  # noqa: ANN001, ANN202
        run.append(float(L))
        return original(self, state, momentum, r, L, factor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.Fourier, "step", spy)
        fista(x, D, lam, max_iter=60, tol=0.0)
    assert max(run) < lipschitz(D, (64, 64)) * 1.4
    assert min(run[-20:]) < 0.8 * lipschitz(D, (64, 64))


def test_momentum_and_restarts_save_steps() -> None:
    """310 steps; without restarts it takes 1190, without momentum 1440."""
    x, D = photo_like(40, 40), atoms()
    found = fista(x, D, 0.1 * lam_max(x, D), tol=1e-6, max_iter=500)
    assert found.converged


def test_continuation_keeps_codes_sparse_on_the_way() -> None:
    """At most 4 times as many codes as at the end; at the final λ from the start it is 7 times."""
    x, D = photo_like(40, 40), atoms()
    counts: list[int] = []
    fista(
        x, D, 0.2 * lam_max(x, D), max_iter=60, tol=0.0,
        on_step=lambda k, z: counts.append(int(z.count_nonzero())),
    )  # fmt: skip
    assert max(counts) < 5 * counts[-1]


@pytest.mark.parametrize("C", [1, 16])
def test_bfloat16_is_finished_in_the_dtype_of_the_images(C: int, monkeypatch) -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2, C, 24, 20, generator=g)
    D = random_dictionary(12, C, 3, generator=g)
    lam = 0.3 * lam_max(x, D)
    used: list[torch.dtype] = []
    original = Spatial.step

    def spy(self, state, momentum, r, L, factor):  # noqa: ANN001, ANN202
        used.append(self.dtype)
        return original(self, state, momentum, r, L, factor)

    monkeypatch.setattr(Spatial, "step", spy)
    found = fista(x, D, lam, tol=1e-4, max_iter=5000, bfloat16=True)
    assert used[0] == torch.bfloat16
    assert used[-1] == torch.float32
    assert used.count(torch.bfloat16) > 10
    assert found.converged
    assert found.codes.dtype == torch.float32
    exact = coordinate_descent(x.double(), D.double(), lam, tol=1e-9)
    value = objective(x.double(), D.double(), found.codes.double(), lam)
    assert ((value - exact.objective) / exact.objective < 1e-4).all()


@pytest.mark.parametrize("threads", [2, 3, 50])
def test_threads_change_rounding_only(threads: int, monkeypatch) -> None:
    monkeypatch.setattr(steps, "LARGE", 1)
    x, D = photo_like(48, 40), atoms()
    lam, found = 0.1 * lam_max(x, D), []
    for n in (1, threads, threads):
        monkeypatch.setattr(steps, "torch_threads", lambda n=n: n)
        found.append(fista(x, D, lam, max_iter=40, tol=0.0).codes)
    close(found[1], found[0], 1e-9)
    assert torch.equal(found[1], found[2])  # from run to run: the same bits


def test_a_start_in_any_layout(monkeypatch) -> None:
    monkeypatch.setattr(steps, "LARGE", 1)
    x, D = photo_like(48, 40), atoms()
    lam = 0.1 * lam_max(x, D)
    start = fista(x, D, lam, tol=1e-2).codes
    runs = [
        fista(x, D, lam, start=z, max_iter=5, tol=0.0)
        for z in (start, start.contiguous(memory_format=torch.channels_last))
    ]
    assert torch.equal(runs[0].codes, runs[1].codes)
    close(runs[1].objective, objective(x, D, runs[1].codes, lam), 1e-12)


@pytest.mark.parametrize("large", [1, 2**62])
def test_long_runs_beside_the_optimum_stay_finite(large: int, monkeypatch) -> None:
    """Where z = 0 is optimal no step has a curvature, and L must not shrink for ever."""
    monkeypatch.setattr(steps, "LARGE", large)
    monkeypatch.setattr("csc.solvers.fista.SHRINK", 0.8)  # 0.97 takes 5000 steps to reach zero
    x, D = photo_like(12, 12, dtype=torch.float32), atoms(dtype=torch.float32)
    with pytest.warns(UserWarning, match="λ_max"):
        found = fista(x, D, 1.1 * lam_max(x, D), max_iter=1000, tol=0.0)
    assert torch.isfinite(found.objective).all()
    assert not found.codes.any()


def test_codes_that_were_reported_stand() -> None:
    """The compiled steps write to buffers again and again; a report is not one of them."""
    x, D = photo_like(120, 128), atoms()
    lam = 0.3 * lam_max(x, D)
    assert isinstance(choose(pose(x, D, lam)), Compiled)
    heard: list[tuple[Tensor, Tensor]] = []
    fista(x, D, lam, max_iter=8, tol=0.0, on_step=lambda k, z: heard.append((z, z.clone())))
    assert len(heard) == 9
    assert all(torch.equal(kept, copy) for kept, copy in heard)
    assert not torch.equal(heard[-1][0], heard[-2][0])


@given(st.integers(1, 3000))
def test_fast_lengths_have_small_prime_factors(n: int) -> None:
    smooth = {2**a * 3**b * 5**c for a in range(13) for b in range(9) for c in range(7)}
    assert fast_length(n) == min(m for m in smooth if m >= n)


@pytest.fixture
def late_reads(monkeypatch) -> None:
    """Steps as on a GPU, which is not waited for."""
    monkeypatch.setattr("csc.solvers.fista._reads_at_once", lambda x: False)


@pytest.mark.parametrize("solver", [ista, fista])
@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.usefixtures("late_reads")
def test_steps_read_no_number(solver: Solver, side: int) -> None:
    D = random_dictionary(4, 1, side, generator=torch.Generator().manual_seed(0))
    x = photo_like(20, 20, dtype=torch.float32)
    lam = 0.1 * lam_max(x, D) * torch.ones(4)  # a single λ on the CPU is read, on a GPU it is not
    counts = []
    for max_iter in (20, 60):
        with Reads() as reads:
            solver(x, D, lam, max_iter=max_iter, tol=0.0)
        counts.append(reads.count)
    assert counts[0] == counts[1]


def test_on_a_gpu_each_image_takes_the_same_steps_later(request) -> None:
    """A step with too small an L is repeated in the place of the next one, image by image."""
    g = torch.Generator().manual_seed(3)
    D = random_dictionary(6, 1, 3, generator=g, dtype=torch.float64)
    x = torch.rand(2, 1, 12, 11, generator=g, dtype=torch.float64)
    start = torch.zeros(2, 6, 10, 9, dtype=torch.float64)  # without continuation

    def steps_of_images() -> list[list[Tensor]]:
        heard: list[Tensor] = []
        fista(x, D, 0.05, start=start, max_iter=60, tol=0.0, on_step=lambda k, z: heard.append(z))
        first, *others = heard
        return [
            [first[b]]
            + [
                z[b]
                for z, before in zip(others, heard[:-1], strict=True)
                if not z[b].equal(before[b])
            ]
            for b in range(2)
        ]

    at_once = steps_of_images()
    request.getfixturevalue("late_reads")
    for late, usual in zip(steps_of_images(), at_once, strict=True):
        assert 30 < len(late) < len(usual) == 61
        torch.testing.assert_close(torch.stack(late), torch.stack(usual[: len(late)]))


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.usefixtures("late_reads")
def test_on_a_gpu_the_objective_is_the_same(nonneg: bool) -> None:
    x = torch.cat([photo_like(20, 20), 0.1 * photo_like(20, 20).flip(-1)])
    D = atoms()
    lam = 0.02 * lam_max(x, D)
    found = fista(x, D, lam, nonneg=nonneg, tol=1e-6)
    assert found.converged
    exact = coordinate_descent(x, D, lam, nonneg=nonneg, tol=1e-6).objective
    torch.testing.assert_close(found.objective, exact, rtol=2e-6, atol=0)
