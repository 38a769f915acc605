"""What watches over a run: averages of the weights, checkpoints, and a look at loss and codes.

Callbacks of PyTorch Lightning for the module of :mod:`crnet.training.train`.
"""

import contextlib
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning import pytorch as pl
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from tqdm import tqdm

from crnet.errors import TrainingFailed


class Averages(WeightAveraging):
    """Exponential averages of the weights, shorter at the start: decay min(ema, (n+1)/(n+10))."""

    def __init__(self, decay: float) -> None:
        def average(mean: Tensor, weight: Tensor, n: Tensor | int) -> Tensor:
            return torch.lerp(mean, weight, 1 - min(decay, (int(n) + 1) / (int(n) + 10)))

        super().__init__(use_buffers=False, avg_fn=average)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the weights as they are, so that the last checkpoint has both."""


class Stopped(Exception):
    """A signal asked the run to stop, and it has saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


class Checkpoints(Callback):
    """Save in time, at the best PSNR, at the end, and on SIGTERM and Ctrl-C; never a broken state.

    A signal only asks; the run saves when its step, and the validation after it, are over, and
    raises `Stopped`.  A second Ctrl-C is the usual one.
    """

    def __init__(self, folder: Path, seconds: float, validate_every: int) -> None:
        self.folder, self.seconds, self.validate_every = folder, seconds, validate_every
        self._saved = time.monotonic()
        self._best = -math.inf
        self._asked = 0
        # What listens now, before Lightning does.
        asking = (signal.SIGINT, signal.SIGTERM)
        self._handlers: dict[int, Any] = {s: signal.getsignal(s) for s in asking}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and listen to signals in Lightning's place."""
        run: Any = pl_module  # a crnet.training.train.Training
        self._saved = run.since = time.monotonic()
        self._best = max((value for _, value in run.history), default=-math.inf)

        def ask(signum: int, frame: Any) -> None:
            self._asked = signum
            if signum == signal.SIGINT:
                signal.signal(signum, self._handlers[signum])

        with contextlib.suppress(ValueError):  # outside the main thread there are no signals
            for signum in self._handlers:
                signal.signal(signum, ask)

    def restore_signals(self) -> None:
        """Give the signals back."""
        with contextlib.suppress(ValueError):
            for signum, handler in self._handlers.items():
                signal.signal(signum, handler)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Save when it is time, but not before a validation that would then be left out."""
        if not self.validate_every or trainer.global_step % self.validate_every:
            self._check(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best, and when it is time."""
        value = float(trainer.callback_metrics["psnr"])
        if trainer.strategy.broadcast(value > self._best):
            self._best = value
            self._write(trainer, pl_module, "best.ckpt")
        self._check(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end."""
        self._write(trainer, pl_module, "last.ckpt")

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if a signal came or time is up; all processes decide the same."""
        asked, due = self._asked, time.monotonic() - self._saved > self.seconds
        if trainer.world_size > 1:
            if trainer.global_step % 10:
                return
            flags = torch.tensor([asked, int(due)], device=pl_module.device)
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
            asked, due = int(flags[0]), bool(flags[1])
        if asked or due:
            self._write(trainer, pl_module, "last.ckpt")
            self._saved = time.monotonic()
        if asked:
            raise Stopped(asked)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule, name: str) -> None:
        run: Any = pl_module
        if not all(bool(torch.isfinite(p).all()) for p in pl_module.parameters()):
            raise TrainingFailed(f"the weights are not finite; {_ADVICE}")
        if run.live is not None and float(run.live) == 0:
            raise TrainingFailed(f"all codes are zero; {_ADVICE}")
        trainer.save_checkpoint(self.folder / name, weights_only=False)


_ADVICE = (
    "the last checkpoint is kept; start from it (--start RUN/last.ckpt) in another folder, with a "
    "lower rate, a larger batch or another seed"
)


class AtomicFiles(TorchCheckpointIO):
    """Write a checkpoint beside its place, and rename; keep the one before as ``previous.ckpt``.

    Whenever the process dies, one of the two is whole.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Save to a path, on the first process."""
        path = Path(path)
        beside = path.with_name(f".{path.name}.part")
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == "last.ckpt" and path.exists():
                os.replace(path, path.with_name("previous.ckpt"))
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


class Watch(Callback):
    """Stop a run whose loss is not finite or whose codes have died, and tell how it goes."""

    def __init__(self, every: int, bar: bool) -> None:
        self.every, self.bar = every, bar
        self._losses: list[Tensor] = []
        self._told = time.monotonic()
        self._line: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock and the bar."""
        self._told = time.monotonic()
        if self.bar and trainer.is_global_zero:
            self._line = tqdm(
                total=trainer.max_steps, initial=trainer.global_step, unit="step", disable=None
            )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        *_: Any,
    ) -> None:
        """Check and tell every so many steps."""
        run: Any = pl_module  # a crnet.training.train.Training
        self._losses.append(outputs["loss"].detach())
        step = trainer.global_step
        if self._line is not None:
            self._line.update(step - self._line.n)
        if step % self.every and step != trainer.max_steps:
            return
        loss = float(torch.stack(self._losses).mean())
        live = None if run.live is None else float(run.live)
        if not math.isfinite(loss):
            raise TrainingFailed(f"step {step}: the loss is {loss}; {_ADVICE}")
        if live == 0:
            raise TrainingFailed(
                f"step {step}: all codes are zero, and with no bias they stay so; {_ADVICE}"
            )
        now = time.monotonic()
        rate = len(self._losses) / (now - self._told)
        images = rate * run.recipe.batch
        pl_module.log("images_per_second", images)
        values = [f"loss {loss:.5g}", f"{images:.0f} images/s"]
        if live is not None:  # a network with codes
            pl_module.log("live", live)
            values.insert(1, f"codes on {live:.1%}")
        if run.history:
            values.insert(1, f"validation {run.history[-1][1]:.3f} dB")
        if self._line is not None and not self._line.disable:
            self._line.set_postfix_str(", ".join(values))
        elif self.bar and trainer.is_global_zero:
            left = (trainer.max_steps - step) / rate / 60
            sys.stderr.write(
                f"step {step}/{trainer.max_steps}  {'  '.join(values)}  {left:.0f} min left\n"
            )
        self._losses, self._told = [], now

    def close(self) -> None:
        """Close the bar."""
        if self._line is not None:
            self._line.close()
