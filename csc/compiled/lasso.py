"""The compiled inner loop of many small lasso problems, see :mod:`baselines.sparse.lasso`.

Only that module imports this one, and only when it runs, because numba loads slowly.
"""

import numpy as np

from csc.compiled.cache import kernel
from csc.compiled.records import Float, Floats, Span


@kernel(fastmath={"nnan", "nsz", "contract"})
def largest_first(
    a: Floats,
    R: Floats,
    lam: Float,
    tol: Float,
    max_iter: int,
    check_every: int,
    lanes: Floats,
    codes: Floats,
    span: Span,
) -> None:
    """In each row of a span, move the code that would move furthest, until none moves by > tol.

    `a` (N, M) holds b and changes in place; R (M, M) is G − I; `codes` (N, M) are zero.  M is a
    multiple of the length of `lanes`, which is memory to work in.  The loop compares with tol every
    `check_every` steps.
    """
    M, width = a.shape[1], len(lanes)
    zero = a.dtype.type(0)
    size = np.empty_like(a[0])
    for i in range(span[0], span[1]):
        c, z = a[i], codes[i]
        j, move = 0, zero
        for step in range(max_iter + 1):
            r = R[j]
            for m in range(M):  # follow the last move, and measure the next
                v = c[m] - move * r[m]
                c[m] = v
                above = v if v > -lam else -lam
                clipped = above if above < lam else lam
                size[m] = abs(v - clipped - z[m])
            lanes[:] = zero
            for start in range(0, M, width):  # the maximum of M numbers has no vector instructions
                part = size[start : start + width]
                for k in range(width):
                    lanes[k] = part[k] if part[k] > lanes[k] else lanes[k]
            j = int(np.argmax(lanes))
            largest = lanes[j]
            if step == max_iter or (step % check_every == 0 and largest <= tol):
                break
            while j < M - width and size[j] != largest:
                j += width
            move = c[j] - min(max(c[j], -lam), lam) - z[j]
            z[j] += move
