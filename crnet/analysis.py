"""What the recursions and the atoms of a CRNet do to an image.

A CRNet is linear in its codes but for one ReLU.  With its pattern g = [Wh ⊗ z > 0],

    R = H ⊗ ReLU(Wh ⊗ z) = Σ_m H ⊗ (g ⊙ (Wh[:, m] ⊗ z_m)),

so the image is exactly a sum of what each atom's codes add, given g, and a remainder: of CRNet-A
the bicubic image, of CRNet-B, whose upsampler and tail are linear, what its features become on the
path that skips the codes, and the mean.  (Biases, where there are any, belong to the remainder.)
g depends on all codes: without atom m, others would pass where it held the gate.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.resample import bicubic
from crnet.measuring.protocol import TABLE_2, TABLE_3, Protocol, pair, psnr_and_ssim
from crnet.model import CRNetA, CRNetB
from crnet.upscale import codes_and_images
from csc.attribution import check_atoms


class Attribution(NamedTuple):
    """An image as a sum: output = Σ_m parts[:, m] + remainder, where all atoms are asked for.

    parts : (B, A, C, H, W), what the codes of A atoms add; remainder : (B, C, H, W), what no code
    adds; open : share of the gates g that are open.
    """

    parts: Tensor
    remainder: Tensor
    open: float


class Recursion(NamedTuple):
    """The image of z_k and its measures.

    image : (1, C, H, W); psnr in dB and ssim, by the protocol; nonzero : share of non-zero codes;
    change : ‖z_k − z_{k−1}‖/‖z_k‖, None for k = 0.
    """

    image: Tensor
    psnr: float
    ssim: float
    nonzero: float
    change: float | None


@torch.inference_mode()
def attribution(
    net: CRNetA | CRNetB, x: Tensor, scale: int, *, atoms: Sequence[int] | None = None
) -> Attribution:
    """Return what each atom's codes z_K add to the upscaled image, and the remainder.

    Parameters
    ----------
    net : CRNetA or CRNetB
        The network.
    x : Tensor, shape (B, 1 or 3, h, w), in [0, 1]
        LR image: Y for CRNet-A, RGB for CRNet-B, as an :class:`crnet.Upscaler` takes it.
    scale : int
        Factor.
    atoms : sequence of int, optional
        A of the m0 atoms; all by default, which takes m0 times the memory of the image.

    Returns
    -------
    Attribution
        On the HR grid.  :func:`csc.attribution.shares` sums parts over a region.

    Raises
    ------
    ValueError
        If the image or the scale is not the network's, or `atoms` names one that is not there.

    Examples
    --------
    >>> net = CRNetA(n0=4, m0=6, recursions=2, generator=torch.Generator().manual_seed(0))
    >>> x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    >>> a = attribution(net, x, 2)
    >>> torch.allclose(a.parts.sum(1) + a.remainder, net(bicubic(x, 2)), atol=1e-5)
    True
    """
    m0 = net.cista.S.shape[0]
    kept = range(m0) if atoms is None else check_atoms(atoms, m0)
    body = net if isinstance(net, CRNetA) else net.body
    x = bicubic(x, scale).to(net.cista.S) if net.enlarged else x.to(net.cista.S)
    maps = x if isinstance(net, CRNetA) else net.prepare(x, scale)
    z = body.cista(body.features(maps))
    gate = body.Wh(z) > 0  # (B, n0, h, w)

    def linear(part: Tensor) -> Tensor:
        """Return what Wh's maps become in the image, without biases."""
        R = _conv(gate * part, body.H)
        return R if isinstance(net, CRNetA) else net.crop(_enlarge(net, R, scale), scale)

    parts = [
        linear(F.conv2d(z[:, m : m + 1], body.Wh.weight[:, m : m + 1], padding=1)) for m in kept
    ]
    rest = torch.zeros_like(maps) if not body.residual else maps
    if body.Wh.bias is not None:
        rest = rest + _conv(gate * body.Wh.bias[:, None, None], body.H)
    if body.H.bias is not None:
        rest = rest + body.H.bias[:, None, None]
    if isinstance(net, CRNetB):
        rest = net.crop(net.tail(net.upsamplers[str(scale)](rest)), scale)
        rest = rest + net.mean.view(3, 1, 1)
    return Attribution(torch.stack(parts, 1), rest, float(gate.double().mean()))


