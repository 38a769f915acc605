"""Train a network by a recipe, with PyTorch Lightning: ``pip install csc-crnet[train]``.

A run is a folder:

    recipe.toml        the recipe, with every field
    last.ckpt          everything that resuming needs; previous.ckpt is the one before
    best.ckpt          the state of the best validation PSNR so far
    logs/N/            CSV and TensorBoard logs, a folder per start

A run that is cut off and resumed ends with the same weights, bit for bit, as a run that is not.
Batches are a function of the step (:mod:`crnet.training.patches`), and the checkpoint holds
weights, averages, optimizer and schedule.  The exceptions are GPUs whose kernels are not
deterministic, and recipes with `minutes`: their schedule follows the clock of the run, which
resumes where it stopped.

Checkpoints are plain tensors and numbers (``weights_only=True``).
"""

import contextlib
import importlib.util
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from lightning import pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from crnet import loading
from crnet.data import data_root, find_images
from crnet.errors import TrainingFailed, WeightsError
from crnet.networks import Network
from crnet.precision import for_training
from crnet.training import checkpoint
from crnet.training.callbacks import AtomicFiles, Averages, Checkpoints, Stopped, Watch
from crnet.training.module import Training, cuts, validation_batches
from crnet.training.patches import Batch, Photo, read_photos
from crnet.training.recipe import Recipe, from_fields
from crnet.training.start import build
from crnet.training.teacher import taught

__all__ = ["Training", "TrainingFailed", "build", "train", "validation_batches"]


Progress: TypeAlias = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""Called with a title and a unit; returns a context whose value is called with (done, total)."""


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
    progress: Progress | None = None,
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
        Continue the run in the folder; if it holds no checkpoint yet, start it.
    device : str
        Lightning's accelerator: ``auto``, ``cpu``, ``cuda``, ``mps``.
    devices : int
        Processes per machine, one device each; more than one train by DDP.  Under ``torchrun``
        the number of its processes counts.
    workers : int
        Processes that cut patches for a CPU; the batches do not depend on it.
    validate_every, tell_every : int
        Steps between validations and between reports.
    save_minutes : float
        Time between checkpoints.
    bar : bool
        Report on stderr, as a progress bar where that is a terminal.
    progress : callable, optional
        Called with a title and a unit before photos are read and taught.  Returns a context whose
        value is called with (done, total).

    Raises
    ------
    SystemExit, KeyboardInterrupt
        On SIGTERM and Ctrl-C, after a checkpoint.
    TrainingFailed
        If the loss is not finite or all codes are zero; the last checkpoint stays.
    FileExistsError
        If the folder holds a run and `resume` is false.
    ValueError
        If an option is out of range, or the folder does not exist and `resume` is true.
    WeightsError
        If the run has another recipe or other images, or its checkpoints cannot be read.
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
    precision = for_training(recipe.precision, _device(device))
    trainer = _trainer(
        recipe, run, device, devices, precision, validate_every, tell_every, callbacks
    )
    net = build(recipe, fresh=found is None, tell=bar)
    photos, validation = _read(
        recipe, data_root(root), bar, run, trainer.strategy.root_device, progress or _silent
    )
    if bar and recipe.precision == "auto":
        sys.stderr.write(f"precision: {precision}, the faster one on {_device(device)}\n")
    module = Training(recipe, net, photos, validation, workers)
    if found and found[1]["data"] != module.data:
        raise WeightsError(f"{found[0]} was trained on other images than these")
    if found:
        module.saved = f"{found[0]} of step {found[1]['global_step']}"
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.toml").write_text(recipe.toml(), encoding="utf-8")
    last = run / "last.ckpt"
    if found and found[0] != last and last.exists() and _first_process():
        os.replace(last, run / "damaged.ckpt")
    if bar and resume and not found:
        sys.stderr.write(f"{run} holds no checkpoint yet; the run starts from the beginning\n")
    with warnings.catch_warnings(), _exact_convolutions():
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
    if recipe.minutes and processes > 1:
        raise ValueError(f"a recipe with minutes trains on one device, got {processes}")
    if recipe.batch % processes:
        raise ValueError(f"a batch of {recipe.batch} does not divide among {processes} devices")
    if not resume and _first_process() and any(run.glob("*.ckpt")):
        raise FileExistsError(f"{run} holds a run; pass --resume to continue it, or another folder")
    if resume and not run.exists():
        raise ValueError(f"{run} does not exist; leave --resume out to start a run there")
    above = next(p for p in (run, *run.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"{run} cannot be written: {above} is not a writable folder")


@contextlib.contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Let CUDA convolve float32 in float32 and not in TF32, and choose its fastest kernels.

    Only small layers on images are in float32.  They take differences of pixels, which are near
    the rounding of TF32.
    """
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=True, deterministic=False, allow_tf32=False
    ):
        yield


def _silent(_title: str, _unit: str) -> AbstractContextManager[Callable[[int, int], None]]:
    return contextlib.nullcontext(lambda done, total: None)


def _read(
    recipe: Recipe,
    root: Path,
    bar: bool,
    run: Path,
    device: torch.device,
    progress: Progress,
) -> tuple[list[Photo], list[Batch]]:
    """Return the photos and the validation images of a recipe, and tell what is left out."""
    made_on = device if device.type == "cuda" else "cpu"  # MPS has no float64
    paths = [p for name in recipe.sets for p in find_images(root / name, recipe.exclude)]
    validation = validation_batches(recipe, root)
    with progress("read", "photos") as follow:
        photos, small = read_photos(paths, cuts(recipe), follow, made_on)
    if recipe.teacher:
        with progress("images of the teacher", "photos") as follow:
            photos = taught(photos, recipe.teacher, run / "teacher.pt", follow)
    if bar and small:
        named = ", ".join(p.name for p in small[:5]) + " ..." * (len(small) > 5)
        told = f"{len(small)} of {len(paths)} images are smaller than a patch, left out: {named}"
        sys.stderr.write(told + "\n")
    return photos, validation


# Warnings of Lightning about what is intended here.
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
    precision: str,
    validate_every: int,
    tell_every: int,
    callbacks: list[Callback],
) -> pl.Trainer:
    logs = [int(p.name) for p in run.glob("logs/*") if p.name.isdecimal()]
    version = str(max(logs, default=-1) + 1)
    loggers: list[Logger] = [CSVLogger(run, name="logs", version=version)]
    if importlib.util.find_spec("tensorboard"):
        loggers.append(TensorBoardLogger(run, name="logs", version=version))
    nodes = 1
    if "LOCAL_WORLD_SIZE" in os.environ:  # under torchrun
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    # In CRNet-B only the layers of the batch's scale run; the others have no gradient.
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
                precision=precision,  # type: ignore[arg-type]
                max_steps=-1 if recipe.minutes else recipe.steps,
                max_epochs=-1,
                gradient_clip_val=recipe.clip,
                gradient_clip_algorithm="norm",
                callbacks=callbacks,
                plugins=[AtomicFiles()],
                logger=loggers,
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


def _device(accelerator: str) -> str:
    """Return the device that Lightning takes for an accelerator."""
    if accelerator != "auto":
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _first_process() -> bool:
    return int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("RANK", 0)) == 0


def _latest(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest whole checkpoint of a run, or None if it has no checkpoint yet.

    Raises
    ------
    WeightsError
        If all its checkpoints are damaged.
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
