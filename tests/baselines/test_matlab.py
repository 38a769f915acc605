"""MATLAB's weights: what a network computes is what the authors' loops compute with the file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from scipy.signal import correlate2d

from baselines import load_matlab
from baselines.networks.cscn import CSCN
from baselines.networks.scn import SCN
from baselines.networks.srcnn import SRCNN
from baselines.networks.vdsr import VDSR
from tests.laws import close

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.random((9, 8))


def draw(*shape: int, size: float = 0.1) -> np.ndarray:
    """Float32, as published files have, in MATLAB's column-major layout."""
    return np.asfortranarray(RANDOM.normal(size=shape, scale=size).astype(np.float32))


def imfilter(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """MATLAB's imfilter(image, kernel, 'same', 'replicate')."""
    return correlate2d(np.pad(image, len(kernel) // 2, mode="edge"), kernel, mode="valid")


def columns(column: np.ndarray) -> np.ndarray:
    """MATLAB's reshape(column, k, k)."""
    k = round(len(column) ** 0.5)
    return column.reshape(k, k, order="F")


def srcnn(k: int) -> dict[str, np.ndarray]:
    return {
        "weights_conv1": draw(81, 64),
        "weights_conv2": draw(64, k * k, 32),
        "weights_conv3": draw(32, 25),
        "biases_conv1": draw(64, 1),
        "biases_conv2": draw(32, 1),
        "biases_conv3": draw(1, 1),
    }


def vdsr(depth: int = 4, maps: int = 6) -> dict[str, Any]:
    sizes = [1] + [maps] * (depth - 1) + [1]
    weight, bias = np.empty((1, depth), object), np.empty((1, depth), object)
    for i in range(depth):
        weight[0, i] = draw(3, 3, sizes[i], sizes[i + 1])
        bias[0, i] = draw(sizes[i + 1], 1)
    weight[0, -1] = weight[0, -1][..., 0]  # MATLAB drops the one at the end
    return {"model": {"weight": weight, "bias": bias}}


def scn(M: int = 16) -> dict[str, np.ndarray]:
    return {
        "conv": draw(81, 100),
        "wd": draw(100, M, size=3),
        "usd1": draw(M, M),
        "ud": draw(M, 25),
        "addp": draw(25, 1),
        "mean2": draw(169, 1),
        "diffms": draw(81, 25),
    }


def run(path: Path, variables: dict[str, Any], image: np.ndarray = IMAGE) -> tuple[Any, np.ndarray]:
    savemat(path, variables)
    net = load_matlab(path)
    with torch.no_grad():
        out = net.double()(torch.from_numpy(image)[None, None])
    return net, out[0, 0].numpy()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.mat"


@pytest.mark.parametrize("k", [1, 3, 5])
def test_srcnn(path: Path, k: int) -> None:
    v = srcnn(k)
    net, out = run(path, v)
    one = [
        np.maximum(imfilter(IMAGE, columns(v["weights_conv1"][:, i])) + v["biases_conv1"][i], 0)
        for i in range(64)
    ]
    two = []
    for i in range(32):
        parts = [imfilter(one[j], columns(v["weights_conv2"][j, :, i])) for j in range(64)]
        two.append(np.maximum(sum(parts) + v["biases_conv2"][i], 0))
    three = sum(imfilter(two[i], columns(v["weights_conv3"][i, :])) for i in range(32))
    close(torch.from_numpy(out), torch.from_numpy(three + v["biases_conv3"][0]), 1e-10)
    assert isinstance(net, SRCNN)
    assert not net.training


def test_vdsr(path: Path) -> None:
    v = vdsr()
    net, out = run(path, v)
    maps = [IMAGE]
    for i in range(4):
        kernels, bias = v["model"]["weight"][0, i], v["model"]["bias"][0, i]
        kernels = kernels.reshape(3, 3, len(maps), -1, order="F")
        sums = [
            sum(correlate2d(m, kernels[:, :, j, o], mode="same") for j, m in enumerate(maps))
            for o in range(kernels.shape[3])
        ]
        maps = [s + b if i == 3 else np.maximum(s + b, 0) for s, b in zip(sums, bias, strict=True)]
    close(torch.from_numpy(out), torch.from_numpy(IMAGE + maps[0]), 1e-10)
    assert isinstance(net, VDSR)


def test_vdsr_of_the_published_size(path: Path) -> None:
    savemat(path, vdsr(20, 64))
    assert sum(p.numel() for p in load_matlab(path).parameters()) == 665_921


def scn_by_matlab(v: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The loops of SCN.m after its bicubic."""
    u = np.pad(x, 6, mode="symmetric")

    def maps(filters: np.ndarray) -> np.ndarray:
        found = [correlate2d(u, columns(f), mode="valid") for f in filters.T]
        return np.stack(found, -1)

    def shrink(a: np.ndarray) -> np.ndarray:
        return np.sign(a) * np.maximum(np.abs(a) - 1, 0)

    def norm(a: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a, axis=-1, keepdims=True)

    features = maps(v["conv"])
    wd = features / norm(features) @ v["wd"]
    patch = shrink(shrink(wd) @ v["usd1"] + wd) @ v["ud"]
    patch = patch / np.maximum(norm(patch), 1e-30) * norm(maps(v["diffms"])) * 1.1
    patch = patch * v["addp"].T
    out = maps(v["mean2"])[..., 0]
    h, w = out.shape
    count = 0
    for i in range(4, -1, -1):
        for j in range(4, -1, -1):
            out = out + patch[i : i + h, j : j + w, count]
            count += 1
    return out


@pytest.mark.parametrize("struct", [False, True])
def test_scn(path: Path, struct: bool) -> None:
    v = scn()
    net, out = run(path, {"model": v} if struct else v)
    close(torch.from_numpy(out), torch.from_numpy(scn_by_matlab(v, IMAGE)), 1e-6)
    assert isinstance(net, SCN)
    assert CSCN.of(net.float(), net)(torch.rand(1, 1, 5, 6), 3).shape == (1, 1, 15, 18)


def test_scn_of_the_published_size(path: Path) -> None:
    savemat(path, scn(128))
    assert sum(p.numel() for p in load_matlab(path).parameters()) == 40_509


def test_a_kernel_is_neither_flipped_nor_transposed(path: Path) -> None:
    """One number in the file, at MATLAB's (1, 3) of a 9×9 kernel, is at row 0, column 2 here."""
    v = {name: np.zeros_like(value) for name, value in srcnn(5).items()}
    v["weights_conv1"][18, 7] = 1  # two columns of nine before it
    savemat(path, v)
    weight = load_matlab(path).layers[0].weight
    assert weight.nonzero().tolist() == [[7, 0, 0, 2]]


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (
            lambda: srcnn(5),
            {"weights_conv1": draw(64, 81)},
            r"conv1 must be \(81, 64\), got",
        ),
        (lambda: srcnn(5), {"weights_conv2": draw(64, 24, 32)}, r"be \(64, 25, 32\), got \(64, 24"),
        (lambda: srcnn(5), {"weights_conv2": draw(64, 49, 32)}, r"k = 1, 3 or 5; got \(64, 49, 32"),
        (lambda: srcnn(5), {"weights_conv2": None}, r"weights_conv2 must be .* got \(\)"),
        (
            lambda: srcnn(5),
            {"weights_conv3": None},
            r"conv3 is missing; it must be \(32, 25",
        ),
        (lambda: srcnn(5), {"biases_conv2": draw(31, 1)}, r"biases_conv2 must be 32 numbers, got"),
        (lambda: srcnn(5), {"biases_conv1": draw(8, 8)}, r"biases_conv1 must be 64 numbers, got"),
        (lambda: srcnn(5), {"weights_conv1": np.full((81, 64), np.nan)}, "weights_conv1 holds NaN"),
        (lambda: srcnn(5), {"weights_conv3": "text"}, "weights_conv3 must hold real numbers, got"),
        (
            lambda: srcnn(5),
            {"biases_conv2": np.full((32, 1), 1e300)},
            "biases_conv2 holds .* infinite in float32",
        ),
        (vdsr, {"model": draw(3, 3)}, "model must be a struct with weight .*; got fields none"),
        (vdsr, {"model": {"a": 1, "bias": 2}}, "struct with weight .* got fields a, bias"),
        (scn, {"model": {**scn(), "ud": draw(16, 24)}}, r"ud must be \(16, 25\), got \(16, 24\)"),
        (scn, {"model": {"wd": draw(100, 16)}}, r"conv is missing; it must be \(81, 100\)"),
        (vdsr, {"model": {"weight": draw(3, 3), "bias": draw(3)}}, "model.weight must be cells"),
        (scn, {"ud": draw(16, 24)}, r"ud must be \(16, 25\), got \(16, 24\)"),
        (scn, {"mean2": None}, r"mean2 must be 169 numbers, got shape \(0,\)"),
    ],
)
def test_wrong_shapes_are_named(path: Path, make, change: dict, message: str) -> None:
    variables = {k: v for k, v in {**make(), **change}.items() if v is not None}
    savemat(path, variables)
    with pytest.raises(ValueError, match=f"weights.mat: .*{message}"):
        load_matlab(path)


def test_wrong_cells_of_vdsr_are_named(path: Path) -> None:
    v = vdsr()
    v["model"]["weight"][0, 2] = draw(5, 5, 6, 6)
    savemat(path, v)
    with pytest.raises(ValueError, match=r"weight\{3\} must be \(3, 3, 6, 6\), got \(5, 5, 6, 6\)"):
        load_matlab(path)
    v["model"]["bias"] = v["model"]["bias"][:, :3]
    savemat(path, v)
    with pytest.raises(
        ValueError, match="equally many weights and biases, at least 2; got 4 and 3"
    ):
        load_matlab(path)


def test_other_files(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="weights.mat"):
        load_matlab(path)
    path.write_bytes(b"no MATLAB file" * 20)
    with pytest.raises(ValueError, match="cannot be read as a .mat file"):
        load_matlab(path)
    savemat(path, {"a": 1, "b": 2})
    with pytest.raises(ValueError, match="holds no known network: .* the file has a, b"):
        load_matlab(path)
    savemat(path, srcnn(5))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match="cannot be read as a .mat file"):
        load_matlab(path)
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    path.write_bytes(header + bytes(600))
    with pytest.raises(ValueError, match="of MATLAB 7.3; in MATLAB, save it with '-v7'"):
        load_matlab(path)
