"""The numbers of the paper: Tables 1 to 3 of Zhang, Liu, Yu, arXiv 1908.01166, 2019.

The tables mix protocols and sources.  Table 2 is measured on 8-bit Y with LR in floating point,
Table 3 on RGB with 8-bit LR.  Most rows are quoted from the systems' own papers.
"""

import csv
from importlib import resources
from typing import NamedTuple


class Cell(NamedTuple):
    """One published mean: PSNR in dB, SSIM or None, and the number of the table."""

    method: str
    set: str
    scale: int
    psnr: float
    ssim: float | None
    table: int


def cells(set_name: str | None = None, scale: int | None = None) -> list[Cell]:
    """Return the published cells in the order of the paper, of one set or scale if given.

    Examples
    --------
    >>> [c.psnr for c in cells("Set5", 4) if c.method == "CRNet-A"]
    [31.82]
    """
    found = []
    for table in (1, 2, 3):
        text = (
            resources.files("crnet.measuring.published").joinpath(f"table{table}.tsv").read_text()
        )
        for row in csv.DictReader(text.splitlines(), delimiter="\t"):
            right = set_name in (None, row["dataset"]) and scale in (None, int(row["scale"]))
            if right and row["psnr"] and "minus" not in row["method"]:
                ssim = float(row["ssim"]) if row["ssim"] else None
                found.append(
                    Cell(row["method"], row["dataset"], int(row["scale"]),
                         float(row["psnr"]), ssim, table)
                )  # fmt: skip
    # Table 1 repeats cells of the other tables without SSIM; only CSC-SR is not repeated.
    full = {(c.method, c.set, c.scale) for c in found if c.table > 1}
    return [c for c in found if c.table > 1 or (c.method, c.set, c.scale) not in full]
