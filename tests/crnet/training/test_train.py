"""Laws of the engine: what a run is does not depend on how often or by what it was cut off."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="training needs the extra `train`")

import crnet
from crnet import Upscaler, WeightsError
from crnet.errors import DataError
from crnet.loading import serialize, stored, training_state
from crnet.networks import Network, apply
from crnet.training import train as train_module
from crnet.training.module import Clock
from crnet.training.recipe import Recipe, bundled, read
from crnet.training.train import TrainingFailed, train, validation_batches
from tests.crnet.pictures import photo, save

TINY = Recipe(
    n0=8, m0=8, recursions=2, scales=(2,), sets=("photos",), validation=("valid",), exclude=(),
    steps=20, batch=4, patch=12, warmup=2, lr=3e-3,
)  # fmt: skip
# Without what is a CRNet's; running means and variances are a part of the state.
NORMALIZED = Recipe(
    **{k: v for k, v in vars(TINY).items() if k not in ("n0", "m0", "recursions", "architecture")},
    architecture="VDSR",
)
TINY_B = replace(TINY, architecture="CRNetB", scales=(2, 3), patch=8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    for name, size, n in (("photos", 60, 3), ("valid", 200, 1)):
        (root / name).mkdir()
        for i in range(n):
            save(root / name / f"{i}.png", photo(size, size, seed=i))
    return root


def go(recipe: Recipe, run: Path, data: Path, **options: object) -> Network:
    options = {"device": "cpu", "validate_every": 6, "tell_every": 5, **options}
    return train(recipe, run, data, **options)


def same(a: Network, b: Network) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(k == l and torch.equal(v, w) for (k, v), (l, w) in pairs)  # noqa: E741


class CutOffError(Exception):
    pass


def die(monkeypatch: pytest.MonkeyPatch, at: int, recipe: Recipe, run: Path, data: Path) -> None:
    """Start or resume a run and let it die in step `at`, after a checkpoint of the step before."""
    with monkeypatch.context() as patch:
        cut(patch, at)
        with pytest.raises(CutOffError):
            go(recipe, run, data, resume=run.exists())


def cut(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    from crnet.training import train as module

    step = module.Training.training_step
    check = module.Checkpoints._check

    def training_step(self, batch, batch_idx):
        if self.global_step == at:
            raise CutOffError
        return step(self, batch, batch_idx)

    def save(self, trainer, pl_module):
        check(self, trainer, pl_module)
        if trainer.global_step == at:
            self._write(trainer, pl_module, "last.ckpt")

    monkeypatch.setattr(module.Training, "training_step", training_step)
    monkeypatch.setattr(module.Checkpoints, "_check", save)


@pytest.mark.parametrize(
    "recipe",
    [TINY, replace(TINY, optimizer="muon", schedule="step", recompute=True), TINY_B,
     replace(TINY, optimizer="sgd", lr=0.01, precision="32-true", threshold=True),
     replace(NORMALIZED, architecture="DRRN", sizes={"units": 2, "maps": 8})],
    ids=["adam", "muon", "crnet-b", "sgd", "normalized"],
)  # fmt: skip
@pytest.mark.parametrize("at", [10, 12])  # validated every 6
def test_resuming_is_bit_equal(
    recipe: Recipe, at: int, data: Path, tmp_path: Path, monkeypatch
) -> None:
    """20 steps are 10, a death, and 10 more: weights, averages, optimizer, and the curve."""
    whole = go(recipe, tmp_path / "whole", data)
    die(monkeypatch, at, recipe, tmp_path / "cut", data)
    assert training_state(tmp_path / "cut" / "last.ckpt")["global_step"] == at
    resumed = go(recipe, tmp_path / "cut", data, resume=True)
    assert same(whole, resumed)
    a, b = (training_state(tmp_path / run / "last.ckpt") for run in ("whole", "cut"))
    assert a["global_step"] == b["global_step"] == 20
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(v, b[key][k]) for k, v in a[key].items())
    moments = [list(s["optimizer_states"][0]["state"].values()) for s in (a, b)]
    for one, other in zip(*moments, strict=True):
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(other[k])) for k, v in one.items()
        )
    assert [s for s, _ in a["history"]] == [s for s, _ in b["history"]] == [6, 12, 18]
    assert a["history"] == b["history"]
    assert same(go(recipe, tmp_path / "cut", data, resume=True), whole)  # nothing left to do


def test_it_learns_and_ships_averages(data: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, steps=150, optimizer="muon")
    net = go(recipe, tmp_path, data, validate_every=5)
    state = training_state(tmp_path / "last.ckpt")
    values = [value for _, value in state["history"]]
    assert len(values) == 30
    assert values[-1] > values[0]
    assert not net.training
    for name, averaged in net.state_dict().items():
        assert torch.equal(averaged, state["state_dict"][f"net.{name}"])
    last, mean = state["current_model_state"]["net.H.weight"], net.state_dict()["H.weight"]
    assert 0 < (last - mean).abs().max() < 0.1
    loaded = crnet.load(tmp_path / "last.ckpt")
    assert same(loaded, net)
    card = crnet.card(tmp_path / "best.ckpt")
    assert card.architecture == "CRNetA"
    # The best checkpoint is that of the first step with the best value.
    best, at = max(values), 5 * (values.index(max(values)) + 1)
    assert training_state(tmp_path / "best.ckpt")["history"][-1] == [at, best]
    assert card.training["curve"].endswith(f"{at}: {best:.2f}")


def test_averages_are_their_formula(data: Path, tmp_path: Path, monkeypatch) -> None:
    """The first is the weights; then the decay is (n + 1) / (n + 10), at most the recipe's."""
    seen: list[torch.Tensor] = []

    def keep(self, outputs, batch, batch_idx):
        seen.append(self.net.cista.S.detach().clone())

    monkeypatch.setattr(train_module.Training, "on_train_batch_end", keep)
    net = go(replace(TINY, ema=0.5), tmp_path, data)
    mean = seen[0]
    for n, weight in enumerate(seen[1:], 1):
        mean = torch.lerp(mean, weight, 1 - min(0.5, (n + 1) / (n + 10)))
    assert len(seen) == 20
    torch.testing.assert_close(net.cista.S.detach(), mean)