@torch.inference_mode()
def recursions(
    net: CRNetA | CRNetB, original: Tensor, scale: int, protocol: Protocol | None = None
) -> list[Recursion]:
    """Return image, PSNR, SSIM and sparsity of every code z_0, …, z_K, from one pass.

    The image goes through whole, not in tiles; :func:`crnet.measuring.evaluate.score_recursions`
    measures large ones.

    Parameters
    ----------
    net : CRNetA or CRNetB
        The network.
    original : Tensor, shape (1, 1 or 3, H, W), uint8
        The original, Y or RGB, as of :func:`crnet.data.read_y` or :func:`crnet.data.read_rgb`.
    scale : int
        Factor.
    protocol : Protocol, optional
        How to measure; by default as the paper does for such a network.

    Returns
    -------
    list of Recursion

    Raises
    ------
    ValueError
        If the original is not uint8 of the network's channels, or too small for the scale.

    Examples
    --------
    >>> net = CRNetA(n0=4, m0=6, recursions=2)
    >>> flat = torch.full((1, 1, 48, 48), 99, dtype=torch.uint8)
    >>> len(recursions(net, flat, 2))
    3
    """
    protocol = protocol or (TABLE_2 if net.enlarged else TABLE_3)
    original, lr = pair(original, scale, protocol)
    x = (bicubic(lr, scale) if net.enlarged else lr).to(net.cista.S)
    found: list[Recursion] = []
    previous: Tensor | None = None
    for z, image in codes_and_images(net, x, scale):
        change = None
        if previous is not None:
            norm = float(torch.linalg.vector_norm(z))
            change = float(torch.linalg.vector_norm(z - previous)) / norm if norm else 0.0
        nonzero = float((z != 0).double().mean())
        found.append(
            Recursion(image, *psnr_and_ssim(image, original, scale, protocol), nonzero, change)
        )
        previous = z
    return found


def fewest_recursions(psnr: Sequence[float], loss: float, *, of_best: bool = False) -> int:
    """Return the smallest k with psnr[k] ≥ psnr[K] − loss.

    Parameters
    ----------
    psnr : sequence of float
        PSNR of the images of z_0, …, z_K, in dB.
    loss : float
        PSNR that may be lost, in dB, ≥ 0.
    of_best : bool
        Against the best recursion instead of the last.

    Raises
    ------
    ValueError
        If there is no PSNR or the loss is negative.

    Examples
    --------
    >>> psnr = [30.0, 31.0, 31.75, 31.5]
    >>> fewest_recursions(psnr, 0.5), fewest_recursions(psnr, 0.5, of_best=True)
    (1, 2)
    """
    if not psnr:
        raise ValueError("no PSNR was given; pass one value per recursion")
    if not loss >= 0:
        raise ValueError(f"the loss must be ≥ 0 dB, got {loss}")
    least = (max(psnr) if of_best else psnr[-1]) - loss
    return next(k for k, value in enumerate(psnr) if value >= least)


def _enlarge(net: CRNetB, maps: Tensor, scale: int) -> Tensor:
    """Return what the upsampler and the tail make of maps, without their biases."""
    for layer in net.upsamplers[str(scale)].children():
        maps = _conv(maps, layer) if isinstance(layer, nn.Conv2d) else layer(maps)
    return _conv(maps, net.tail)


def _conv(x: Tensor, layer: nn.Conv2d) -> Tensor:
    return F.conv2d(x, layer.weight, padding=layer.padding)
