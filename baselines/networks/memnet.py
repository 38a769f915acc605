"""MemNet: blocks of recursive units; a 1×1 gate combines recent outputs with those of all blocks.

    h = A p(x),    M_b = G_b p([u_1, …, u_R, h, M_1, …, M_{b−1}])
    u_r = u_{r−1} + C_2 p(C_1 p(u_{r−1})),    u_0 = M_{b−1},    ŷ = Σ_b w_b (x + R p(M_b))

p is batch normalisation and ReLU.  Kernels start as in He et al.

References
----------
Tai, Yang, Liu, Xu, "MemNet: a persistent memory network for image restoration", ICCV 2017.  M6R6
has 676,992 weights if the units of a block share theirs, as in the paper, and 2,888,832 if they do
not, as in the released model.
"""

import torch
from torch import Tensor, nn

from baselines.networks.checks import check_sizes, is_rgb
from baselines.networks.initial_weights import he


class MemNet(nn.Module):
    """MemNet on the bicubic-enlarged Y in [0, 1]; one set of weights for ×2, ×3 and ×4.

    Parameters
    ----------
    blocks, units : int
        Memory blocks M, and residual units R in each.
    maps : int
        Feature maps.
    shared : bool
        Let the units of a block share their convolutions.
    channels : int
        1 for Y, 3 for RGB.

    Examples
    --------
    >>> MemNet(blocks=2, units=2, maps=8)(torch.zeros(1, 1, 12, 10)).shape
    torch.Size([1, 1, 12, 10])
    """

    enlarged: bool = True
    rgb: bool = False
    scales: tuple[int, ...] = ()
    takes_scale: bool = False

    def __init__(
        self,
        blocks: int = 6,
        units: int = 6,
        maps: int = 64,
        *,
        shared: bool = True,
        channels: int = 1,
    ) -> None:
        super().__init__()
        check_sizes(blocks=blocks, units=units, maps=maps)
        self.rgb = is_rgb(channels)
        self.first = _unit(channels, maps)
        self.blocks = nn.ModuleList(_Block(units, maps, b + 1, shared) for b in range(blocks))
        self.normalize = nn.ModuleList(nn.BatchNorm2d(maps) for _ in range(blocks))
        self.reconstruct = nn.Conv2d(maps, channels, 3, padding=1)
        self.weights = nn.Parameter(torch.full((blocks,), 1 / blocks))
        he(self)

    def predictions(self, x: Tensor) -> Tensor:
        """Return the images of the blocks, (M, B, channels, H, W); training supervises them all."""
        memory: list[Tensor] = [self.first(x)]
        found = []
        for block, normalize in zip(self.blocks, self.normalize, strict=True):
            memory.append(block(memory))
            found.append(x + self.reconstruct(normalize(memory[-1]).relu()))
        return torch.stack(found)

    def forward(self, x: Tensor) -> Tensor:
        """Map bicubic-enlarged images (B, channels, H, W) to sharp ones of the same size."""
        return self.combine(self.predictions(x))

    def combine(self, predictions: Tensor) -> Tensor:
        """Return the weighted sum of predictions, (B, channels, H, W)."""
        return torch.einsum("d,dbchw->bchw", self.weights, predictions)


class _Block(nn.Module):
    """A memory block with `past` long-term memories; its input is the last of them."""

    def __init__(self, units: int, maps: int, past: int, shared: bool) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.Sequential(_unit(maps, maps), _unit(maps, maps)) for _ in range(units)
        )
        if shared:
            for unit in self.units[1:]:
                for one, other in zip(unit, self.units[0], strict=True):  # type: ignore[call-overload]
                    one[2] = other[2]
        self.gate = _unit(maps * (units + past), maps, k=1)

    def forward(self, memory: list[Tensor]) -> Tensor:
        h, recent = memory[-1], []
        for unit in self.units:
            h = h + unit(h)
            recent.append(h)
        out: Tensor = self.gate(torch.cat([*recent, *memory], 1))
        return out


def _unit(n_in: int, n_out: int, k: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(n_in), nn.ReLU(), nn.Conv2d(n_in, n_out, k, padding=k // 2))
