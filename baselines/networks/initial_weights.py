"""Initial weights of He et al., for networks whose paper or code names them."""

from torch import nn


def he(net: nn.Module) -> None:
    """Draw all kernels from N(0, 2/fan_in), and set the biases to zero.

    Maps then keep their size through any number of layers.  The default kernels of torch are
    smaller: after twenty layers only the biases are left.

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
