"""The page: its data as a reader unpacks them, its size, and the page in a browser."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from crnet.cli import main
from crnet.inspecting.drawing import drawing
from crnet.inspecting.page import levels, packed, page
from crnet.inspecting.states import states
from crnet.upscale import Upscaler
from tests.crnet.inspecting.test_drawing import NETWORKS, image

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def data(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html)
    assert found
    parsed: dict[str, Any] = json.loads(found[1])
    return parsed


def unpacked(p: dict[str, Any]) -> NDArray[Any]:
    raw = np.frombuffer(zlib.decompress(base64.b64decode(p["data"])), np.uint8)
    kind = np.dtype(p["type"])
    array = np.ascontiguousarray(raw.reshape(kind.itemsize, -1).T).view(kind).reshape(p["shape"])
    if kind.kind == "i":  # 0, 1, 2, 3, … stand for 0, −1, 1, −2, …
        odd, half = array & 1, (array.astype(int) & (2 ** (8 * kind.itemsize) - 1)) // 2
        array = np.where(odd == 1, -half - 1, half).astype(kind)
    for axis in (-1, -2) if p["smooth"] else ():
        array = np.cumsum(array, axis=axis, dtype=kind)
    return array


@pytest.fixture(
    scope="module", params=["free a with biases", "free b", "certified a", "certified b"]
)
def made(request: pytest.FixtureRequest) -> tuple[str, str]:
    net = NETWORKS[request.param]()
    with torch.no_grad():
        return request.param, page(net, image(net), 3, model="<model>", source="a</script>b.png")


def test_the_page_needs_nothing_else(made: tuple[str, str]) -> None:
    html = made[1]
    assert re.findall(r"""(?:src|href)\s*=|url\(|@import|https?://|fetch\(""", html) == []
    assert html.count("</script>") == 2  # titles cannot end the data
    assert data(html)["source"] == "a</script>b.png"
    assert len(html) < 100_000 + 40 * 21 * 27 * 9


@pytest.mark.parametrize("kind", [np.int16, np.int32])
@pytest.mark.parametrize("smooth", [False, True])
def test_arrays_come_back(kind: type[np.signedinteger[Any]], smooth: bool) -> None:
    numbers = np.random.default_rng(0).integers(-(2**14), 2**14, (2, 5, 7)).astype(kind)
    numbers[0, 0, :3] = -(2**14), 2**14 - 1, 0
    assert (unpacked(packed(numbers, smooth=smooth)) == numbers).all()


@torch.no_grad()
def test_its_numbers_are_those_of_the_network(made: tuple[str, str]) -> None:
    """The stored image is the network's, and the stored codes are the codes, to their step."""
    net, D = NETWORKS[made[0]](), data(made[1])
    x = image(net)
    exact, drawn = Upscaler(net)(x, 3)[0], drawing(net, x, 3)
    stored = (unpacked(D["base"]).astype(float) + unpacked(D["added"])) * D["unit"]
    assert np.abs(stored - exact.numpy()).max() <= 0.6 * D["unit"]
    codes = np.zeros((D["grid"][0], D["grid"][1] * D["grid"][2]))
    gaps, values, i = unpacked(D["codes"]["gaps"]), unpacked(D["codes"]["values"]), 0
    for m, count in enumerate(D["codes"]["counts"]):
        at = np.cumsum(gaps[i : i + count].astype(int)) - 1
        codes[m, at] = values[i : i + count] * D["codesStep"][m]
        i += count
    off = np.abs(codes.reshape(D["grid"]) - drawn.codes.numpy()).max((1, 2))
    assert (off <= 0.51 * np.array(D["codesStep"])).all()
    assert D["largest"] < 1.0
    if D["certificate"] is None:
        assert D["norm"] > 0
        assert "not proven" in made[1]
    else:
        assert max(D["certificate"]["relative"]) < 0.1


def test_the_command_writes_a_page_and_refuses_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.effect_noise((40, 30), 50).save(tmp_path / "noise.png")
    call = ["inspect", str(tmp_path / "noise.png"), "-o", str(tmp_path / "page.html"),
            "--device", "cpu"]  # fmt: skip
    assert main([*call, "--scale", "3", "--crop", "9", "12", "30"]) == 0
    D = data((tmp_path / "page.html").read_text("utf-8"))
    assert (D["size"], D["source"], D["scale"]) == ([30, 30], "noise.png", 3)
    for wrong, says in (
        ([], "exists"),
        (["--overwrite", "--crop", "0", "60", "30"], "outside the enlarged image of 80x60"),
        (["--overwrite", "--crop", "0", "0", "600"], "SIDE of --crop must be 2 to 512"),
        (["--overwrite", "--model", "vdsr-compact"], "has no codes to inspect"),
        (["--overwrite", "-o", str(tmp_path / "page.png")], "must end in .html"),
    ):
        capsys.readouterr()
        assert main([*call, *wrong]) != 0
        assert says in capsys.readouterr().err


BROWSE = """
import json, sys, time
from selenium import webdriver
options = webdriver.ChromeOptions()
for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
    options.add_argument(flag)
options.binary_location = sys.argv[2]
options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(sys.argv[3]))
driver.set_script_timeout(60)
try:
    driver.get("file://" + sys.argv[1])
    for _ in range(300):
        if driver.execute_script("return document.body.dataset.ready"):
            break
        time.sleep(0.1)
    look = '''
        const seen = explain(...pixel), at = c => (c * H + pixel[1]) * W + pixel[0];
        return {value: seen.value, sum: seen.value.map((_, c) => seen.rest[c] + seen.left[c]
            + [...seen.parts.values()].reduce((s, v) => s + v[c], 0)), parts: seen.parts.size,
            left: seen.left, image: seen.value.map((_, c) => image[at(c)]),
            first: Array.from(D.states.find(s => s.draws).levels),
            text: document.body.innerText, states: D.states.length}'''
    found = {"all": driver.execute_script(look), "log": driver.get_log("browser")}
    off = "toggle([order[0]]).then(() => arguments[0](0))"
    driver.execute_async_script(off)
    found["one off"] = driver.execute_script(look)
    driver.execute_async_script(off)
    found["on again"] = driver.execute_script(look)
    driver.execute_script("show(0)")
    found["first"] = driver.execute_script("return el('state').textContent")
    print(json.dumps(found))
finally:
    driver.quit()
"""


def python_with_selenium() -> str | None:
    """This Python if it has selenium, or the one that CRNET_SELENIUM names."""
    return sys.executable if find_spec("selenium") else os.environ.get("CRNET_SELENIUM")


@pytest.mark.browser
def test_a_browser_explains_each_pixel_exactly(made: tuple[str, str], tmp_path: Path) -> None:
    python = python_with_selenium()
    if not (python and BROWSER and DRIVER):
        pytest.skip("needs chromium, chromedriver, and selenium here or in $CRNET_SELENIUM")
    (tmp_path / "page.html").write_text(made[1], "utf-8")
    (tmp_path / "browse.py").write_text(BROWSE, "utf-8")
    ran = subprocess.run(
        [python, tmp_path / "browse.py", tmp_path / "page.html", BROWSER, DRIVER],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["log"] == []
    seen, off, again = found["all"], found["one off"], found["on again"]
    assert seen["sum"] == pytest.approx(seen["value"], abs=1e-9)
    assert seen["value"] == pytest.approx(seen["image"], abs=1e-6)  # the network's pixel
    assert max(map(abs, seen["left"])) < 1 / 255
    assert seen["parts"] > 1
    assert off["sum"] == pytest.approx(off["value"], abs=1e-9)
    assert off["value"] != pytest.approx(seen["value"], abs=1e-6)
    assert again["value"] == pytest.approx(seen["value"], abs=1e-6)
    assert "recursion 0 of 2" in found["first"]
    net = NETWORKS[made[0]]()
    with torch.no_grad():
        first = next(s.image for s in states(net, image(net), 3)[0] if s.image is not None)
    off_by = np.array(seen["first"]) - levels(first).flatten().astype(int)
    assert np.abs(off_by).max() <= 1  # where the last image is next to the middle of two levels
    assert ("What is proven" in seen["text"]) == made[0].startswith("certified")
