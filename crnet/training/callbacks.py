"""Callbacks of PyTorch Lightning: averages of the weights, checkpoints, and reports.

They belong to the module of :mod:`crnet.training.module`.
"""

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from lightning import pytorch as pl
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from tqdm import tqdm

from crnet.training.module import Training

LONGEST = 10.0
"""Seconds without a report."""

Handler: TypeAlias = Callable[[int, Any], Any] | int | None
"""What `signal.getsignal` returns."""


class Averages(WeightAveraging):
    """Exponential averages of the weights, shorter at the start: decay min(ema, (n+1)/(n+10)).

    An update does not wait for the device.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False)
        self.decay = decay
        self._updates = 0  # counted here, because reading a counter on a GPU waits for the GPU

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the number of updates from the averages, which a checkpoint may have filled."""
        assert self._average_model is not None  # noqa: S101  made in setup()
        self._updates = int(self._average_model.n_averaged)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Update the averages; the first update takes the weights."""
        if trainer.global_step <= self._latest_update_step:
            return
        assert self._average_model is not None  # noqa: S101  made in setup()
        n, mean = self._updates, self._average_model.module
        decay = min(self.decay, (n + 1) / (n + 10)) if n else 0.0
        torch._foreach_lerp_(list(mean.parameters()), list(pl_module.parameters()), 1 - decay)
        for one, other in zip(mean.buffers(), pl_module.buffers(), strict=True):
            one.copy_(other)
        self._average_model.n_averaged += 1
        self._updates += 1
        self._latest_update_step = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights, so that the last checkpoint holds weights and averages."""


class Stopped(Exception):
    """A signal asked the run to stop, and it has saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


class Checkpoints(Callback):
    """Save every `seconds` seconds, at the best PSNR, at the end, and on SIGTERM and Ctrl-C.

    A broken state is never saved.  After a signal the run finishes its step and the validation that
    follows, saves, and raises `Stopped`.  A second Ctrl-C interrupts at once.
    """

    def __init__(self, folder: Path, seconds: float, validate_every: int) -> None:
        self.folder, self.seconds, self.validate_every = folder, seconds, validate_every
        self._saved = time.monotonic()
        self._best = -math.inf
        self._asked = 0
        # The current handlers, before Lightning sets its own.
        asking = (signal.SIGINT, signal.SIGTERM)
        self._handlers: dict[int, Handler] = {s: signal.getsignal(s) for s in asking}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and handle signals in Lightning's place."""
        run = cast(Training, pl_module)
        run.clock.start()
        self._saved = time.monotonic()
        self._best = max((value for _, value in run.history), default=-math.inf)

        def ask(signum: int, frame: Any) -> None:
            self._asked = signum
            if signum == signal.SIGINT:
                signal.signal(signum, self._handlers[signum])

        with contextlib.suppress(ValueError):  # outside the main thread there are no signals
            for signum in self._handlers:
                signal.signal(signum, ask)

    def restore_signals(self) -> None:
        """Restore the earlier handlers of the signals."""
        with contextlib.suppress(ValueError):
            for signum, handler in self._handlers.items():
                signal.signal(signum, handler)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Save when it is time; if a validation follows, wait for its PSNR."""
        if not self.validate_every or trainer.global_step % self.validate_every:
            self._check(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save a new best state, and save when it is time."""
        value = float(trainer.callback_metrics["psnr"])
        if trainer.strategy.broadcast(value > self._best):
            self._best = value
            self._write(trainer, pl_module, "best.ckpt")
        self._check(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last state."""
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
        run, path = cast(Training, pl_module), self.folder / name
        if not all(bool(torch.isfinite(p).all()) for p in pl_module.parameters()):
            raise run.failure("the weights are not finite")
        if run.live is not None and float(run.live) == 0:
            raise run.failure("all codes are zero")
        trainer.save_checkpoint(path, weights_only=False)
        run.saved = f"{path} of step {trainer.global_step}"


class AtomicFiles(TorchCheckpointIO):
    """Write a checkpoint to another name, then rename it; keep the older as ``previous.ckpt``.

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
    """Report, and stop a run whose loss is not finite or whose codes are all zero.

    It reads loss and codes only every `every` steps, because reading waits for the device; in one
    process also after ten seconds.
    """

    def __init__(self, every: int, bar: bool) -> None:
        self.every, self.bar = every, bar
        self._losses: list[Tensor] = []
        self._told = time.monotonic()
        self._line: tqdm[Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock and the bar."""
        self._told = time.monotonic()
        if self.bar and trainer.is_global_zero:
            self._line = tqdm(
                total=trainer.max_steps if trainer.max_steps > 0 else None,
                initial=trainer.global_step,
                unit="step",
                disable=None,
            )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        *_: Any,
    ) -> None:
        """Check and report every `every` steps."""
        run = cast(Training, pl_module)
        self._losses.append(outputs["loss"].detach())
        step = trainer.global_step
        if self._line is not None:
            self._line.update(step - self._line.n)
        waited = trainer.world_size == 1 and time.monotonic() - self._told > LONGEST
        if step % self.every and step != trainer.max_steps and not waited:
            return
        loss = float(torch.stack(self._losses).mean())
        live = None if run.live is None else float(run.live)
        if not math.isfinite(loss):
            raise run.failure(f"the loss is {loss}")
        if live == 0:
            raise run.failure("all codes are zero, and without a bias they stay zero")
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
        self._tell(step, rate, run, values, trainer)
        self._losses, self._told = [], now

    def _tell(
        self, step: int, rate: float, run: Training, values: list[str], trainer: pl.Trainer
    ) -> None:
        if self._line is not None and not self._line.disable:
            self._line.set_postfix_str(", ".join(values))
        elif self.bar and trainer.is_global_zero:
            minutes, of = run.recipe.minutes, trainer.max_steps
            left = (1 - run.spent) * minutes if minutes else (of - step) / rate / 60
            done = f"{step}" if minutes else f"{step}/{of}"
            sys.stderr.write(f"step {done}  {'  '.join(values)}  {left:.0f} min left\n")

    def close(self) -> None:
        """Close the bar."""
        if self._line is not None:
            self._line.close()