def test_workers_are_spawned_and_change_nothing(data: Path, tmp_path: Path, monkeypatch) -> None:
    recipe = replace(TINY, steps=2, validation=())
    alone = go(recipe, tmp_path / "alone", data)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    assert same(go(recipe, tmp_path / "helped", data, workers=1), alone)


def test_logs_are_kept_per_start(data: Path, tmp_path: Path) -> None:
    go(TINY, tmp_path, data)
    with (tmp_path / "logs" / "0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"loss", "psnr", "live", "images_per_second", "step"} <= rows[0].keys()
    assert any(row["psnr"] for row in rows)
    assert list((tmp_path / "logs" / "0").glob("events.out.tfevents*"))
    assert read(tmp_path / "recipe.toml") == TINY
    go(TINY, tmp_path, data, resume=True)
    assert (tmp_path / "logs" / "0" / "metrics.csv").exists()


def test_a_different_recipe_is_refused_with_the_differences(data: Path, tmp_path: Path) -> None:
    go(TINY, tmp_path, data)
    before = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(WeightsError, match=r"different recipe .*: steps: 30, 20; lr: 0.1, 0.003"):
        go(replace(TINY, steps=30, lr=0.1), tmp_path, data, resume=True)
    with pytest.raises(FileExistsError, match="holds a run; pass --resume"):
        go(TINY, tmp_path, data)
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_other_images_are_refused(data: Path, tmp_path: Path) -> None:
    go(TINY, tmp_path / "run", data)
    other = tmp_path / "other"
    for name in ("photos", "valid"):
        (other / name).mkdir(parents=True)
        save(other / name / "0.png", photo(200, 200, seed=7))
    with pytest.raises(WeightsError, match="trained on other images"):
        go(TINY, tmp_path / "run", other, resume=True)


def test_a_damaged_checkpoint_falls_back_on_the_previous_one(
    data: Path, tmp_path: Path, monkeypatch
) -> None:
    whole = go(TINY, tmp_path / "whole", data)
    run = tmp_path / "run"
    for at in (6, 10):
        die(monkeypatch, at, TINY, run, data)
    assert training_state(run / "previous.ckpt")["global_step"] == 6
    last = (run / "last.ckpt").read_bytes()
    for damaged in (last[: len(last) // 2], b"", b"PK\x03\x04 not ours"):
        (run / "last.ckpt").write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"last\.ckpt is damaged or not a checkpoint"):
            training_state(run / "last.ckpt")
    die(monkeypatch, 8, TINY, run, data)  # a second save does not touch the one that was whole
    assert training_state(run / "last.ckpt")["global_step"] == 8
    assert training_state(run / "previous.ckpt")["global_step"] == 6
    assert same(go(TINY, run, data, resume=True), whole)


def test_no_readable_checkpoint_is_an_error_and_touches_nothing(data: Path, tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"garbage")
    with pytest.raises(WeightsError, match="move the run away"):
        go(TINY, tmp_path, data, resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_foreign_checkpoint_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "boom"),))

    torch.save({"recipe": Bomb()}, tmp_path / "a.ckpt")
    torch.save({"epoch": 3}, tmp_path / "b.ckpt")
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(WeightsError, match="damaged or not a checkpoint of crnet"):
            crnet.load(tmp_path / name)
    assert not (tmp_path / "boom").exists()


