"""Checks of the sizes of a network, before it makes any layer."""


def check_sizes(least: int = 1, **sizes: int) -> None:
    """Require whole numbers ≥ `least`.

    Raises
    ------
    ValueError
        If one is smaller, or is a bool, a float or of another type.

    Examples
    --------
    >>> check_sizes(maps=64, blocks=2.0)
    Traceback (most recent call last):
    ValueError: blocks must be a whole number ≥ 1, got 2.0
    """
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number ≥ {least}, got {value!r}")


def is_rgb(channels: int) -> bool:
    """Return True for RGB, which has three channels, and False for Y, which has one.

    Raises
    ------
    ValueError
        If the number of channels is neither 1 nor 3.
    """
    check_sizes(channels=channels)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1, which is Y, or 3, which is RGB; got {channels}")
    return channels == 3
