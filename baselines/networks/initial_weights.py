"""Initial weights of He et al., where the paper or the code of a network names them."""

from torch import nn


def he(net: nn.Module) -> None:
    """Draw all kernels from N(0, 2/fan_in), and set the biases to zero.

    The maps before the ReLUs keep their size through any number of layers.  Of torch's own kernels,
    which are smaller, twenty in a row pass on nothing but their biases.

    References
    ----------
    He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015.

    Examples
    --------
    >>> layer = nn.Conv2d(64, 64, 3)
    >>> he(layer)
    >>> 1.9 < 9 * 64 * layer.weight.var() < 2.1, layer.bias.any()
    (tensor(True), tensor(False))
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