def test_weights_with_nan_are_refused(data: Path, tmp_path: Path) -> None:
    go(TINY, tmp_path, data)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state["state_dict"]["net.H.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "nan.ckpt")
    with pytest.raises(WeightsError, match="not finite"):
        crnet.load(tmp_path / "nan.ckpt")


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
    data: Path, tmp_path: Path, monkeypatch
) -> None:
    from crnet.training import train as module

    die(monkeypatch, 7, TINY, tmp_path, data)
    good = (tmp_path / "last.ckpt").read_bytes()
    step = module.Training.training_step
    monkeypatch.setattr(
        module.Training, "training_step", lambda self, *a: step(self, *a) * float("nan")
    )
    with pytest.raises(
        TrainingFailed,
        match=r"step \d+, learning rate 0.00\d+: the (loss is nan|weights are not finite|network "
        r"returned NaN .*); the last good checkpoint is .*last\.ckpt of step 7; start from it",
    ):
        go(TINY, tmp_path, data, resume=True)
    assert (tmp_path / "last.ckpt").read_bytes() == good


@pytest.mark.parametrize("validate_every", [1, 1000])
def test_a_run_that_diverges_says_when_and_where_to_go_on(
    data: Path, tmp_path: Path, validate_every: int
) -> None:
    """Also where the validation sees it first, as it does with a rate of 1e30."""
    recipe = replace(TINY, lr=1e30, warmup=0, ema=0.0, optimizer="sgd", precision="32-true")
    with pytest.raises(
        TrainingFailed, match=r"^step \d+, learning rate .*e\+\d+: .*(not finite|nan|inf|NaN).*; "
    ) as told:
        go(recipe, tmp_path, data, validate_every=validate_every)
    saved = list(tmp_path.glob("*.ckpt"))
    assert ("there is no checkpoint yet" in str(told.value)) == (not saved)


@pytest.mark.parametrize("tell_every", [5, 1000])
def test_dead_codes_stop_the_run_and_are_not_saved(
    data: Path, tmp_path: Path, monkeypatch, tell_every: int
) -> None:
    from crnet.training import train as module

    build = module.build

    def dead(recipe: Recipe, **options: bool) -> Network:
        net = build(recipe, **options)
        with torch.no_grad():
            net.cista.W.copy_(-net.cista.W.abs())  # features are ≥ 0, so no code can be on
        return net

    monkeypatch.setattr(module, "build", dead)
    with pytest.raises(TrainingFailed, match="all codes are zero"):
        go(TINY, tmp_path, data, tell_every=tell_every)
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_full_disk_keeps_the_last_checkpoint(data: Path, tmp_path: Path, monkeypatch) -> None:
    from crnet.training import callbacks

    die(monkeypatch, 7, TINY, tmp_path, data)
    good = (tmp_path / "last.ckpt").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            go(TINY, tmp_path, data, resume=True)
    assert (tmp_path / "last.ckpt").read_bytes() == good
    assert not list(tmp_path.glob(".*.part"))
    go(TINY, tmp_path, data, resume=True)


RUN = """
import sys
from pathlib import Path
from crnet.training.train import train
from tests.crnet.training.test_train import TINY
from dataclasses import replace
recipe = replace(TINY, steps=int(sys.argv[4]))
try:
    train(recipe, Path(sys.argv[1]), sys.argv[2], device="cpu", validate_every=6, tell_every=5,
          save_minutes=float(sys.argv[3]), bar=True, resume=Path(sys.argv[1]).exists())
except KeyboardInterrupt:  # what Python exits with by itself depends on what is imported
    sys.exit(130)
"""


