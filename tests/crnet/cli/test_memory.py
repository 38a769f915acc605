"""``--memory`` holds: the peak of resident memory while large images are enlarged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import crnet
from crnet.model import CRNetB

MEMORY = {"photo": ((4000, 3000), 1024, 8), "strip": ((20000, 200), 400, 32)}
"""Width and height, the limit in MiB, and the feature maps of the network."""

# A small image comes first: what the process needs without a large one.
CODE = """
import resource, sys
from crnet.cli.parser import main
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
options = ["--model", "tiny.safetensors", "--memory", sys.argv[1], "--device", "cpu"]
assert main(["upscale", "small.png", *options, "-o", "small.bmp"]) == 0
before = peak()
assert main(["upscale", "large.png", *options, "-o", "large.bmp"]) == 0
print("took", peak() - before)
"""


def taken(folder: Path, size: tuple[int, int], memory: float, n0: int) -> float:
    """Return the MiB that an image of a size takes in a process of its own."""
    arguments = {"n0": n0, "m0": 2 * n0, "recursions": 1}
    net = CRNetB(**arguments, generator=torch.Generator().manual_seed(0))
    card = crnet.Card("tiny", "CRNetB", arguments, (2, 3, 4), {}, {})
    crnet.save(folder / "tiny.safetensors", net, card)
    for name, sides in (("small", (64, 64)), ("large", size)):
        Image.new("RGB", sides, (80, 120, 40)).save(folder / f"{name}.png", compress_level=1)
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(crnet.__file__).parents[1]),
    }  # fmt: skip
    command = [sys.executable, "-c", CODE, str(memory)]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, check=True
    )
    assert "needs about" not in run.stderr
    return float(run.stdout.split("took")[1])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has other units")
@pytest.mark.parametrize("name", MEMORY)
def test_the_peak_stays_within_the_memory(tmp_path: Path, name: str) -> None:
    size, memory, n0 = MEMORY[name]
    assert taken(tmp_path, size, memory, n0) < memory


def test_an_image_that_is_too_large_is_told_before_the_work(tmp_path: Path, capsys) -> None:
    Image.new("RGB", (300, 300)).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    options = ["--model", "bicubic", "--memory", "1", "-o", str(tmp_path / "b.png")]
    assert crnet.cli.parser.main(["upscale", path, *options]) == 0
    told = capsys.readouterr().err
    assert told.startswith("crnet: a.png, 300x300 to 600x600 pixels: the image alone needs about")
    assert "more than --memory 1" in told
