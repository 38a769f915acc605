"""What a network is: in one line, and as a table with its atoms for notebooks."""

import math
from collections.abc import Mapping

from torch import Tensor, nn

from csc import html
from csc.checks import words


def line(net: nn.Module, sizes: Mapping[str, object]) -> str:
    """Return the class, the sizes and the number of weights of a network.

    Examples
    --------
    >>> line(nn.Linear(3, 2), {"inputs": 3})
    'Linear(inputs=3, weights=8)'
    """
    given = "".join(f"{name}={value}, " for name, value in sizes.items())
    return f"{type(net).__name__}({given}weights={_weights(net):,})"


def page(
    net: nn.Module, sizes: Mapping[str, object], atoms: Tensor | None, distance: float | None
) -> str:
    """Return the same as HTML, with a picture of the first atoms.

    Parameters
    ----------
    net : nn.Module
        The network.
    sizes : mapping
        Its sizes by name.
    atoms : Tensor, shape (M, C, kh, kw), optional
        What a unit code adds to the image, or None if that depends on the other codes.
    distance : float, optional
        Bound q of ‖z − z*‖ ≤ q ‖z*‖ in each block, or None if nothing is proven about the codes.
    """
    shown = [words(v, "and") if isinstance(v, tuple) else str(v) for v in sizes.values()]
    proven = "not certified"
    if distance is not None:  # rounded up, but 0.2³ is 0.8 %
        proven = f"≤ {math.ceil(round(1000 * distance, 6)) / 1000:.1%}"
    picture = "" if atoms is None else html.atoms(atoms)
    table = html.table(
        f"{type(net).__name__}: {_weights(net):,} weights",
        [*sizes, "‖z − z*‖ / ‖z*‖ of a block"],
        [[*shown, proven]],
    )
    return table + picture


def _weights(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())
