"""What watches over a run: averages of the weights, checkpoints, and a look at loss and codes.

Callbacks of PyTorch Lightning for the module of :mod:`crnet.train`.
"""

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
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from tqdm import tqdm


class TrainingFailed(RuntimeError):
    """The run cannot go on: its loss is not finite or all its codes are zero."""


class Averages(WeightAveraging):
    """Exponential averages of the weights, shorter at the start: decay min(ema, (n+1)/(n+10))."""

    def __init__(self, decay: float) -> None:
        def average(mean: Tensor, weight: Tensor, n: Tensor | int) -> Tensor:
            return torch.lerp(mean, weight, 1 - min(decay, (int(n) + 1) / (int(n) + 10)))

        super().__init__(use_buffers=False, avg_fn=average)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the weights as they are, so that the last checkpoint has both."""


class Checkpoints(Callback):
    """Save in time, at the best PSNR, at the end, and on SIGTERM and Ctrl-C; never a broken state.

    The last checkpoint is renamed to ``previous.ckpt`` before the next is written beside it and
    put in its place, so that at any moment one of them is whole.
    """

    def __init__(self, folder: Path, seconds: float, validate_every: int) -> None:
        self.folder, self.seconds, self.validate_every = folder, seconds, validate_every
        self._saved = time.monotonic()
        self._best = -math.inf
        self.asked = False
        self._handler: Any = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the first Ctrl-C end the step and save; the second one is the usual one."""
        run: Any = pl_module  # a crnet.train.Training
        self._saved = run.since = time.monotonic()
        self._best = max((value for _, value in run.history), default=-math.inf)

        def ask(signum: int, frame: Any) -> None:
            self.asked = True
            signal.signal(signal.SIGINT, self._handler)

        try:
            self._handler = signal.signal(signal.SIGINT, ask)
        except ValueError:  # not in the main thread; there is no Ctrl-C
            self._handler = None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Save when it is time."""
        if self.validate_every and trainer.global_step % self.validate_every == 0:
            return  # a run resumed from before a validation would leave it out
        if self.asked:
            self._save(trainer, pl_module)
            raise KeyboardInterrupt
        if trainer.global_step % 10 == 5 and trainer.global_step < trainer.max_steps:
            due = time.monotonic() - self._saved > self.seconds
            if trainer.strategy.broadcast(due):
                self._save(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best."""
        value = float(trainer.callback_metrics["psnr"])
        if value > self._best:
            self._best = value
            self._write(trainer, pl_module, "best.ckpt")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end."""
        self._save(trainer, pl_module)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save on SIGTERM, which Lightning raises between two steps."""
        if isinstance(exception, SIGTERMException):
            self._save(trainer, pl_module)

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last = self.folder / "last.ckpt"
        if trainer.is_global_zero and last.exists():
            os.replace(last, self.folder / "previous.ckpt")
        self._write(trainer, pl_module, "last.ckpt")
        self._saved = time.monotonic()

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule, name: str) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in pl_module.parameters()):
            raise TrainingFailed("the weights are not finite; the checkpoint before is kept")
        # Lightning writes to another file first and renames it.
        trainer.save_checkpoint(self.folder / name, weights_only=False)


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
        run: Any = pl_module  # a crnet.train.Training
        self._losses.append(outputs["loss"].detach())
        step = trainer.global_step
        if self._line is not None:
            self._line.update(step - self._line.n)
        if step % self.every and step != trainer.max_steps:
            return
        loss = float(torch.stack(self._losses).mean())
        live = 1.0 if run.live is None else float(run.live)
        if not math.isfinite(loss):
            raise TrainingFailed(
                f"step {step}: the loss is {loss}; the last checkpoint is kept; "
                "resume with another seed, or start again with a lower rate"
            )
        if live == 0:
            raise TrainingFailed(
                f"step {step}: all codes are zero, and with no bias they stay so; the last "
                "checkpoint is kept; lower the learning rate or raise the batch"
            )
        now = time.monotonic()
        rate = len(self._losses) / (now - self._told)
        images = rate * run.recipe.batch
        pl_module.log_dict({"live": live, "images_per_second": images})
        values = [f"loss {loss:.5g}", f"codes on {live:.1%}", f"{images:.0f} images/s"]
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

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar."""
        if self._line is not None:
            self._line.close()
