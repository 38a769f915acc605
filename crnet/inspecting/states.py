"""What the codes do, recursion by recursion: :func:`states`."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from baselines.resample import bicubic
from crnet.certificate import Certified, CodesCertificate, certify_codes
from crnet.networks import Coded, Network
from crnet.sparse import SparseCRNetA, SparseCRNetB


class State(NamedTuple):
    """The codes z_k of a block.

    block, k : from 0; density : (h, w), the sum of the codes of all atoms; nonzero : fraction of
    non-zero codes; change : ‖z_k − z_{k−1}‖/‖z_k‖, None for k = 0; bound : on ‖z_k − z*‖/‖z*‖,
    None without certificate; image : (C, H, W), None where these codes draw no image.
    """

    block: int
    k: int
    density: Tensor
    nonzero: float
    change: float | None
    bound: float | None
    image: Tensor | None


def states(net: Network, x: Tensor, scale: int) -> tuple[list[State], CodesCertificate | None]:
    """Return all codes of an LR image (1, C, h, w), in the order of computing, and a certificate.

    Raises
    ------
    TypeError
        If the network has no codes.
    """
    own = bicubic(x, scale) if net.enlarged else x
    found = certify_codes(net, own) if isinstance(net, Certified) else None
    made: list[State] = []
    for block, group in groupby(_codes(net, own, scale), key=lambda state: state[0]):
        made += _of_block(block, [(z, image) for _, z, image in group], found)
    return made, found


def _codes(net: Network, x: Tensor, scale: int) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Yield (block, z_k, image) for all blocks and recursions."""
    if isinstance(net, SparseCRNetA | SparseCRNetB):
        last = len(net.coder.stack.blocks) - 1
        for block, z in net.coder.stack.codes(net.coder.features(x)):
            yield block, z, net.reconstruct(x, z, scale)[0] if block == last else None
    elif isinstance(net, Coded):
        for z, image in net.codes_and_images(x, scale):
            yield 0, z, image[0]
    else:
        raise TypeError(f"{type(net).__name__} has no codes")


def _of_block(
    block: int, codes: list[tuple[Tensor, Tensor | None]], found: CodesCertificate | None
) -> list[State]:
    """Describe the codes z_0, …, z_K of one block.

    ‖z_k − z*‖ ≤ ‖z_k − z_K‖ + ‖z_K − z*‖ bounds the distance of all from the certificate of z_K.
    """
    made: list[State] = []
    last = codes[-1][0].double()
    for k, (z, image) in enumerate(codes):
        change = _ratio(z - codes[k - 1][0], z) if k else None
        bound = None
        if found is not None:
            distance = float(found.distance[block, 0])
            least = float(last.norm()) - distance  # ‖z*‖ is at least this
            apart = float((z.double() - last).norm())
            bound = (apart + distance) / least if least > 0 else float("inf")
        nonzero = float((z != 0).double().mean())
        made.append(State(block, k, z[0].abs().sum(0), nonzero, change, bound, image))
    return made


def _ratio(a: Tensor, b: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(b))
    return float(torch.linalg.vector_norm(a)) / norm if norm else 0.0
