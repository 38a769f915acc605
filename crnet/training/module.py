"""One step of training: batch, network, loss and optimizer; and the validation.

:class:`Training` is the module that PyTorch Lightning runs, see :mod:`crnet.training.train`.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import pytorch as pl
from torch import Tensor
from torch.utils.data import DataLoader

from baselines.networks.drcn import DRCN
from baselines.networks.memnet import MemNet
from baselines.resample import bicubic, imresize
from crnet import networks
from crnet.data import find_images, read_rgb, read_y
from crnet.errors import DataError, TrainingFailed
from crnet.measuring.protocol import Protocol, psnr_and_ssim
from crnet.networks import Network
from crnet.training.muon import Muon
from crnet.training.on_device import DeviceSampler
from crnet.training.patches import Batch, Batches, Cuts, Photo, Sampler, fingerprint
from crnet.training.recipe import Recipe

VALIDATION_IMAGES = 8
VALIDATION_SIDE = 192  # HR pixels, a multiple of every scale
PROJECT_EVERY = 8  # steps; bounding a dictionary takes tens of milliseconds

_ADVICE = "use a lower rate, a larger batch or another seed"


def cuts(recipe: Recipe) -> Cuts:
    """Return how the patches of a recipe are cut."""
    kind = networks.ARCHITECTURES[recipe.architecture]
    return Cuts(recipe.scales, recipe.patch, kind.enlarged, kind.rgb, recipe.detail, recipe.flat)


class Clock:
    """Seconds of training, those of earlier starts of the run included."""

    now = staticmethod(time.monotonic)

    def __init__(self, earlier: float = 0.0) -> None:
        self._earlier = earlier
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self._since = self.now()

    @property
    def seconds(self) -> float:
        """Seconds up to now."""
        return self._earlier + self.now() - self._since


class Training(pl.LightningModule):
    """One run: network, loss, optimizer and validation.

    Attributes
    ----------
    history : list
        Pairs of a step and its validation PSNR in dB.
    clock : Clock
        Time of training.
    live : Tensor or None
        Fraction of the codes of the last batch that are not zero; None for networks without codes.
    saved : str
        The newest checkpoint, in words; empty if there is none.
    """

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
        # Lightning copies the module for its averages; read-only data need no copy.
        self._shared = _Shared(Sampler(photos, cuts(recipe), recipe.batch, recipe.seed), validation)
        self.data = fingerprint(photos)
        self.history: list[list[float]] = []
        self.clock = Clock()
        self.live: Tensor | None = None
        self.saved = ""
        block = networks.code_block(net)
        if block is not None:
            block.register_forward_hook(self._watch)

    def _watch(self, block: Any, inputs: Any, z: Tensor) -> None:
        if self.training:
            self.live = torch.count_nonzero(z.detach()) / z.numel()

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
        out = self(x, scale).cpu()
        if not bool(torch.isfinite(out).all()):
            raise self.failure("the network returned NaN or infinite values in validation")
        self.log("psnr", psnr_and_ssim(out, target.cpu(), scale, protocol)[0], batch_size=1)

    def on_validation_epoch_end(self) -> None:
        """Add the PSNR of this step to the history."""
        self.history.append([self.global_step, float(self.trainer.callback_metrics["psnr"])])

    def failure(self, what: str) -> TrainingFailed:
        """Return an error that says what failed, when, and how to go on."""
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        kept = (
            f"the last good checkpoint is {self.saved}; start from it (--start) in another folder, "
            if self.saved
            else "there is no checkpoint yet; "
        )
        return TrainingFailed(
            f"step {self.global_step}, learning rate {rate:.3g}: {what}; {kept}{_ADVICE}"
        )

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
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _rate(self, step: int) -> float:
        return self.recipe.rate(step, self.spent if self.recipe.minutes else None)

    @property
    def spent(self) -> float:
        """Fraction of the recipe's `minutes` that has passed, at most 1."""
        return min(1.0, self.clock.seconds / (60 * self.recipe.minutes))

    def on_train_start(self) -> None:
        """Stop at once if the recipe's `minutes` are already over."""
        self._stop_in_time()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Project the network's weights; stop when the recipe's `minutes` are over."""
        if isinstance(self.net, networks.Projected) and self.global_step % PROJECT_EVERY == 0:
            self.net.project()
        self._stop_in_time()

    def _stop_in_time(self) -> None:
        if self.recipe.minutes and self.spent == 1:
            self.trainer.should_stop = True

    def train_dataloader(self) -> "DataLoader[Batch]":
        """Return the batches from the run's current step on.

        Workers cut the patches of a CPU; a GPU cuts its own, see :mod:`crnet.training.on_device`.
        """
        rank, world = self.trainer.global_rank, self.trainer.world_size
        part = slice(rank, None, world)
        if self.on_gpu:
            sampler = DeviceSampler(self._shared.sampler, self.device)
            return DataLoader(Batches(sampler, self.global_step, part), batch_size=None)
        batches = Batches(self._shared.sampler, self.global_step, part)
        # A process forked after a convolution can hang in PyTorch.
        helped = self.workers > 0
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context="spawn" if helped else None,
            persistent_workers=helped,
        )

    @property
    def on_gpu(self) -> bool:
        """Whether the device is not the CPU."""
        return self.device.type != "cpu"

    def val_dataloader(self) -> "DataLoader[Batch]":
        """Return the validation images."""
        return DataLoader(self._shared.validation, batch_size=None)  # type: ignore[arg-type]

    def on_save_checkpoint(self, state: dict[str, Any]) -> None:
        """Add the recipe, the precision, the hash of the data, the history and the clock."""
        state["recipe"] = {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in dataclasses.asdict(self.recipe).items()
        }
        state["precision"] = str(self.trainer.precision)
        state["data"] = self.data
        state["history"] = self.history
        state["seconds"] = self.clock.seconds

    def on_load_checkpoint(self, state: dict[str, Any]) -> None:
        """Restore the history and the clock."""
        self.history, self.clock = state["history"], Clock(state["seconds"])


class _Shared:
    """What the copies of a module share."""

    def __init__(self, sampler: Sampler, validation: Sequence[Batch]) -> None:
        self.sampler, self.validation = sampler, validation

    def __deepcopy__(self, memo: Any) -> "_Shared":
        return self


def validation_batches(recipe: Recipe, root: Path) -> list[Batch]:
    """Return central crops of the first images of each validation set, at every scale.

    The target is in uint8, unlike in training.

    Raises
    ------
    DataError
        If an image cannot be read or is too small.
    """
    enlarged, rgb, side = cuts(recipe).enlarged, cuts(recipe).rgb, VALIDATION_SIDE
    batches: list[Batch] = []
    for name in recipe.validation:
        for path in find_images(root / name)[:VALIDATION_IMAGES]:
            hr = read_rgb(path) if rgb else read_y(path)
            if min(hr.shape[-2:]) < side:
                raise DataError(f"{path}: validation images need {side} pixels on each side")
            top, left = ((n - side) // 2 for n in hr.shape[-2:])
            hr = hr[..., top : top + side, left : left + side]
            for s in recipe.scales:
                lr = imresize(hr, 1 / s).float() / 255 if rgb else imresize(hr.float() / 255, 1 / s)
                batches.append((bicubic(lr, s) if enlarged else lr, hr, s))
    return batches
