"""Published PyTorch files: each layout against a plain module with the published names."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.networks.edsr_layers import MEAN
from baselines.torch_files import read_torch, recognise
from baselines.weights import WeightsError
from crnet.networks import apply, build


class Shift(nn.Conv2d):
    """MeanShift of EDSR-PyTorch."""

    def __init__(self, levels: float, sign: int) -> None:
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.bias.data = sign * levels * torch.tensor(MEAN)  # type: ignore[union-attr]


class Block(nn.Module):
    def __init__(self, n: int, k: int = 3, size: float = 1.0) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(n, n, k), nn.ReLU(), conv(n, n, k))
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.size * self.body(x)
        return out


def conv(n_in: int, n_out: int, k: int = 3) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, k, padding=k // 2)


def upsampler(scale: int, n: int) -> nn.Sequential:
    factors = (2, 2) if scale == 4 else (scale,)
    return nn.Sequential(
        *[layer for f in factors for layer in (conv(n, f * f * n), nn.PixelShuffle(f))]
    )


class EDSR(nn.Module):
    """In the names of EDSR-PyTorch, on images in [0, levels]."""

    def __init__(self, scale: int, n: int = 4, levels: float = 255) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = Shift(levels, -1), Shift(levels, 1)
        self.head = nn.Sequential(conv(3, n))
        size = 0.1 if n == 256 else 1.0
        self.body = nn.Sequential(Block(n, size=size), Block(n, size=size), conv(n, n))
        self.tail = nn.Sequential(upsampler(scale, n), conv(n, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(self.sub_mean(x))
        out: Tensor = self.add_mean(self.tail(h + self.body(h)))
        return out


class BasicSR(nn.Module):
    """EDSR in the names of BasicSR, on images in [0, 1]."""

    class Residual(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.conv1, self.conv2 = conv(n, n), conv(n, n)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.conv2(self.conv1(x).relu())
            return out

    def __init__(self, scale: int, n: int = 4) -> None:
        super().__init__()
        self.conv_first = conv(3, n)
        self.body = nn.Sequential(self.Residual(n), self.Residual(n))
        self.conv_after_body = conv(n, n)
        self.upsample = upsampler(scale, n)
        self.conv_last = conv(n, 3)

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.tensor(MEAN).view(3, 1, 1)
        h = self.conv_first((x - mean) * 255)
        h = self.conv_last(self.upsample(h + self.conv_after_body(self.body(h))))
        out: Tensor = h / 255 + mean
        return out


class MDSR(nn.Module):
    def __init__(self, scales: tuple[int, ...], n: int = 4) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = Shift(255, -1), Shift(255, 1)
        self.head = nn.Sequential(conv(3, n))
        self.pre_process = nn.ModuleList(nn.Sequential(Block(n, 5), Block(n, 5)) for _ in scales)
        self.body = nn.Sequential(Block(n), Block(n), Block(n), conv(n, n))
        self.upsample = nn.ModuleList(upsampler(s, n) for s in scales)
        self.tail = nn.Sequential(conv(n, 3))
        self.scales = scales

    def forward(self, x: Tensor, scale: int) -> Tensor:
        i = self.scales.index(scale)
        h = self.pre_process[i](self.head(self.sub_mean(x)))
        out: Tensor = self.add_mean(self.tail(self.upsample[i](h + self.body(h))))
        return out


class MSRN(nn.Module):
    class MSRB(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.conv_3_1, self.conv_3_2 = conv(n, n), conv(2 * n, 2 * n)
            self.conv_5_1, self.conv_5_2 = conv(n, n, 5), conv(2 * n, 2 * n, 5)
            self.confusion = conv(4 * n, n, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.cat([self.conv_3_1(x).relu(), self.conv_5_1(x).relu()], 1)
            h = torch.cat([self.conv_3_2(h).relu(), self.conv_5_2(h).relu()], 1)
            out: Tensor = self.confusion(h) + x
            return out

    def __init__(self, scale: int, n: int = 4) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = Shift(255, -1), Shift(255, 1)
        self.head = nn.Sequential(conv(3, n))
        self.body = nn.Sequential(self.MSRB(n), self.MSRB(n))
        self.tail = nn.Sequential(conv(3 * n, n, 1), conv(n, n), upsampler(scale, n), conv(n, 3))

    def forward(self, x: Tensor) -> Tensor:
        first = self.head(self.sub_mean(x))
        second = self.body[0](first)
        h = self.tail(torch.cat([second, self.body[1](second), first], 1))
        out: Tensor = self.add_mean(h)
        return out


class RDN(nn.Module):
    """In the names of EDSR-PyTorch, on images in [0, 255] without a mean."""

    class RDB(nn.Module):
        class Conv(nn.Module):
            def __init__(self, n_in: int, n_out: int) -> None:
                super().__init__()
                self.conv = nn.Sequential(conv(n_in, n_out), nn.ReLU())

            def forward(self, x: Tensor) -> Tensor:
                return torch.cat([x, self.conv(x)], 1)

        def __init__(self, n: int) -> None:
            super().__init__()
            self.convs = nn.Sequential(self.Conv(n, n), self.Conv(2 * n, n))
            self.LFF = conv(3 * n, n, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.LFF(self.convs(x)) + x
            return out

    def __init__(self, scale: int, n: int = 4) -> None:
        super().__init__()
        self.SFENet1, self.SFENet2 = conv(3, n), conv(n, n)
        self.RDBs = nn.ModuleList(self.RDB(n) for _ in range(3))
        self.GFF = nn.Sequential(conv(3 * n, n, 1), conv(n, n))
        self.UPNet = nn.Sequential(*upsampler(scale, n), conv(n, 3))

    def forward(self, x: Tensor) -> Tensor:
        first = self.SFENet1(x)
        h, found = self.SFENet2(first), []
        for block in self.RDBs:
            h = block(h)
            found.append(h)
        out: Tensor = self.UPNet(self.GFF(torch.cat(found, 1)) + first)
        return out


class DBPN(nn.Module):
    """In the names of DBPN-Pytorch, with three stages."""

    class Layer(nn.Module):
        def __init__(self, n_in: int, n_out: int, k: int, stride: int, pad: int, up: bool) -> None:
            super().__init__()
            if up:
                self.deconv = nn.ConvTranspose2d(n_in, n_out, k, stride, pad)
            else:
                self.conv = nn.Conv2d(n_in, n_out, k, stride, pad)
            self.act = nn.PReLU(init=0.1)

        def forward(self, x: Tensor) -> Tensor:
            layer = self.deconv if hasattr(self, "deconv") else self.conv
            out: Tensor = self.act(layer(x))
            return out

    class Unit(nn.Module):
        def __init__(self, n: int, kind: str, inputs: int) -> None:
            super().__init__()
            if inputs > 1:
                self.conv = DBPN.Layer(inputs * n, n, 1, 1, 0, up=False)
            for i, up in ((1, kind == "up"), (2, kind == "down"), (3, kind == "up")):
                setattr(self, f"{kind}_conv{i}", DBPN.Layer(n, n, 6, 2, 2, up))
            self.kind = kind

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x) if hasattr(self, "conv") else x
            there, back, again = (getattr(self, f"{self.kind}_conv{i}") for i in (1, 2, 3))
            first = there(x)
            out: Tensor = again(back(first) - x) + first
            return out

    class Last(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.conv = conv(n, 3)

    def __init__(self, n: int = 4) -> None:
        super().__init__()
        self.feat0 = self.Layer(3, 6, 3, 1, 1, up=False)
        self.feat1 = self.Layer(6, n, 1, 1, 0, up=False)
        self.up1, self.down1 = self.Unit(n, "up", 1), self.Unit(n, "down", 1)
        self.up2, self.down2 = self.Unit(n, "up", 1), self.Unit(n, "down", 2)
        self.up3 = self.Unit(n, "up", 2)
        self.output_conv = self.Last(3 * n)

    def forward(self, x: Tensor) -> Tensor:
        h1 = self.up1(self.feat1(self.feat0(x)))
        l1 = self.down1(h1)
        high = torch.cat([self.up2(l1), h1], 1)
        low = torch.cat([self.down2(high), l1], 1)
        out: Tensor = self.output_conv.conv(torch.cat([self.up3(low), high], 1))
        return out


class SRCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(1, 64, 9), conv(64, 32, 5), conv(32, 1, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv3(self.conv2(self.conv1(x).relu()).relu())
        return out


class VDSR(nn.Module):
    class Layer(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(n, n, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x).relu()
            return out

    def __init__(self, n: int = 4) -> None:
        super().__init__()
        self.residual_layer = nn.Sequential(*[self.Layer(n) for _ in range(11)])
        self.input = nn.Conv2d(1, n, 3, padding=1, bias=False)
        self.output = nn.Conv2d(n, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.output(self.residual_layer(self.input(x).relu()))
        return out


class MemNet(nn.Module):
    """The version whose image is that of the last block; its convolutions have no biases."""

    class Unit(nn.Sequential):
        def __init__(self, n_in: int, n_out: int, k: int = 3) -> None:
            super().__init__()
            self.add_module("bn", nn.BatchNorm2d(n_in))
            self.add_module("relu", nn.ReLU())
            self.add_module("conv", nn.Conv2d(n_in, n_out, k, padding=k // 2, bias=False))

    class Residual(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.relu_conv1, self.relu_conv2 = MemNet.Unit(n, n), MemNet.Unit(n, n)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.relu_conv2(self.relu_conv1(x))
            return out

    class Memory(nn.Module):
        def __init__(self, n: int, units: int, past: int) -> None:
            super().__init__()
            self.recursive_unit = nn.ModuleList(MemNet.Residual(n) for _ in range(units))
            self.gate_unit = MemNet.Unit(n * (units + past), n, 1)

    def __init__(self, n: int = 4) -> None:
        super().__init__()
        self.feature_extractor = self.Unit(1, n)
        self.dense_memory = nn.ModuleList(self.Memory(n, 3, b + 1) for b in range(2))
        self.reconstructor = self.Unit(n, 1)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.uniform_(-1, 0)  # type: ignore[union-attr]  # so that ReLUs are on
                layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        long = [self.feature_extractor(x)]
        for block in self.dense_memory:
            h, short = long[-1], []
            for unit in block.recursive_unit:  # type: ignore[union-attr]
                h = unit(h)
                short.append(h)
            long.append(block.gate_unit(torch.cat(short + long, 1)))  # type: ignore[operator]
        out: Tensor = x + self.reconstructor(long[-1])
        return out


def on_levels(net: nn.Module) -> Callable[..., Tensor]:
    """Call a network on images in [0, 255] with images in [0, 1]."""
    return lambda x, *scale: net(255 * x, *scale) / 255


@pytest.mark.parametrize(
    ("net", "call", "kind", "scale"),
    [
        *((net := EDSR(s), on_levels(net), "EDSR", s) for s in (2, 3, 4)),
        (net := EDSR(2, levels=1), net, "EDSR", 2),
        *((net := BasicSR(s), net, "EDSR", s) for s in (2, 3, 4)),
        *((net := MDSR((2, 3, 4)), on_levels(net), "MDSR", s) for s in (2, 3, 4)),
        (net := MDSR((4, 2)), on_levels(net), "MDSR", 4),
        *((net := MSRN(s), on_levels(net), "MSRN", s) for s in (3, 4)),
        *((net := RDN(s), on_levels(net), "RDN", s) for s in (2, 4)),
        (net := DBPN(), net, "DDBPN", 2),
        (net := SRCNN(), net, "SRCNN", 2),
        (net := VDSR(), net, "VDSR", 3),
        (net := MemNet(), net, "MemNet", 2),
    ],
    ids=lambda value: str(value) if isinstance(value, str | int) else "",
)
@torch.no_grad()
def test_a_published_network_gives_the_same_images(
    net: nn.Module, call: Callable[..., Tensor], kind: str, scale: int
) -> None:
    torch.manual_seed(1)
    for name, weight in net.named_parameters():
        if weight.ndim == 4 and "mean" not in name:
            nn.init.kaiming_normal_(weight)  # torch's own initial weights fade in deep networks
    found = recognise(net.state_dict())
    assert found.architecture == kind
    assert found.scales in ((), (scale,), (2, 3, 4), (2, 4))
    ours = build(found.architecture, found.arguments)
    ours.load_state_dict(found.tensors)
    ours.eval()
    x = torch.rand(1, 3 if ours.rgb else 1, 24, 27)
    expected = call(x, scale) if kind == "MDSR" else call(x)
    found_image = apply(ours, x, scale)
    if kind == "SRCNN":  # ours replicates the border, as the authors' test code does
        expected, found_image = expected[..., 8:-8, 8:-8], found_image[..., 8:-8, 8:-8]
    else:
        assert (expected - F.interpolate(x, expected.shape[-2:])).abs().max() > 1e-2
    assert torch.allclose(found_image, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("path", [("params_ema",), ("params",), ("state_dict",), ("model",), ()])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_nested_and_prefixed_weights_are_found(
    path: tuple[str, ...], prefix: str, tmp_path: Path
) -> None:
    content: object = {prefix + k: v for k, v in EDSR(3).state_dict().items()}
    for key in path:
        content = {key: content, "epoch": 7}
    torch.save(content, tmp_path / "a.pth")
    assert read_torch(tmp_path / "a.pth").arguments == {
        "scale": 3, "blocks": 2, "maps": 4, "size": 1.0,
    }  # fmt: skip


def test_the_average_comes_first(tmp_path: Path) -> None:
    one, other = EDSR(2).state_dict(), EDSR(3).state_dict()
    torch.save({"params": one, "params_ema": other}, tmp_path / "a.pth")
    assert read_torch(tmp_path / "a.pth").scales == (3,)


def test_the_authors_large_edsr_scales_its_residuals() -> None:
    found = recognise(EDSR(2, 256).state_dict())
    assert found.arguments["size"] == 0.1


class _Evil:
    """A pickle that runs code when it is opened."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_Evil(), "Python objects"),
        (nn.Linear(2, 2), "Python objects"),
        ({"params": {"foo.weight": torch.zeros(1)}}, "no known network; it begins with foo.weight"),
        ({"epoch": 3}, "entry 'epoch' is a int"),
        ([1, 2], "holds a list"),
        ({}, "holds a dict"),
        (EDSR(2).state_dict() | {"sub_mean.bias": -torch.ones(3)}, "subtracts the mean"),
        (EDSR(2).state_dict() | {"attention.weight": torch.ones(3)}, "no tensor attention.weight"),
    ],
)
def test_other_files_are_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message):
        read_torch(tmp_path / "a.pth")


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"not a file of torch")
    with pytest.raises(WeightsError, match=r"a\.pth"):
        read_torch(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="no weights file"):
        read_torch(tmp_path / "b.pth")