def child(run: Path, data: Path, minutes: float, steps: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(run), str(data), str(minutes), str(steps)],
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_steps(process: "subprocess.Popen[str]", steps: int) -> int:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= steps:
            return int(line.split()[1].split("/")[0])
    raise AssertionError("the run ended")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_saves_and_nothing_is_lost(
    data: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    process = child(tmp_path / "cut", data, 60, 2000)
    seen = wait_for_steps(process, 10)
    process.send_signal(sent)
    process.communicate(timeout=600)
    assert process.returncode == 128 + sent
    state = training_state(tmp_path / "cut" / "last.ckpt")
    assert seen <= (at := state["global_step"]) < 2000
    # The same steps without a signal, cut off there, leave the same state.
    with pytest.MonkeyPatch.context() as patch:
        die(patch, at, replace(TINY, steps=2000), tmp_path / "whole", data)
    whole = training_state(tmp_path / "whole" / "last.ckpt")
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(v, whole[key][k]) for k, v in state[key].items())
    assert state["history"] == whole["history"]


def test_signals_are_given_back(data: Path, tmp_path: Path, monkeypatch) -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    go(TINY, tmp_path / "whole", data)
    die(monkeypatch, 7, TINY, tmp_path / "cut", data)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_kill_9_during_checkpoints_leaves_a_whole_one(data: Path, tmp_path: Path) -> None:
    for seen in range(2):
        process = child(tmp_path, data, 1e-9, 100_000)  # a checkpoint every step
        wait_for_steps(process, 20)
        time.sleep(0.02 * seen)
        process.kill()
        process.communicate(timeout=600)
        readable = []
        for name in ("last.ckpt", "previous.ckpt"):
            if (tmp_path / name).exists():
                readable.append(training_state(tmp_path / name)["global_step"])
        assert max(readable) >= 10


DDP = """
import sys, torch
from pathlib import Path
from crnet.training import train as module
from tests.crnet.training.test_train import TINY, TINY_B
run, data, kind, devices = Path(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])

def keep(self):
    torch.save(self.net.state_dict(), run / f"rank{self.global_rank}.pt")

module.Training.on_train_end = keep
recipe = {"a": TINY, "b": TINY_B}[kind]
module.train(recipe, run, data, device="cpu", devices=devices, tell_every=5, validate_every=6)
"""


@pytest.mark.parametrize(
    ("kind", "launcher", "devices"),
    [
        ("a", [], 2),
        pytest.param(
            "b", ["-m", "torch.distributed.run", "--nproc-per-node", "2"], 1, marks=pytest.mark.slow
        ),
    ],
    ids=["crnet-a", "crnet-b-torchrun"],
)
def test_two_processes_train_one_network(
    data: Path, tmp_path: Path, kind: str, launcher: list[str], devices: int
) -> None:
    """Equal parameters on both ranks, and up to rounding those of one process."""
    script, run = tmp_path / "ddp.py", tmp_path / "run"
    script.write_text(DDP)
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    if launcher:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            launcher = [*launcher, "--master-port", str(free.getsockname()[1])]
    subprocess.run(
        [sys.executable, *launcher, str(script), str(run), str(data), kind, str(devices)],
        check=True, env=environment, capture_output=True, timeout=600,
    )  # fmt: skip
    one, two = (torch.load(run / f"rank{i}.pt", weights_only=True) for i in (0, 1))
    assert all(torch.equal(v, two[k]) for k, v in one.items())
    recipe = {"a": TINY, "b": TINY_B}[kind]
    go(recipe, tmp_path / "alone", data)
    state = training_state(tmp_path / "alone" / "last.ckpt")["current_model_state"]
    alone = {k: state[f"net.{k}"] for k in one}
    start = train_module.build(recipe).state_dict()
    moved = sum(float((alone[k] - start[k]).norm()) for k in alone)
    apart = sum(float((alone[k] - one[k]).norm()) for k in alone)
    assert apart < 0.1 * moved


def unmoved(net: Network, recipe: Recipe) -> list[str]:
    """The parameters that are as they started, but for those of scales, not all of which ran."""
    start = dict(train_module.build(recipe).named_parameters())
    own = ("before.", "units.", "upsamplers.")
    same = (k for k, p in net.named_parameters() if torch.equal(p, start[k]))
    return [k for k in same if not k.startswith(own)]


