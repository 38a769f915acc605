"""Results do not depend on workers, and a lost worker fails one item.

Solvers, CSC-SR, evaluate and upscale on workers are tested where they are.
"""

import os
import random
import time
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor

import pytest
import torch

import csc.workers
from csc import coordinate_descent, learn_dictionary
from csc.workers import Processes, each
from tests.csc.learning.test_learn import equal, planted, seed, start
from tests.csc.on_workers import Loses, die, refuse, slow_first


def test_results_come_in_the_order_of_the_items(pool: Processes) -> None:
    """On other processes, with the caller's number of threads."""
    had = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = list(each(slow_first, range(4), pool))
    finally:
        torch.set_num_threads(had)
    assert [(i, r[:2]) for i, r in found] == [(i, (i * i, 3)) for i in range(4)]
    others = {r[2] for _, r in found}
    assert os.getpid() not in others
    assert len(others) == 2


def test_without_an_executor_items_are_computed_here_one_at_a_time() -> None:
    seen: list[int] = []
    results = each(lambda n: seen.append(n) or n, iter(range(3)))
    assert next(results) == (0, 0)
    assert seen == [0]


def test_a_lost_worker_fails_one_item_and_the_rest_goes_on(pool: Processes) -> None:
    lost: list[tuple[int, str]] = []
    found = list(each(die, range(4), pool, on_lost=lambda *told: lost.append(told)))
    assert found == [(0, 0), (2, -2), (3, -3)]
    assert lost == [(1, "the process ended, perhaps for want of memory")]


def test_the_items_of_a_broken_pool_are_computed_in_a_process_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broken pool does not say which item broke it: item 1 is lost again, item 2 is not."""
    monkeypatch.setattr(csc.workers, "Processes", lambda n: Loses(0))
    with pytest.warns(RuntimeWarning, match="item 1 is left out, because its worker was lost: go"):
        assert list(each(abs, [0, -1, -2], Loses(1, BrokenExecutor("broken"), 2))) == [
            (0, 0),
            (2, 2),
        ]


def test_an_error_of_the_function_is_raised_and_ends_the_rest(pool: Processes) -> None:
    results = each(refuse, [0, 2, 1], pool)
    assert next(results) == (0, 0)
    with pytest.raises(ValueError, match="two is too many") as caught:
        next(results)
    assert "In a worker" in caught.value.__notes__[0]
    assert "in refuse" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="the number of processes must be ≥ 1"):
        Processes(0)


@pytest.mark.parametrize("workers", [1, 3])
def test_learning_does_not_depend_on_workers(workers: int, pool: Processes) -> None:
    """Bit for bit: here, on threads that end in any order, on processes."""
    x, _ = planted(images=5)
    options = {"passes": 2, "batch": 3, "patience": 4}
    here = learn_dictionary(x, start(5), 0.05, generator=seed(), **options)
    with Shuffled(workers) as threads:
        executors = [threads, pool] if workers == 1 else [threads]
        for executor in executors:
            there = learn_dictionary(
                x, start(5), 0.05, generator=seed(), executor=executor, **options
            )
            assert equal(here.state, there.state)


class Shuffled(ThreadPoolExecutor):
    """Threads whose calls end in any order."""

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        wait = random.Random(args[1]).random() / 50
        return super().submit(lambda: (time.sleep(wait), fn(*args, **kwargs))[1])


def test_learning_leaves_out_the_image_of_a_lost_worker() -> None:
    """The sums are those of the other images; a step without any image moves no atom."""
    x, _ = planted(images=3)
    with pytest.warns(RuntimeWarning, match="item 1 is left out"):
        lossy = learn_dictionary(
            iter(x), start(), 0.05, passes=1, batch=3, generator=seed(), executor=Loses(1)
        )
    rest = learn_dictionary(iter(x[[0, 2]]), start(), 0.05, passes=1, batch=2, generator=seed())
    assert torch.equal(lossy.dictionary, rest.dictionary)
    assert torch.equal(lossy.state["unused"], rest.state["unused"])
    with pytest.warns(RuntimeWarning, match="item 0 is left out"):
        none = learn_dictionary(
            iter(x), start(), 0.05, passes=1, patience=1, generator=seed(), executor=Loses(2)
        )
    assert torch.isnan(none.objective).tolist() == [False, False, True]


@pytest.mark.filterwarnings("ignore")
def test_on_a_dask_cluster() -> None:
    """The results are those computed here; a worker of the cluster that is lost fails one item."""
    distributed = pytest.importorskip("distributed", reason="needs Dask's distributed")
    dask = pytest.importorskip("dask")
    x, _ = planted()
    options = {"passes": 1, "batch": 4}
    here = learn_dictionary(x, start(), 0.05, generator=seed(), **options)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor() as executor,
    ):
        there = learn_dictionary(x, start(), 0.05, generator=seed(), executor=executor, **options)
        assert equal(here.state, there.state)
        lost: list[int] = []
        found = list(each(die, range(3), executor, on_lost=lambda i, _: lost.append(i)))
        assert found == [(0, 0), (2, -2)]
        assert lost == [1]
    assert coordinate_descent(x[:1], start(), 0.05).converged  # the kernels work on here
