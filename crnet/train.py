"""Train a CRNet-A on Y: Adam, cosine decay, L1, clipped gradients, averaged weights.

Small on purpose: one process, one loop, one checkpoint.  A run that is cut off resumes where its
last checkpoint was written and draws the batches it would have drawn.
"""

import dataclasses
import hashlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from crnet.data import Pair, draw_batch
from crnet.model import CRNetA


@dataclass(frozen=True)
class TrainConfig:
    """What a run depends on, besides the images."""

    n0: int = 64
    m0: int = 128
    recursions: int = 12
    scales: tuple[int, ...] = (2, 3, 4)
    steps: int = 16_000
    batch: int = 8
    patch: int = 41
    lr: float = 1e-3
    warmup: int = 200
    clip_norm: float = 0.4
    ema: float = 0.999
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("n0", "m0", "steps", "batch", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be ≥ 1, got {getattr(self, name)}")
        for name in ("recursions", "seed", "warmup"):
            if not 0 <= getattr(self, name) < 2**63:
                raise ValueError(f"{name} must be ≥ 0, got {getattr(self, name)}")
        for name in ("lr", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and > 0, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then a cosine to zero."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class Progress:
    """What the callback of `train` hears, every `every` steps."""

    step: int
    steps: int
    loss: float  # mean L1 since the last report, in grey levels of 255
    gradient_norm: float  # before clipping
    live: float  # share of non-zero codes in the last recursion
    seconds_per_step: float


class TrainingFailed(RuntimeError):
    """The run cannot go on: its loss is not finite or all its codes are zero."""


def train(
    config: TrainConfig,
    pairs: list[Pair],
    checkpoint: Path,
    *,
    device: str = "cpu",
    every: int = 100,
    save_seconds: float = 120.0,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[CRNetA, float]:
    """Train a CRNet-A and return it with its averaged weights, and the seconds it took.

    Parameters
    ----------
    config : TrainConfig
        The recipe.
    pairs : list of Pair
        Images, as of :func:`crnet.data.make_pairs`.
    checkpoint : Path
        File of the run's state.  If it exists the run resumes from it.
    device : str
        Where to train; bfloat16 autocast is used everywhere.
    every : int
        Steps between reports.
    save_seconds : float
        Least time between checkpoints.
    on_progress : callable, optional
        Called with a :class:`Progress`.

    Returns
    -------
    net : CRNetA
        In evaluation mode.
    seconds : float
        Time of the run and of those it resumed.

    Raises
    ------
    ValueError
        If the checkpoint was written by a different recipe.
    TrainingFailed
        If the loss is not finite or the codes have died; the last checkpoint stays.
    """
    generator = torch.Generator().manual_seed(config.seed)
    net = CRNetA(config.n0, config.m0, config.recursions, generator=generator).to(device)
    ema = {name: p.detach().clone() for name, p in net.state_dict().items()}
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
    data = _fingerprint(pairs)
    first, before = 0, 0.0
    if checkpoint.exists():
        first, before = _resume(config, data, checkpoint, net, ema, optimizer)
    losses: list[Tensor] = []
    started = saved = reported = time.monotonic()
    for step in range(first, config.steps):
        x, target = (
            t.to(device) for t in draw_batch(pairs, config.batch, config.patch, config.seed, step)
        )
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            z = net.cista(net.features(x))
            R = net.reconstruct(torch.zeros_like(x), z)
        loss = (x + R.float() - target).abs().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(net.parameters(), config.clip_norm)
        optimizer.step()
        decay = min(config.ema, (step + 1) / (step + 10))
        for name, p in net.state_dict().items():
            ema[name].lerp_(p, 1 - decay)
        losses.append(loss.detach())
        last = step + 1 == config.steps
        if last or (step + 1) % every == 0:
            mean = float(torch.stack(losses).mean())
            live = float((z > 0).float().mean())
            if not (math.isfinite(mean) and math.isfinite(float(norm))) or live == 0:
                raise TrainingFailed(
                    f"step {step + 1}: loss {mean}, {live:.1%} of the codes are non-zero; "
                    "lower the learning rate or raise the batch"
                )
            now = time.monotonic()
            if on_progress:
                pace = (now - reported) / len(losses)
                on_progress(Progress(step + 1, config.steps, 255 * mean, float(norm), live, pace))
            losses, reported = [], now
            if last or now - saved > save_seconds:
                seconds = before + now - started
                _save(config, data, checkpoint, net, ema, optimizer, step + 1, seconds)
                saved = now
    net.load_state_dict(ema)
    return net.eval(), before + time.monotonic() - started


def _fingerprint(pairs: list[Pair]) -> str:
    """Return a hash of the training images."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(pair.target.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _save(
    config: TrainConfig,
    data: str,
    path: Path,
    net: CRNetA,
    ema: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    state = {
        "config": dataclasses.asdict(config),
        "data": data,
        "step": step,
        "seconds": seconds,
        "net": net.state_dict(),
        "ema": ema,
        "optimizer": optimizer.state_dict(),
    }
    beside = path.with_name(path.name + ".part")
    torch.save(state, beside)
    os.replace(beside, path)


def _resume(
    config: TrainConfig,
    data: str,
    path: Path,
    net: CRNetA,
    ema: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> tuple[int, float]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["config"]
        wanted = dataclasses.asdict(config)
        different = {k: (found.get(k), v) for k, v in wanted.items() if found.get(k) != v}
        told = ", ".join(f"{k}: {a} there, {b} here" for k, (a, b) in different.items())
        if state["data"] != data:
            told = ", ".join(filter(None, [told, "other training images"]))
        if not told:
            net.load_state_dict(state["net"])
            for name, p in state["ema"].items():
                ema[name].copy_(p)
            optimizer.load_state_dict(state["optimizer"])
            return int(state["step"]), float(state["seconds"])
    except Exception as error:  # whatever a damaged file makes the loader raise
        raise ValueError(f"{path} is no state of a run: {error!r}; move it away") from error
    raise ValueError(f"{path} was written by a different recipe ({told}); move it away")
