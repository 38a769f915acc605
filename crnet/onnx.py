"""Write a network as ONNX, for onnxruntime and other engines: ``pip install csc-crnet[onnx]``.

A file holds the network for one scale.  Its input `lr`, (n, channels, h, w), is an LR image in
[0, 1], with at least two pixels on each side; its output `hr` has shape (n, channels, scale·h,
scale·w) and is not clipped.  The sizes are free.  Networks on the enlarged image include the
bicubic enlargement.
"""

import logging
import warnings

import torch
from torch import Tensor, nn

from baselines.resample import resample
from crnet import networks
from crnet.networks import Network


def onnx_file(net: Network, scale: int) -> bytes:
    """Return the content of the ONNX file of a network for a scale, in float32.

    Parameters
    ----------
    net : Network
        The network, on the CPU, in evaluation mode.
    scale : int
        2, 3 or 4, and one of its `scales` if it has any.

    Raises
    ------
    ModuleNotFoundError
        If onnx or onnxscript is missing.
    ValueError
        If the network does not upscale by the scale.
    """
    at_scale = AtScale(net, scale).eval()
    x = torch.rand(2, 3 if net.rgb else 1, 12, 10)  # any sizes, no two of them equal
    free = torch.export.Dim.DYNAMIC
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells which other packages are not installed
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                at_scale,
                (x,),
                dynamo=True,
                verbose=False,
                input_names=["lr"],
                output_names=["hr"],
                dynamic_shapes=({0: free, 2: free, 3: free},),
            )
    finally:
        logger.setLevel(level)
    assert program is not None  # noqa: S101  it is None only with dynamo=False
    model = program.model_proto
    about = {"scale": scale, "channels": "RGB" if net.rgb else "Y", "values": "in [0, 1]"}
    for key, value in about.items():
        model.metadata_props.add(key=key, value=str(value))
    written: bytes = model.SerializeToString()
    return written


class AtScale(nn.Module):
    """A network as a map from LR to HR at one scale."""

    def __init__(self, net: Network, scale: int) -> None:
        super().__init__()
        if scale not in (2, 3, 4) or (net.scales and scale not in net.scales):
            raise ValueError(f"this {type(net).__name__} does not upscale by {scale}")
        self.net, self.scale = net, scale

    def forward(self, x: Tensor) -> Tensor:
        """Map LR images (B, C, h, w) to HR images (B, C, scale·h, scale·w)."""
        if self.net.enlarged:
            s = self.scale
            x = resample(x, (s * x.shape[-2], s * x.shape[-1]), (s, s))
        return networks.apply(self.net, x, self.scale)
