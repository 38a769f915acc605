"""What the networks accept as their sizes: one check, before any layer is made."""


def check_sizes(least: int = 1, **sizes: int) -> None:
    """Require whole numbers, none below `least`.

    Raises
    ------
    ValueError
        If one is none; bools are none, and neither are floats.

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
    """Tell whether a network is on RGB, of three channels, or on Y, of one.

    Raises
    ------
    ValueError
        If it is on neither.
    """
    check_sizes(channels=channels)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1, which is Y, or 3, which is RGB; got {channels}")
    return channels == 3
