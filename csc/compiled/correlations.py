"""The compiled inner loop of dictionary learning: correlations of sparse codes.

Of n non-zero codes, about n²(2kh−1)(2kw−1)/(2hw) pairs are closer than an atom.  Visiting these
pairs is far less work than transforming M dense maps.

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
    kh: int,
    kw: int,
    A: NDArray[np.float64],
) -> None:
    """Add Σ_p z_m(p) z_n(p + s) to A[m, n, K+s], K = (kh−1, kw−1), |s| ≤ K; each pair counts once.

    The codes are sorted by row, then by column; those of row p have bounds[p] ≤ i < bounds[p + 1].
    The pair of a code with itself counts half, so the whole sum is A[m, n, K+s] plus its mirror
    image A[n, m, K−s].
    """
    height = len(bounds) - 1
    for p in range(height):
        low, high = bounds[p], bounds[p + 1]
        for i in range(low, high):
            m = atoms[i]
            A[m, m, kh - 1, kw - 1] += 0.5 * values[i] * values[i]
            for j in range(i + 1, high):
                right = columns[j] - columns[i]
                if right >= kw:
                    break
                A[m, atoms[j], kh - 1, kw - 1 + right] += values[i] * values[j]
        for down in range(1, min(kh, height - p)):
            first, last = bounds[p + down], bounds[p + down + 1]
            for i in range(low, high):
                m, column = atoms[i], columns[i]
                while first < last and columns[first] <= column - kw:
                    first += 1
                for j in range(first, last):
                    right = columns[j] - column
                    if right >= kw:
                        break
                    A[m, atoms[j], kh - 1 + down, kw - 1 + right] += values[i] * values[j]
