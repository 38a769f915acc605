"""What a system is: a map x_lr → x_sr, called with LR images and a scale.

Everything that upscales is a :class:`System`: :class:`crnet.Upscaler`, :class:`crnet.Ensemble` and
the sparse-coding baselines.  A plain function, such as :func:`baselines.bicubic`, stands for a
system on Y; :func:`as_system` wraps it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

OnTile: TypeAlias = Callable[[int, int], None]
"""Called with (tiles done, tiles in all)."""

Function: TypeAlias = Callable[[Tensor, int], Tensor]
"""Maps LR Y in [0, 1], (B, 1, h, w), and the scale to HR Y, (B, 1, scale·h, scale·w)."""


@runtime_checkable
class System(Protocol):
    """Maps LR images in [0, 1], (B, channels, h, w), and the scale to HR images.

    The HR images have shape (B, channels, scale·h, scale·w) and are not clipped.  They are a new
    tensor, which the caller may change.
    """

    @property
    def channels(self) -> int:
        """Channels of the images: 1 is Y, 3 is RGB."""

    def __call__(self, x: Tensor, scale: int, /) -> Tensor:
        """Return the HR images."""


@runtime_checkable
class Learned(System, Protocol):
    """A system with learned numbers."""

    def parameters_at(self, scale: int) -> int:
        """Count the learned numbers of the model for a scale."""


@runtime_checkable
class Tiled(System, Protocol):
    """A system that works in tiles."""

    def following(self, on_tile: OnTile, memory_mib: float | None = None) -> System:
        """Return the same system, which calls `on_tile` after each tile.

        `memory_mib`, if given, is its new working memory of a tile in MiB.
        """


@dataclass(frozen=True)
class OnY:
    """A function on Y as a system."""

    function: Function
    channels: ClassVar[int] = 1

    def __call__(self, x: Tensor, scale: int) -> Tensor:
        """Return the HR images."""
        return self.function(x, scale)


def as_system(upscale: System | Function) -> System:
    """Return a system unchanged; wrap a plain function as a system on Y.

    Examples
    --------
    >>> from baselines import bicubic
    >>> as_system(bicubic).channels
    1
    """
    return upscale if isinstance(upscale, System) else OnY(upscale)


def parameters(upscale: System | Function, scale: int) -> int:
    """Count the learned numbers of a system, 0 if it has none.

    A system that keeps one model per scale counts the model of this scale.  A network that serves
    several scales counts as a whole.
    """
    return upscale.parameters_at(scale) if isinstance(upscale, Learned) else 0


def following(upscale: System, on_tile: OnTile, memory_mib: float | None = None) -> System:
    """Return a system that calls `on_tile` after each tile, if it works in tiles.

    `memory_mib`, if given, is the new working memory of a tile in MiB.
    """
    return upscale.following(on_tile, memory_mib) if isinstance(upscale, Tiled) else upscale
