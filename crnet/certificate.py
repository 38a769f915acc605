"""What is proven about the codes of an image: :func:`certify_codes`.

Only networks with certified codes (:mod:`crnet.sparse`) have a certificate.  Their codes minimise
a stated convex problem, up to a bound that is computed for every image and block.  The codes of
:class:`crnet.CRNetA` and :class:`crnet.CRNetB` minimise no stated problem, because S is free.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from crnet.networks import Network
from crnet.upscale import Upscaler
from csc.checks import check_finite
from csc.recursion.ridge import StackCertificate


class CodesCertificate(NamedTuple):
    """What is proven about the codes z_K of images; all are (blocks, B) float64.

    objective : E(z_K) of the block's problem, for the features that the block was given.
    gap : E(z_K) − E(z*) ≤ gap.
    distance : ‖z_K − z*‖ ≤ distance.
    relative : ‖z_K − z*‖/‖z*‖ ≤ relative.
    total : bound on the distance from the codes of the exact network, in which all blocks are
    solved to their minimisers.
    total_relative : the same, relative to the norm of those codes.
    nonzero : fraction of the codes that are not zero.
    """

    objective: Tensor
    gap: Tensor
    distance: Tensor
    relative: Tensor
    total: Tensor
    total_relative: Tensor
    nonzero: Tensor


@runtime_checkable
class Certified(Protocol):
    """A network whose codes have a certificate."""

    def certify(self, x: Tensor, *, recursions: int | None = None) -> StackCertificate:
        """Return the certificate of the codes of x, the network's own input."""


def certify_codes(
    net: Network | Upscaler, x: Tensor, *, recursions: int | None = None
) -> CodesCertificate:
    """Return what is proven about the codes of images, block by block, in float64.

    Parameters
    ----------
    net : SparseCRNetA, SparseCRNetB, or an Upscaler of one
        The network.
    x : Tensor, shape (B, C, H, W)
        The network's own input: bicubic-enlarged images for :class:`crnet.SparseCRNetA`, LR images
        for :class:`crnet.SparseCRNetB`.
    recursions : int, optional
        Tighten `total` by a second run in float64 with so many recursions, such as 20, see
        :class:`csc.RidgeStack`.  It takes about ten times as long.

    Returns
    -------
    CodesCertificate

    Raises
    ------
    TypeError
        If the network has no certificate.
    ValueError
        If the network does not take the images, or one has NaN or infinite entries.

    Examples
    --------
    >>> from crnet.sparse import SparseCRNetA
    >>> net = SparseCRNetA(n0=8, m0=16, blocks=2, rank=4)
    >>> found = certify_codes(net, torch.rand(1, 1, 12, 10))
    >>> found.relative.shape, bool((found.relative < 0.1).all())
    (torch.Size([2, 1]), True)
    """
    network = net.net if isinstance(net, Upscaler) else net
    if not isinstance(network, Certified):
        raise TypeError(
            f"the codes of {type(network).__name__} have no certificate, because they minimise no "
            "stated problem; SparseCRNetA and SparseCRNetB have one"
        )
    check_finite(x, "x")
    found = network.certify(x, recursions=recursions)
    return CodesCertificate(
        objective=torch.stack([block.objective for block in found.blocks]),
        gap=torch.stack([block.gap for block in found.blocks]),
        distance=torch.stack([block.distance for block in found.blocks]),
        relative=torch.stack([block.relative for block in found.blocks]),
        total=found.total,
        total_relative=found.total_relative,
        nonzero=found.nonzero,
    )
