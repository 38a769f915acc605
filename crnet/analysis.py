"""What the recursions and the atoms of a CRNet do to an image.

From codes to image, a CRNet is linear except for one ReLU.  With its gates g = [Wh ⊗ z > 0],

    R = H ⊗ ReLU(Wh ⊗ z) = Σ_m H ⊗ (g ⊙ (Wh[:, m] ⊗ z_m)).

Given g, the image is exactly the sum of one part per atom and a remainder.  In CRNet-A the
remainder is the bicubic image.  In CRNet-B, whose upsampler and tail are linear, it is the image of
the features that skip the codes.  The mean and all biases belong to the remainder.

g depends on all codes.  Removing an atom also opens and closes gates for the others.

The networks with certified codes (:mod:`crnet.sparse`) have no such gates.  Their image is linear
in the codes of the last block, and the remainder is the bicubic image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.resample import bicubic
from crnet.measuring.protocol import TABLE_2, TABLE_3, Protocol, pair, psnr_and_ssim
from crnet.model import CRNetA, CRNetB
from crnet.sparse import SparseCRNetA, SparseCRNetB
from csc.attribution import check_atoms


class Attribution(NamedTuple):
    """An image as a sum: with all atoms, output = Σ_m parts[:, m] + remainder.

    parts : (B, A, C, H, W), the part of each of A atoms; remainder : (B, C, H, W); open : fraction
    of the gates g that are 1; a network without gates has 1.
    """

    parts: Tensor
    remainder: Tensor
    open: float


class Recursion(NamedTuple):
    """The image of z_k and its measures.

    image : (1, C, H, W); psnr in dB and ssim, by the protocol; nonzero : fraction of non-zero
    codes; change : ‖z_k − z_{k−1}‖/‖z_k‖, None for k = 0.
    """

    image: Tensor
    psnr: float
    ssim: float
    nonzero: float
    change: float | None


@torch.inference_mode()
def attribution(
    net: CRNetA | CRNetB | SparseCRNetA | SparseCRNetB,
    x: Tensor,
    scale: int,
    *,
    atoms: Sequence[int] | None = None,
) -> Attribution:
    """Split the upscaled image into a remainder and one part per atom of the codes z_K.

    Parameters
    ----------
    net : CRNetA, CRNetB, SparseCRNetA or SparseCRNetB
        The network.
    x : Tensor, shape (B, 1 or 3, h, w), in [0, 1]
        LR image: Y for the networks A, RGB for the networks B, as for :class:`crnet.Upscaler`.
    scale : int
        Factor.
    atoms : sequence of int, optional
        Indices of A atoms (default: all m0, which take m0 times the memory of the image).

    Returns
    -------
    Attribution
        On the HR grid.  :func:`csc.attribution.shares` sums parts over a region.

    Raises
    ------
    ValueError
        If the network does not take the image or the scale, or an atom does not exist.

    Examples
    --------
    >>> net = CRNetA(n0=4, m0=6, recursions=2, generator=torch.Generator().manual_seed(0))
    >>> x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    >>> a = attribution(net, x, 2)
    >>> torch.allclose(a.parts.sum(1) + a.remainder, net(bicubic(x, 2)), atol=1e-5)
    True
    """
    if isinstance(net, SparseCRNetA | SparseCRNetB):
        return _drawn(net, x, scale, atoms)
    m0 = net.cista.S.shape[0]
    kept = range(m0) if atoms is None else check_atoms(atoms, m0)
    x = x.to(net.cista.S)
    if isinstance(net, CRNetA):
        return _split(net, bicubic(x, scale), kept)
    parts, rest, opened = _split(net.body, net.prepare(x, scale), kept)
    parts = torch.stack([net.crop(_enlarge(net, R, scale), scale) for R in parts.unbind(1)], 1)
    image = net.crop(net.tail(net.upsamplers[str(scale)](rest)), scale)
    return Attribution(parts, image + net.mean.view(3, 1, 1), opened)


def _drawn(
    net: SparseCRNetA | SparseCRNetB, x: Tensor, scale: int, atoms: Sequence[int] | None
) -> Attribution:
    """Split the output of a network that draws its image from atoms."""
    x = x.to(next(net.parameters()))
    if isinstance(net, SparseCRNetA):
        z, D, stride = net.codes(bicubic(x, scale)), net.atoms(), 1
    else:
        z, D, stride = net.codes(x), net.atoms(scale), scale
    if atoms is not None:
        kept = check_atoms(atoms, len(D))
        z, D = z[:, kept], D[kept]
    parts = F.conv_transpose2d(z, D, stride=stride, groups=len(D))
    edge = (D.shape[-1] - stride) // 2  # of an atom, before the pixels of its code
    parts = parts[..., edge : parts.shape[-2] - edge, edge : parts.shape[-1] - edge]
    parts = parts.reshape(len(z), *D.shape[:2], *parts.shape[-2:])
    return Attribution(parts, bicubic(x, scale), 1.0)


def _split(net: CRNetA, x: Tensor, atoms: Sequence[int]) -> Attribution:
    """Split the output of a CRNet-A on its own input."""
    z = net.cista(net.features(x))
    gate = net.Wh(z) > 0  # (B, n0, H, W)
    one_by_one = (F.conv2d(z[:, m : m + 1], net.Wh.weight[:, m : m + 1], padding=1) for m in atoms)
    parts = torch.stack([_conv(gate * part, net.H) for part in one_by_one], 1)
    rest = x if net.residual else torch.zeros_like(x)
    if net.Wh.bias is not None:
        rest = rest + _conv(gate * net.Wh.bias[:, None, None], net.H)
    if net.H.bias is not None:
        rest = rest + net.H.bias[:, None, None]
    return Attribution(parts, rest, float(gate.double().mean()))


@torch.inference_mode()
def recursions(
    net: CRNetA | CRNetB | SparseCRNetA | SparseCRNetB,
    original: Tensor,
    scale: int,
    protocol: Protocol | None = None,
) -> list[Recursion]:
    """Return image, PSNR, SSIM and sparsity of every code z_0, …, z_K, from one pass.

    With certified codes, these are the codes of the last block.

    The image is not cut into tiles.  For large images use
    :func:`crnet.measuring.evaluate.score_recursions`.

    Parameters
    ----------
    net : CRNetA, CRNetB, SparseCRNetA or SparseCRNetB
        The network.
    original : Tensor, shape (1, 1 or 3, H, W), uint8
        The original, from :func:`crnet.data.read_y` or :func:`crnet.data.read_rgb`.
    scale : int
        Factor.
    protocol : Protocol, optional
        How to measure (default: as the paper measures such a network).

    Returns
    -------
    list of Recursion

    Raises
    ------
    ValueError
        If the original is not uint8, has other channels than the network, or is too small.

    Examples
    --------
    >>> net = CRNetA(n0=4, m0=6, recursions=2)
    >>> flat = torch.full((1, 1, 48, 48), 99, dtype=torch.uint8)
    >>> len(recursions(net, flat, 2))
    3
    """
    protocol = protocol or (TABLE_2 if net.enlarged else TABLE_3)
    original, lr = pair(original, scale, protocol)
    x = (bicubic(lr, scale) if net.enlarged else lr).to(next(net.parameters()))
    found: list[Recursion] = []
    previous: Tensor | None = None
    for z, image in net.codes_and_images(x, scale):
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
        Compare with the best recursion instead of the last.

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
    """Apply the upsampler and the tail to maps, without their biases."""
    for layer in net.upsamplers[str(scale)].children():
        maps = _conv(maps, layer) if isinstance(layer, nn.Conv2d) else layer(maps)
    return _conv(maps, net.tail)


def _conv(x: Tensor, layer: nn.Conv2d) -> Tensor:
    return F.conv2d(x, layer.weight, padding=layer.padding)
