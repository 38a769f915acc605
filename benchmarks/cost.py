"""PSNR on Set5 against training arithmetic, and against multiplications per output pixel.

    python benchmarks/cost.py [--scale 2] [--out docs/cost.png]

Prints a table of all scales; draws one scale with --out.

- Multiplications per pixel of the output are counted on the networks.
- Training arithmetic is 6 FLOP per multiplication: the forward pass, and twice that backward.  For
  our networks it is that of the last run, by the recipe and the steps on the card, and of the runs
  before it in :data:`EARLIER`.  For the others it follows from :data:`PUBLISHED`.
- PSNR is that of our cards, and for the others that of their papers.
"""

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from crnet import loading, networks
from crnet.measuring.published import cells
from crnet.networks import Network
from crnet.training.recipe import Recipe, from_fields

SCALES = (2, 3, 4)


@dataclass(frozen=True)
class Row:
    """A network: its weights, and at each scale multiplications in millions and PSNR in dB.

    `petaflop` is its training arithmetic, None where it is not known.
    """

    name: str
    weights: int
    multiplications: Mapping[int, float]
    psnr: Mapping[int, float]
    petaflop: float | None
    ours: bool = False


@dataclass(frozen=True)
class Published:
    """How to count a published network, and what its training took: `steps` of `batch` patches.

    `side` is the side of a patch in pixels of the network's input.  No steps: not known.
    """

    architecture: str
    arguments: Mapping[str, object]
    steps: int = 0
    batch: int = 0
    side: int = 0


PUBLISHED = {
    "SRCNN": Published("SRCNN", {}),
    # 80 epochs, 9,960 iterations of 64 patches of 41²: Kim, Lee, Lee, CVPR 2016, section 5.2.
    "VDSR": Published("VDSR", {}, 9_960, 64, 41),
    # 50 epochs of 6,536 iterations of 128 patches of 31²: the authors' solver file.
    "DRRN": Published("DRRN", {}, 326_800, 128, 31),
    # 35 epochs (section 5); batches and patches as those of DRRN [inferred].
    "CRNet-A": Published("CRNetA", {"n0": 128, "m0": 256, "recursions": 25}, 228_760, 128, 31),
    # 800 epochs; neither batches nor patches are stated.
    "CRNet-B": Published("CRNetB", {"n0": 64, "m0": 1024, "recursions": 25}),
    # 300 epochs of 1,000 batches of 16 patches of 48²: the defaults of the authors' PyTorch code.
    "EDSR-baseline": Published("EDSR", {"blocks": 16, "maps": 64}, 300_000, 16, 48),
}

EARLIER = {
    # (steps, batch, side of a patch) of the runs whose weights the last run started from; the
    # comments in crnet/training/recipes tell them.
    "crnet-a": [(10_957, 3, 48)],
    "crnet-a-sparse": [(10_680, 4, 64), (10_203, 4, 64), (11_037, 4, 64)],
    "crnet-b-fast": [(20_936, 8, 48)],
    "crnet-b-sparse": [(21_802, 8, 48)],
    "crnet-b": [(11_000, 8, 32), (700, 6, 40), (15_500, 6, 40), (3_417, 4, 56)],
    "srcnn-compact": [(59_681, 12, 48)],
    "vdsr-compact": [(46_109, 3, 48)],
    "drrn-compact": [(46_109, 3, 48)],
}

GROWN = {"crnet-b-sparse": "crnet-b-fast"}
"""Networks that started from the earlier runs of a smaller one."""

PSNR = {  # of networks that are not in the tables of the paper
    # Lim et al., CVPRW 2017, as quoted by Hui et al., ACM MM 2019, Table 5.
    "EDSR-baseline": {2: 37.99, 3: 34.37, 4: 32.09},
    # Hui et al., ACM MM 2019.
    "IMDN": {2: 38.00, 3: 34.36, 4: 32.21},
}
# Hui et al., ACM MM 2019: billions of multiplications for an image of 1280×720.
IMDN = Row(
    "IMDN",
    703_000,
    {2: 158.8e3 / 921_600, 3: 71.5e3 / 921_600, 4: 40.9e3 / 921_600},
    PSNR["IMDN"],
    None,
)


def millions(net: Network, scale: int) -> float:
    return networks.multiplications(net, scale) / 1e6


def petaflop(net: Network, scales: tuple[int, ...], steps: int, batch: int, side: int) -> float:
    """Return the arithmetic of a training whose batches take the scales in turn."""
    hr = {s: side * (1 if net.enlarged else s) for s in scales}  # side of a patch in HR pixels
    per_patch = statistics.fmean(networks.multiplications(net, s) * hr[s] ** 2 for s in scales)
    return 6 * per_patch * steps * batch / 1e15


