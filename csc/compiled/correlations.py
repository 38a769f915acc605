"""The compiled inner loop of dictionary learning: correlations of sparse codes.

A list of n non-zero codes has about n²(2k−1)²/(2hw) pairs closer than an atom, which is far less
work than any transform of M dense maps.

Only :mod:`csc.learning.surrogate` imports this module, and only when it runs: numba takes a while
to load.
"""

# numba calls what is decorated with other arguments than are written, and is itself untyped.
# mypy: disable-error-code="no-untyped-call, no-any-return"

from typing import Any

from numba import njit


@njit(nogil=True, cache=True)
def correlate_codes(
    atoms: Any, rows: Any, columns: Any, values: Any, bounds: Any, k: Any, A: Any
) -> None:
    """Add Σ_p z_m(p) z_n(p + s) to A[m, n, k-1+s], each pair of codes once, |s| < k.

    The list is sorted by row, then by column; row p is bounds[p] ≤ i < bounds[p + 1].  A code and
    itself count half: A plus its mirror image, A[n, m, k-1-s], is the whole sum.
    """
    height = len(bounds) - 1
    for p in range(height):
        low, high = bounds[p], bounds[p + 1]
        for i in range(low, high):
            m = atoms[i]
            A[m, m, k - 1, k - 1] += 0.5 * values[i] * values[i]
            for j in range(i + 1, high):
                right = columns[j] - columns[i]
                if right >= k:
                    break
                A[m, atoms[j], k - 1, k - 1 + right] += values[i] * values[j]
        for down in range(1, min(k, height - p)):
            first, last = bounds[p + down], bounds[p + down + 1]
            for i in range(low, high):
                m, column = atoms[i], columns[i]
                while first < last and columns[first] <= column - k:
                    first += 1
                for j in range(first, last):
                    right = columns[j] - column
                    if right >= k:
                        break
                    A[m, atoms[j], k - 1 + down, k - 1 + right] += values[i] * values[j]