@pytest.mark.parametrize("name", ["crnet-a-paper", "crnet-b-paper"])
def test_the_papers_recipes_train(name: str, data: Path, tmp_path: Path) -> None:
    """Some steps of the recipe itself: its network, loss, optimizer and schedule."""
    small = {"sets": ("photos",), "validation": (), "batch": 1, "patch": 8, "steps": 2}
    recipe = read(name, {**small, "exclude": ()})
    net = go(recipe, tmp_path, data)
    assert net.cista.recursions == 25
    assert unmoved(net, recipe) == []
    assert all(torch.isfinite(p).all() for p in net.parameters())


SMALL = {
    "scn": {"M": 64}, "srcnn": {}, "vdsr": {"depth": 3, "maps": 8},
    "red30": {"depth": 3, "maps": 8},
    "drcn": {"maps": 8, "recursions": 2}, "drrn": {"units": 2, "maps": 8},
    "memnet": {"blocks": 2, "units": 2, "maps": 8},
    "srdensenet": {"blocks": 1, "layers": 2, "growth": 4, "bottleneck": 8},
    "msrn": {"blocks": 1, "maps": 8}, "d-dbpn": {"stages": 2, "maps": 4, "features": 8},
    "edsr": {"blocks": 1, "maps": 8}, "mdsr": {"blocks": 1, "maps": 8},
    "rdn": {"blocks": 1, "layers": 2, "growth": 4, "maps": 8},
    "srcnn-compact": {}, "vdsr-compact": {"depth": 3, "maps": 8},
    "drrn-compact": {"units": 2, "maps": 8, "normalize": False},
}  # fmt: skip


def test_every_recipe_is_tried() -> None:
    assert set(SMALL) == {n for n in bundled() if not n.startswith("crnet-")}


@pytest.mark.parametrize("name", SMALL)
def test_the_recipes_of_the_other_networks_train(name: str, data: Path, tmp_path: Path) -> None:
    """Some steps of a small one; its checkpoint is loaded, upscales, and is written as weights."""
    small = {"sets": ("photos",), "validation": ("valid",), "batch": 2, "patch": 12, "steps": 2}
    recipe = read(name, {**small, "exclude": (), "sizes": SMALL[name]})
    net = go(recipe, tmp_path, data, validate_every=2)
    assert unmoved(net, recipe) == []
    loaded = crnet.load(tmp_path / "last.ckpt")
    assert same(loaded, net)
    upscaler, scale = Upscaler(loaded), recipe.scales[-1]
    x = torch.rand(1, upscaler.channels, 9, 7, generator=torch.Generator().manual_seed(0))
    out = upscaler(x, scale)
    assert out.shape == (1, upscaler.channels, 9 * scale, 7 * scale)
    about = crnet.card(tmp_path / "last.ckpt")
    (tmp_path / "w.safetensors").write_bytes(serialize(loaded, about))
    assert torch.equal(Upscaler(crnet.load(tmp_path / "w.safetensors"))(x, scale), out)


@pytest.mark.parametrize(
    ("loss", "expected"), [("l1", 0.75), ("l2", 0.625), ("l2-sum", 0.5 * 4 * 0.625)]
)
def test_losses_are_their_formulas(loss: str, expected: float, data: Path) -> None:
    """Of errors of ½ and 1 in patches of four pixels; l2-sum is eq. 15, ½ Σ, mean of patches."""
    recipe = replace(TINY, loss=loss)
    module = train_module.Training(recipe, train_module.build(recipe), [], [])
    target = torch.zeros(2, 1, 2, 2)
    image = torch.stack([torch.full((1, 2, 2), 0.5), -torch.ones(1, 2, 2)])
    assert float(module._loss(image, target)) == pytest.approx(expected)