def earlier(name: str, nets: Mapping[str, Network], scales: tuple[int, ...]) -> float:
    """Return the arithmetic of the runs before a bundled network's last one."""
    spent = sum(petaflop(nets[name], scales, *run) for run in EARLIER.get(name, []))
    return spent + (earlier(GROWN[name], nets, scales) if name in GROWN else 0)


def ours() -> list[Row]:
    rows = []
    files = {name: loading.stored(path) for name, path in loading.bundled().items()}
    nets = {name: file.network() for name, file in files.items()}
    for name, net in nets.items():
        about = files[name].card
        recipe: Recipe = from_fields(json.loads(str(about.training["recipe"])))
        last = (int(str(about.training["steps"])), recipe.batch, recipe.patch)
        rows.append(
            Row(
                name,
                sum(p.numel() for p in net.parameters()),
                {s: millions(net, s) for s in SCALES},
                {s: about.psnr["Set5"][str(s)] for s in SCALES},
                earlier(name, nets, recipe.scales) + petaflop(net, recipe.scales, *last),
                ours=True,
            )
        )
    return rows


def published() -> list[Row]:
    rows = [IMDN]
    for name, one in PUBLISHED.items():
        psnr = PSNR.get(name) or {c.scale: c.psnr for c in cells("Set5") if c.method == name}
        takes_scale = one.architecture == "EDSR"  # a network per scale; the others are for all
        nets = {
            s: networks.build(
                one.architecture, {**one.arguments, **({"scale": s} if takes_scale else {})}
            )
            for s in SCALES
        }
        training = (one.steps, one.batch, one.side)
        scales = (2,) if takes_scale else SCALES
        rows.append(
            Row(
                name,
                sum(p.numel() for p in nets[2].parameters()),
                {s: millions(nets[s], s) for s in SCALES},
                psnr,
                petaflop(nets[2], scales, *training) if one.steps else None,
            )
        )
    return rows


def table(rows: list[Row]) -> str:
    head = ["", "parameters", *(f"M mult / px ×{s}" for s in SCALES), "training, PFLOP",
            *(f"Set5 ×{s}" for s in SCALES)]  # fmt: skip
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append([
            row.name if row.ours else f"*{row.name}*", f"{row.weights:,}",
            *(f"{row.multiplications[s]:.3g}" for s in SCALES),
            "" if row.petaflop is None else f"{row.petaflop:.2g}" if row.petaflop < 10
            else f"{row.petaflop:,.0f}",
            *(f"{row.psnr[s]:.2f}" for s in SCALES),
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(rows: list[Row], scale: int, path: Path) -> None:
    """Draw PSNR against both costs, for networks as good as the published SRCNN.

    Names of published networks are below and above in turn.
    """
    least = next(row.psnr[scale] for row in rows if row.name == "SRCNN")
    rows = [row for row in rows if row.psnr[scale] > least - 0.2]
    figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharey=True, layout="constrained")
    for axis, of in zip(
        axes, (lambda r: r.petaflop, lambda r: r.multiplications[scale]), strict=True
    ):
        above = False
        for row in sorted((r for r in rows if of(r) is not None), key=of):
            point = (of(row), row.psnr[scale])
            axis.plot(*point, "o" if row.ours else "s", color="C0" if row.ours else "C7")
            offset, side = (0, 7 if above else -14), "center"
            if row.name == loading.RECOMMENDED:
                offset = (0, 7)
            elif row.ours:
                offset, side = ((7, -3), "left") if "compact" in row.name else ((-7, -3), "right")
            axis.annotate(row.name, point, offset, textcoords="offset points", fontsize=8, ha=side)
            above ^= not row.ours
    for axis, label in zip(
        axes, ("training arithmetic, PFLOP", "multiplications per output pixel, millions"),
        strict=True,
    ):  # fmt: skip
        axis.set(xscale="log", xlabel=label)
        axis.margins(x=0.2)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"PSNR on Set5 ×{scale}, dB")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scale", type=int, choices=SCALES, default=2, help="of the figure")
    parser.add_argument("--out", type=Path, help="file of the figure")
    arguments = parser.parse_args()
    rows = sorted([*ours(), *published()], key=lambda row: row.psnr[2])
    print(table(rows))
    if arguments.out:
        draw(rows, arguments.scale, arguments.out)


if __name__ == "__main__":
    main()
