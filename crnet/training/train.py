"""Train a network by a recipe, with PyTorch Lightning: ``pip install csc-crnet[train]``.

A run is a folder:

    recipe.toml        what the run is, resolved
    last.ckpt          everything that resuming needs, and previous.ckpt, the one before
    best.ckpt          the state of the best validation PSNR so far
    logs/N/            CSV and TensorBoard logs, a folder per start

A run that is cut off and resumed ends with the weights, bit for bit, of one that was not (on GPUs
as far as their kernels are deterministic): batches are a function of the step
(:mod:`crnet.training.patches`), and the state of weights, averages, optimizer and schedule is in
the checkpoint.  Checkpoints are plain tensors and numbers (``weights_only=True``).
"""

import contextlib
import dataclasses
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from baselines.networks.drcn import DRCN
from baselines.networks.edsr_layers import Upsampler
from baselines.networks.memnet import MemNet
from baselines.resample import bicubic, imresize
from crnet import loading, networks
from crnet.data import data_root, find_images, read_rgb, read_y
from crnet.errors import DataError, TrainingFailed, WeightsError
from crnet.measuring.protocol import Protocol, psnr_and_ssim
from crnet.model import CRNetA, CRNetB
from crnet.networks import Network
from crnet.training import checkpoint
from crnet.training.callbacks import AtomicFiles, Averages, Checkpoints, Stopped, Watch
from crnet.training.muon import Muon
from crnet.training.patches import Batch, Batches, Cuts, Photo, Sampler, fingerprint, read_photos
from crnet.training.recipe import Recipe, from_fields
from crnet.training.teacher import taught

__all__ = ["Training", "TrainingFailed", "build", "train", "validation_batches"]

VALIDATION_IMAGES = 8
VALIDATION_SIDE = 192  # HR pixels, a multiple of every scale


def cuts(recipe: Recipe) -> Cuts:
    """Return how the patches of a recipe are cut."""
    kind = networks.ARCHITECTURES[recipe.architecture]
    return Cuts(recipe.scales, recipe.patch, kind.enlarged, kind.rgb, recipe.detail)


def build(recipe: Recipe, *, fresh: bool = True, tell: bool = False) -> Network:
    """Return the network of a recipe, with its initial weights unless not `fresh`.

    A network of one scale may start from one of another scale that is the same but for its
    upsampler, which then starts anew; with `tell`, a line on stderr says so.

    Raises
    ------
    WeightsError
        If its `start` is no weights file or does not fit.
    """
    net = loading.build(
        recipe.architecture, recipe.network(), torch.Generator().manual_seed(recipe.seed)
    )
    if recipe.start and fresh:
        weights, own = loading.load(recipe.start).state_dict(), net.state_dict()
        new = _upsampler_of_another_scale(recipe, net)
        weights = {k: v for k, v in weights.items() if not k.startswith(new)}
        weights |= {k: v for k, v in own.items() if k.startswith(new)}
        if tell and new:
            layers = ", ".join(k.removesuffix(".") for k in new)
            sys.stderr.write(
                f"{recipe.start} is of another scale; its upsampler, {layers}, is left out\n"
            )
        try:
            net.load_state_dict(weights)
        except RuntimeError as error:
            raise WeightsError(
                f"the weights of {recipe.start} do not fit the recipe: {error}"
            ) from None
    if isinstance(net, CRNetA | CRNetB):
        net.cista.recompute = recipe.recompute
    elif recipe.recompute:
        raise ValueError(f"{recipe.architecture} has no recursions to recompute")
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def _upsampler_of_another_scale(recipe: Recipe, net: Network) -> tuple[str, ...]:
    """Return how the upsampler's weights are called if what `net` starts from differs in scale."""
    about, mine = loading.card(recipe.start), recipe.network()
    defaults = networks.arguments_of(recipe.architecture)
    theirs = {**defaults, **about.arguments}
    same = {**defaults, **mine, "scale": theirs.get("scale")} == theirs
    if about.architecture != recipe.architecture or not same or theirs["scale"] == mine["scale"]:
        return ()
    return tuple(f"{k}." for k, layer in net.named_modules() if isinstance(layer, Upsampler))


