"""The compiled inner loop of dictionary learning: correlations of sparse codes.

Of n non-zero codes, about n²(2k−1)²/(2hw) pairs are closer than an atom.  Visiting these pairs is
far less work than transforming M dense maps.

Only :mod:`csc.learning.surrogate` imports this module, and only when it runs, because numba loads
slowly.
"""

import numpy as np
from numpy.typing import NDArray

from csc.compiled.cache import kernel
from csc.compiled.records import Places


@kernel()
def correlate_codes(
    atoms: Places,
    rows: Places,
    columns: Places,
    values: NDArray[np.float64],
    bounds: Places,
    k: int,
    A: NDArray[np.float64],
) -> None:
    """Add Σ_p z_m(p) z_n(p + s) to A[m, n, k−1+s] for |s| < k, taking each pair of codes once.

    The codes are sorted by row, then by column; those of row p have bounds[p] ≤ i < bounds[p + 1].
    The pair of a code with itself counts half, so the whole sum is A[m, n, k−1+s] plus its mirror
    image A[n, m, k−1−s].
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