def test_deep_supervision_is_the_mean_of_the_losses(data: Path) -> None:
    recipe = replace(
        NORMALIZED, architecture="DRCN", sizes={"maps": 8, "recursions": 3}, deep=0.25, loss="l2"
    )
    net, g = train_module.build(recipe), torch.Generator().manual_seed(0)
    with torch.no_grad():  # at first all recursions make the same image
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=g))
    module = train_module.Training(
        recipe,
        net,
        *train_module._read(recipe, data, False, data, torch.device("cpu"), train_module._silent),
    )
    module.log = lambda *_: None  # outside a run there is no log
    x, target = torch.rand(2, 2, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    losses = [(image - target).square().mean() for image in net.predictions(x)]
    assert max(losses) - min(losses) > 0.01
    expected = 0.25 * sum(losses) / 3 + 0.75 * (net(x) - target).square().mean()
    torch.testing.assert_close(module.training_step((x, target, 0), 0), expected)


@pytest.mark.parametrize("recipe", [TINY, TINY_B], ids=["crnet-a", "crnet-b"])
def test_validation_is_psnr_on_y_without_a_border(
    recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    """Of the averaged weights, against PSNR written out; not clipped to Y's 16 to 235."""
    recipe = replace(recipe, steps=2, scales=(2,), precision="32-true")
    net = go(recipe, tmp_path, data, validate_every=2)
    ((_, measured),) = training_state(tmp_path / "last.ckpt")["history"]
    ((x, hr, scale),) = validation_batches(recipe, data)
    with torch.no_grad():
        out = (255 * apply(net, x, scale)).round().clamp(0, 255)
    if net.rgb:
        weights = torch.tensor([65.481, 128.553, 24.966])[:, None, None] / 255
        out, hr = ((weights * image).sum(1) for image in (out, hr))
    error = (out - hr)[..., 2:-2, 2:-2]
    psnr = 10 * torch.log10(255**2 / error.square().mean())
    assert measured == pytest.approx(float(psnr), abs=1e-3)


def test_a_teacher_is_followed_and_its_images_are_kept(data: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, teacher="crnet-b", steps=4)
    taught = go(recipe, tmp_path / "taught", data)
    kept = (tmp_path / "taught" / "teacher.pt").stat()
    assert same(go(recipe, tmp_path / "taught", data, resume=True), taught)
    assert (tmp_path / "taught" / "teacher.pt").stat().st_mtime_ns == kept.st_mtime_ns
    assert not same(go(replace(recipe, teacher=""), tmp_path / "alone", data), taught)
    with pytest.raises(WeightsError, match="no model and no file nobody"):
        go(replace(recipe, teacher="nobody"), tmp_path / "none", data)


def test_bad_calls_are_refused_before_any_work(data: Path, tmp_path: Path) -> None:
    for options in (
        {"devices": 3}, {"devices": 0}, {"workers": -1}, {"save_minutes": 0.0}, {"device": "cuda"},
        {"device": "abacus"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"must be|does not divide|CUDA|abacus"):
            go(TINY, tmp_path / "run", data, **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        go(TINY, tmp_path / "file" / "run", data)
    with pytest.raises(ValueError, match=r"run does not exist; leave --resume out"):
        go(TINY, tmp_path / "run", data, resume=True)
    with pytest.raises(ValueError, match="minutes trains on one device"):
        go(replace(TINY, minutes=1.0), tmp_path / "run", data, devices=2)
    with pytest.raises(DataError, match="none is not a folder"):
        go(replace(TINY, sets=("none",)), tmp_path / "run", data)
    with pytest.raises(WeightsError, match="do not fit the recipe"):
        go(replace(TINY, start="crnet-a"), tmp_path / "run", data)
    assert not (tmp_path / "run").exists()


def test_it_starts_from_weights(data: Path, tmp_path: Path) -> None:
    first = go(TINY, tmp_path / "first", data)
    start = str(tmp_path / "first" / "last.ckpt")
    built = train_module.build(replace(TINY, start=start))
    assert same(built, first)
    second = replace(TINY, start=start)
    go(second, tmp_path / "second", data)
    (tmp_path / "first" / "last.ckpt").unlink()
    go(second, tmp_path / "second", data, resume=True)  # what it started from is not needed again


SMALL_EDSR = replace(NORMALIZED, architecture="EDSR", sizes={"blocks": 1, "maps": 4})


@pytest.mark.parametrize("scale", [3, 4])
@pytest.mark.parametrize("there", [2, 4])
def test_it_starts_from_another_scale_but_for_the_upsampler(
    scale: int, there: int, tmp_path: Path, capsys
) -> None:
    first = train_module.build(replace(SMALL_EDSR, scales=(there,), seed=1))
    arguments = {"blocks": 1, "maps": 4, "scale": there, "size": 0.1}  # one as it is by default
    file = tmp_path / "first.safetensors"
    file.write_bytes(serialize(first, crnet.Card("first", "EDSR", arguments, (there,), {}, {})))
    recipe = replace(SMALL_EDSR, scales=(scale,))
    fresh = train_module.build(recipe).state_dict()
    built = train_module.build(replace(recipe, start=str(file)), tell=True).state_dict()
    for key, value in built.items():
        new = scale != there and key.startswith("tail.0.")
        assert torch.equal(value, (fresh if new else first.state_dict())[key]), key
    told = capsys.readouterr().err
    assert told.endswith("its upsampler, tail.0, is left out\n") == (scale != there)
    assert told.count("\n") == (scale != there)
    for other in (
        replace(recipe, sizes={"blocks": 2, "maps": 4}),
        replace(recipe, sizes={"blocks": 1, "maps": 8}),
        replace(recipe, architecture="MSRN"),
    ):
        with pytest.raises(WeightsError, match="do not fit the recipe"):
            train_module.build(replace(other, start=str(file)))


@pytest.mark.parametrize("architecture", ["SparseCRNetA", "SparseCRNetB"])
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_a_start_with_fewer_blocks_gives_the_same_images_first(
    blocks: int, architecture: str, tmp_path: Path
) -> None:
    sizes = {"blocks": blocks, "rank": 4, "atom": 3}
    recipe = replace(TINY, architecture=architecture, recursions=1, sizes=sizes, scales=(2, 3))
    first = train_module.build(recipe)
    file = tmp_path / "first.safetensors"
    card = crnet.Card("first", architecture, recipe.network(), (2, 3), {}, {})
    file.write_bytes(serialize(first, card))
    recipe = replace(recipe, start=str(file), seed=1)
    grown = train_module.build(replace(recipe, sizes={**sizes, "blocks": 4}))
    assert len(grown.coder.stack.blocks) == 4
    x = torch.rand(2, 3 if first.rgb else 1, 9, 8, generator=torch.Generator().manual_seed(1))
    scale = (2,) if first.takes_scale else ()
    torch.testing.assert_close(grown(x, *scale), first(x, *scale))
    grown(x, *scale).square().sum().backward()  # the ways back that start at zero are trained
    assert all(H.grad.abs().sum() > 0 for H in grown.coder.stack.back)
    for other in ({**sizes, "blocks": blocks - 1}, {**sizes, "blocks": 5, "rank": 2}):
        if other["blocks"]:
            with pytest.raises(WeightsError, match="do not fit the recipe"):
                train_module.build(replace(recipe, sizes=other))


SECONDS, STEP = 4.0, 0.125
TIMED = replace(TINY, minutes=SECONDS / 60, steps=1, precision="32-true")


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let every step take an eighth of a second; a list that fills with the rate of each step."""
    seen: list[float] = []
    step = train_module.Training.training_step

    def training_step(self, batch, batch_idx):
        seen.append(self.trainer.optimizers[0].param_groups[0]["lr"] / TIMED.lr)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(train_module.Training, "training_step", training_step)
    monkeypatch.setattr(Clock, "now", staticmethod(lambda: STEP * len(seen)))
    return seen


def test_a_run_of_some_minutes_ends_in_time_and_annealed(
    rates: list[float], data: Path, tmp_path: Path
) -> None:
    net = go(TIMED, tmp_path, data)
    state = training_state(tmp_path / "last.ckpt")
    assert state["seconds"] == SECONDS
    assert state["global_step"] == len(rates) == SECONDS / STEP
    assert rates == pytest.approx([TIMED.rate(n, n * STEP / SECONDS) for n in range(len(rates))])
    assert max(rates) > 0.99
    assert rates[-1] < 0.01
    assert read(tmp_path / "recipe.toml") == TIMED
    assert same(go(TIMED, tmp_path, data, resume=True), net)  # nothing left to do
    assert training_state(tmp_path / "last.ckpt")["global_step"] == SECONDS / STEP


def test_a_run_of_some_minutes_keeps_its_clock(
    rates: list[float], data: Path, tmp_path: Path, monkeypatch
) -> None:
    """Cut off and resumed, it goes on at its time, and ends as one that was not cut off."""
    whole = go(TIMED, tmp_path / "whole", data)
    wanted, rates[:] = list(rates), []
    die(monkeypatch, 16, TIMED, tmp_path / "cut", data)
    assert training_state(tmp_path / "cut" / "last.ckpt")["seconds"] == SECONDS / 2
    # The time between the two starts does not count.
    monkeypatch.setattr(Clock, "now", staticmethod(lambda: 1000 + STEP * len(rates)))
    resumed = go(TIMED, tmp_path / "cut", data, resume=True)
    assert rates == wanted
    assert same(resumed, whole)


def test_a_run_stops_by_the_clock_of_the_machine(data: Path, tmp_path: Path) -> None:
    go(replace(TIMED, minutes=0.5 / 60), tmp_path, data)
    state = training_state(tmp_path / "last.ckpt")
    assert state["global_step"] >= 1
    assert state["seconds"] >= 0.5


@pytest.mark.parametrize("recipe", [TINY, TINY_B], ids=["crnet-a", "crnet-b"])
def test_a_run_whose_device_cuts_the_patches_is_the_same(
    recipe: Recipe, data: Path, tmp_path: Path, monkeypatch
) -> None:
    """Here the device is the CPU too; CRNet-A's enlargement differs by rounding."""
    recipe = replace(recipe, optimizer="muon", precision="32-true")
    whole = go(recipe, tmp_path / "whole", data).state_dict()
    monkeypatch.setattr(train_module.Training, "on_gpu", True)
    there = go(recipe, tmp_path / "there", data).state_dict()
    for name, weight in whole.items():
        torch.testing.assert_close(there[name], weight, rtol=1e-2, atol=1e-3)
    if recipe is TINY_B:
        assert all(torch.equal(there[name], weight) for name, weight in whole.items())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("recipe", [TINY, TINY_B], ids=["crnet-a", "crnet-b"])
def test_a_gpu_trains_as_the_cpu_does(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    recipe = replace(recipe, optimizer="muon", precision="32-true")
    start = train_module.build(recipe).state_dict()
    here = go(recipe, tmp_path / "here", data).state_dict()
    there = go(recipe, tmp_path / "there", data, device="cuda").state_dict()
    moved = sum(float((here[k] - v).norm()) for k, v in start.items())
    apart = sum(float((here[k] - v.cpu()).norm()) for k, v in there.items())
    assert apart < 0.1 * moved


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_step_does_not_wait_for_the_gpu(data: Path, tmp_path: Path, monkeypatch) -> None:
    """From the batch to the averages, between two reports; an error where torch would wait."""
    step = train_module.Training.training_step

    def training_step(self, batch, batch_idx):
        inside = 10 < self.global_step < 19  # reports are at 10 and 20
        torch.cuda.set_sync_debug_mode("error" if inside else "default")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(train_module.Training, "training_step", training_step)
    recipe = replace(TINY_B, optimizer="muon", validation=(), steps=25)
    try:
        go(recipe, tmp_path, data, device="cuda", tell_every=10)
    finally:
        torch.cuda.set_sync_debug_mode("default")


BARE = """
import importlib.metadata, sys
absent = ["sporco", "skimage", "scikit-image", "matplotlib", "tensorboard"]
sys.modules.update(dict.fromkeys(absent))
distribution = importlib.metadata.distribution

def without(name):  # torchmetrics imports matplotlib where it is installed
    if name in absent:
        raise importlib.metadata.PackageNotFoundError(name)
    return distribution(name)

importlib.metadata.distribution = without
from dataclasses import replace
from pathlib import Path
from crnet.training.recipe import Recipe
from crnet.training.train import train
small = {"n0": 8, "m0": 8, "recursions": 1, "scales": (2,), "validation": (), "exclude": ()}
recipe = Recipe(**small, sets=("photos",), steps=2, batch=2, patch=12)
train(recipe, Path(sys.argv[1]), sys.argv[2], device="cpu")
"""


def test_training_needs_neither_sporco_nor_plots(data: Path, tmp_path: Path) -> None:
    """torch, lightning, numba, pillow and safetensors are enough."""
    subprocess.run([sys.executable, "-c", BARE, str(tmp_path / "run"), str(data)], check=True)
    assert (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize(("chosen", "told"), [("float32", "32-true"), ("bfloat16", "bf16-mixed")])
def test_a_run_records_the_precision_that_auto_chose(
    monkeypatch, data: Path, tmp_path: Path, capsys, chosen: str, told: str
) -> None:
    monkeypatch.setattr("crnet.precision.fastest", lambda device: chosen)
    go(replace(TINY, steps=2), tmp_path / "run", data, bar=True)
    last = tmp_path / "run" / "last.ckpt"
    assert training_state(last)["precision"] == told
    assert stored(last).card.training["precision"] == told
    assert capsys.readouterr().err.count(f"precision: {told}, the faster one on cpu") == 1
    assert 'precision = "auto"' in (tmp_path / "run" / "recipe.toml").read_text()