class Training(pl.LightningModule):
    """One run: network, loss, optimizer and what is validated."""

    def __init__(
        self,
        recipe: Recipe,
        net: Network,
        photos: Sequence[Photo],
        validation: Sequence[Batch],
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.recipe, self.workers = recipe, workers
        self.net = net
        # Lightning copies the module for its averages; what is read-only need not be copied.
        self._shared = _Shared(Sampler(photos, cuts(recipe), recipe.batch, recipe.seed), validation)
        self.data = fingerprint(photos)
        self.history: list[list[float]] = []  # (step, validation PSNR)
        self.seconds, self.since = 0.0, time.monotonic()
        self.live: Tensor | None = None
        if isinstance(net, CRNetA | CRNetB):
            net.cista.register_forward_hook(self._watch)

    def _watch(self, block: Any, inputs: Any, z: Tensor) -> None:
        if self.training:
            self.live = (z.detach() > 0).float().mean()

    def forward(self, x: Tensor, scale: int) -> Tensor:
        """Return the network's image."""
        x = x.contiguous(memory_format=torch.channels_last)
        return networks.apply(self.net, x, scale).float()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        x, target, scale = batch
        if self.recipe.deep and isinstance(self.net, DRCN | MemNet):
            images = self.net.predictions(x.contiguous(memory_format=torch.channels_last)).float()
            each = torch.stack([self._loss(image, target) for image in images])
            alpha, out = self.recipe.deep, self.net.combine(images)
            loss = alpha * each.mean() + (1 - alpha) * self._loss(out, target)
        else:
            loss = self._loss(self(x, scale), target)
        self.log("loss", loss.detach())
        return loss

    def _loss(self, image: Tensor, target: Tensor) -> Tensor:
        error = image - target
        if self.recipe.loss == "l1":
            return error.abs().mean()
        if self.recipe.loss == "l2":
            return error.square().mean()
        return error.square().sum() / (2 * len(image))  # eq. 15

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure PSNR on Y, on 8-bit levels, without a border of `scale` pixels."""
        x, target, scale = batch
        protocol = Protocol("validation", rgb=self.net.rgb, clip=None)
        out = self(x, scale)
        self.log("psnr", psnr_and_ssim(out, target.cpu(), scale, protocol)[0], batch_size=1)

    def on_validation_epoch_end(self) -> None:
        """Keep the curve."""
        self.history.append([self.global_step, float(self.trainer.callback_metrics["psnr"])])

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule."""
        r, weights = self.recipe, self.net.parameters()
        optimizer: torch.optim.Optimizer
        if r.optimizer == "muon":
            optimizer = Muon(weights, r.lr, r.momentum, r.weight_decay)
        elif r.optimizer == "adam":
            optimizer = torch.optim.Adam(
                weights, r.lr, betas=(r.momentum, 0.999), weight_decay=r.weight_decay
            )
        else:
            optimizer = torch.optim.SGD(weights, r.lr, r.momentum, weight_decay=r.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, r.rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def train_dataloader(self) -> "DataLoader[Batch]":
        """Return the batches from the step that the run is at."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        share = slice(rank, None, world)
        batches = Batches(self._shared.sampler, self.global_step, share)
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=self.workers,
            persistent_workers=False,
            pin_memory=self.device.type == "cuda",
        )

    def val_dataloader(self) -> "DataLoader[Batch]":
        """Return the validation images."""
        return DataLoader(self._shared.validation, batch_size=None)  # type: ignore[arg-type]

    def on_save_checkpoint(self, state: dict[str, Any]) -> None:
        """Add the recipe, the data and the curve."""
        state["recipe"] = {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in dataclasses.asdict(self.recipe).items()
        }
        state["data"] = self.data
        state["history"] = self.history
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now
        state["seconds"] = self.seconds

    def on_load_checkpoint(self, state: dict[str, Any]) -> None:
        """Take the curve and the clock back."""
        self.history, self.seconds = state["history"], state["seconds"]


class _Shared:
    """What the copies of a module share."""

    def __init__(self, sampler: Sampler, validation: Sequence[Batch]) -> None:
        self.sampler, self.validation = sampler, validation

    def __deepcopy__(self, memo: Any) -> "_Shared":
        return self


def validation_batches(recipe: Recipe, root: Path) -> list[Batch]:
    """Return the middles of the first images of each validation set, at every scale.

    The target is in uint8, unlike in training.
    """
    enlarged, rgb, side = cuts(recipe).enlarged, cuts(recipe).rgb, VALIDATION_SIDE
    batches: list[Batch] = []
    for name in recipe.validation:
        for path in find_images(root / name)[:VALIDATION_IMAGES]:
            hr = read_rgb(path) if rgb else read_y(path)
            if min(hr.shape[-2:]) < side:
                raise DataError(f"{path}: validation images need {side} pixels a side")
            top, left = ((n - side) // 2 for n in hr.shape[-2:])
            hr = hr[..., top : top + side, left : left + side]
            for s in recipe.scales:
                lr = imresize(hr, 1 / s).float() / 255 if rgb else imresize(hr.float() / 255, 1 / s)
                batches.append((bicubic(lr, s) if enlarged else lr, hr, s))
    return batches


def train(
    recipe: Recipe,
    run: Path,
    root: str | Path | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    workers: int = 0,
    validate_every: int = 1000,
    tell_every: int = 100,
    save_minutes: float = 5.0,
    bar: bool = False,
) -> Network:
    """Train a network and return it with its averaged weights, ready to evaluate, on the CPU.

    Parameters
    ----------
    recipe : Recipe
        What to train.
    run : Path
        Folder of the run, see the module.
    root : str or Path, optional
        Data root, see :func:`crnet.data.data_root`.
    resume : bool
        Continue the run in the folder; one without a checkpoint starts.
    device : str
        Lightning's accelerator: ``auto``, ``cpu``, ``cuda``, ``mps``.
    devices : int
        Processes per machine, one device each; more than one train by DDP.  Under ``torchrun`` the
        number of its processes.
    workers : int
        Processes that cut patches; the batches do not depend on it.
    validate_every, tell_every : int
        Steps between validations and between reports.
    save_minutes : float
        Time between checkpoints.
    bar : bool
        Report on stderr, as a progress bar where that is a terminal.

    Raises
    ------
    SystemExit, KeyboardInterrupt
        On SIGTERM and Ctrl-C, after a checkpoint.
    TrainingFailed
        If the loss is not finite or the codes have died; the last checkpoint stays.
    FileExistsError
        If the folder holds a run and `resume` is false.
    WeightsError
        If the run was of another recipe or other images, or no checkpoint of it can be read.
    DataError
        If an image cannot be read.
    """
    _check_call(recipe, run, resume, devices, workers, validate_every, tell_every, save_minutes)
    found = _latest(run) if resume else None
    if found:
        _check_same(recipe, *found)
    validate_every = validate_every if recipe.validation else 0
    watch, saver = Watch(tell_every, bar), Checkpoints(run, 60 * save_minutes, validate_every)
    callbacks = [Averages(recipe.ema), watch, saver]
    trainer = _trainer(recipe, run, device, devices, validate_every, tell_every, callbacks)
    net = build(recipe, fresh=found is None, tell=bar)
    module = Training(recipe, net, *_read(recipe, data_root(root), bar, run), workers)
    if found and found[1]["data"] != module.data:
        raise WeightsError(f"{found[0]} was trained on other images than these")
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.toml").write_text(recipe.toml(), encoding="utf-8")
    last = run / "last.ckpt"
    if found and found[0] != last and last.exists() and _first_process():
        os.replace(last, run / "damaged.ckpt")
    if bar and resume and not found:
        sys.stderr.write(f"{run} holds no checkpoint; the run starts from the beginning\n")
    with warnings.catch_warnings():
        for message in _QUIET:
            warnings.filterwarnings("ignore", message)
        try:
            trainer.fit(module, ckpt_path=str(found[0]) if found else None, weights_only=True)
        except Stopped as stopped:
            if stopped.signum == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + stopped.signum) from None
        finally:
            saver.restore_signals()
            watch.close()
    return loading.load(last)


def _check_call(
    recipe: Recipe,
    run: Path,
    resume: bool,
    devices: int,
    workers: int,
    validate_every: int,
    tell_every: int,
    save_minutes: float,
) -> None:
    counts = {"devices": devices, "validate_every": validate_every, "tell_every": tell_every}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be ≥ 1, got {value}")
    if workers < 0 or not save_minutes > 0:
        raise ValueError(
            f"workers must be ≥ 0 and save_minutes > 0, got {workers} and {save_minutes}"
        )
    processes = int(os.environ.get("WORLD_SIZE", devices))
    if recipe.batch % processes:
        raise ValueError(f"a batch of {recipe.batch} does not divide among {processes} devices")
    if not resume and _first_process() and any(run.glob("*.ckpt")):
        raise FileExistsError(f"{run} holds a run; pass --resume to continue it, or another folder")
    above = next(p for p in (run, *run.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"{run} cannot be written: {above} is no folder that can be")


@contextlib.contextmanager
def _progress(name: str, bar: bool) -> Iterator[Callable[[int, int], None]]:
    with tqdm(desc=name, disable=None if bar else True, leave=False) as line:

        def follow(done: int, total: int) -> None:
            line.total = total
            line.update(done - line.n)

        yield follow


def _read(recipe: Recipe, root: Path, bar: bool, run: Path) -> tuple[list[Photo], list[Batch]]:
    """Return the photos and the validation images of a recipe, and tell what is left out."""
    paths = [p for name in recipe.sets for p in find_images(root / name, recipe.exclude)]
    validation = validation_batches(recipe, root)
    with _progress("read", bar) as follow:
        photos, small = read_photos(paths, cuts(recipe), follow)
    if recipe.teacher:
        with _progress("teacher", bar) as follow:
            photos = taught(photos, recipe.teacher, run / "teacher.pt", follow)
    if bar and small:
        named = ", ".join(p.name for p in small[:5]) + " ..." * (len(small) > 5)
        told = f"{len(small)} of {len(paths)} images are smaller than a patch, left out: {named}"
        sys.stderr.write(told + "\n")
    return photos, validation


# Warnings of Lightning about what is meant so here.
_QUIET = (
    ".*does not have many workers.*",
    ".*GPU available but not used.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*Found .* module.*eval mode.*",
    ".*sync_dist=True.*",
    ".*treespec, LeafSpec.*",
)


def _trainer(
    recipe: Recipe,
    run: Path,
    device: str,
    devices: int,
    validate_every: int,
    tell_every: int,
    callbacks: list[Callback],
) -> pl.Trainer:
    logs = [int(p.name) for p in run.glob("logs/*") if p.name.isdecimal()]
    starts = max(logs, default=-1) + 1
    nodes = 1
    if "LOCAL_WORLD_SIZE" in os.environ:  # under torchrun
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    # Only the path of a batch's scale runs in CRNet-B, so the others have no gradient.
    unused = not cuts(recipe).enlarged
    strategy = DDPStrategy(find_unused_parameters=unused) if devices * nodes > 1 else "auto"
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pl.Trainer(
                accelerator=device,
                devices=devices,
                num_nodes=nodes,
                strategy=strategy,
                precision=recipe.precision,  # type: ignore[arg-type]
                max_steps=recipe.steps,
                max_epochs=-1,
                gradient_clip_val=recipe.clip,
                gradient_clip_algorithm="norm",
                callbacks=callbacks,
                plugins=[AtomicFiles()],
                logger=[
                    CSVLogger(run, name="logs", version=str(starts)),
                    TensorBoardLogger(run, name="logs", version=str(starts)),
                ],
                log_every_n_steps=tell_every,
                val_check_interval=validate_every or None,
                limit_val_batches=None if validate_every else 0,
                check_val_every_n_epoch=None if validate_every else 1,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                default_root_dir=run,
            )
        except MisconfigurationException as error:
            raise ValueError(str(error)) from error


def _first_process() -> bool:
    return int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("RANK", 0)) == 0


def _latest(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest whole checkpoint of a run, or None where there is none yet.

    Raises
    ------
    WeightsError
        If there are some but none can be read.
    """
    told = []
    for name in ("last.ckpt", "previous.ckpt"):
        path = run / name
        if path.exists():
            try:
                return path, checkpoint.training_state(path)
            except WeightsError as error:
                told.append(str(error))
    if told:
        raise WeightsError("; ".join(told) + "; move the run away to start again")
    return None


def _check_same(recipe: Recipe, path: Path, state: dict[str, Any]) -> None:
    different = recipe.differences(from_fields(state["recipe"]))
    if different:
        raise WeightsError(
            f"{path} was written by a different recipe (field: here, there): {'; '.join(different)}"
        )
