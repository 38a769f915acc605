"""The compiled kernels: coordinate descent, dense passes and proximal steps on one image.

numba compiles a kernel for each float type, atom size and number of channels, and caches it on
disk.  All arguments are arrays, numbers and the records of :mod:`csc.compiled.records`.

Only :mod:`csc.compiled.image` and its users import this module, because numba loads slowly.
"""

import numpy as np
from numpy.typing import NDArray

from csc.compiled.cache import kernel
from csc.compiled.intrinsics import correlate, dot, subtract
from csc.compiled.records import (
    ATOMS,
    VECTOR_BYTES,
    VECTORS,
    Active,
    Atoms,
    Block,
    Codes,
    Float,
    Floats,
    Ints,
    Marks,
    Mask,
    Scalars,
    Span,
    Weights,
)

# numba compiles again when this file changes.  It does not look at the files imported here.
# After a change of intrinsics.py or records.py, tests/csc/compiled/test_kernels.py says what to
# write here.
BUILT_FROM = "e2acad31247f"


@kernel()
def sweep(
    r: Floats,
    mask: Mask,
    atoms: Atoms,
    active: Active,
    nonneg: bool,
    factor: Float,
    ridge: Float,
    span: Span,
    epochs: int,
) -> None:
    """Minimise over each coordinate of a span of the list in turn, `epochs` times.

    The weight is factor · λ, and `ridge` is μ.  The residual r and the values of the list change in
    place.  Codes that are zero after the first epoch stay zero in the others.
    """
    index, at, lam, norm2, values = (
        active.atoms, active.at, active.lam, active.norm2, active.values,
    )  # fmt: skip
    low, high = span
    zero = r.dtype.type(0)
    for epoch in range(epochs):
        for i in range(low, high):
            old = values[i]
            if epoch > 0 and old == zero:
                continue
            m = np.int64(index[i])
            g = old * norm2[i] + dot(r, atoms, m, at[i])
            theta = factor * lam[i]
            new = zero
            if g > theta:
                new = (g - theta) / (norm2[i] + ridge)
            elif g < -theta and not nonneg:
                new = (g + theta) / (norm2[i] + ridge)
            change = new - old
            if change != zero:
                values[i] = new
                subtract(r, atoms, m, at[i], change, mask)


@kernel()
def subtract_all(
    r: Floats, mask: Mask, atoms: Atoms, active: Active, values: Floats, span: Span
) -> None:
    """Subtract D z from r in place, with `values` as the codes z of a span of the list."""
    index, at = active.atoms, active.at
    for i in range(span[0], span[1]):
        if values[i] != 0:
            subtract(r, atoms, np.int64(index[i]), at[i], values[i], mask)


@kernel()
def gather(r: Floats, atoms: Atoms, active: Active, out: Floats, span: Span) -> None:
    """Write ⟨d_m, window of r⟩ of a span of the list into `out`."""
    index, at = active.atoms, active.at
    for i in range(span[0], span[1]):
        out[i] = dot(r, atoms, np.int64(index[i]), at[i])


@kernel()
def relist(active: Active, found: Ints, drop_zeros: bool, in_list: Marks) -> tuple[Ints, Floats]:
    """Merge new coordinates (3, n) into a list; both are sorted by row.

    With `drop_zeros` the codes that are zero leave the list and lose their mark in `in_list`.
    Return the new list (3, n) and its codes.
    """
    index, rows, columns, values = active.atoms, active.rows, active.columns, active.values
    n, new = len(index), found.shape[1]
    total = n + new
    if drop_zeros:
        for i in range(n):
            if values[i] == 0:
                total -= 1
                in_list[index[i], rows[i], columns[i]] = False
    merged = np.empty((3, total), np.int32)
    kept = np.zeros(total, values.dtype)
    i = j = 0
    for t in range(total):
        while drop_zeros and i < n and values[i] == 0:
            i += 1
        if j == new or (i < n and rows[i] <= found[1, j]):
            merged[0, t], merged[1, t], merged[2, t] = index[i], rows[i], columns[i]
            kept[t] = values[i]
            i += 1
        else:
            merged[:, t] = found[:, j]
            j += 1
    return merged, kept


@kernel(fastmath={"reassoc", "contract"})
def inner(a: Floats, b: Floats, n: int) -> float:
    """Return the sum of a·b over the first n entries, in float64."""
    total = 0.0
    for i in range(n):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@kernel()
def dense_pass(
    r: Floats, atoms: Atoms, weights: Weights, factor: Float, in_list: Marks, span: Span
) -> tuple[Ints, Float]:
    """Correlate every atom at every position of a span of rows, without keeping Dᵀr.

    Return the coordinates (3, n) with |Dᵀr| > factor · λ outside the list, sorted by row, and the
    largest |Dᵀr|/λ where λ > 0.  Of neighbours only the worst is returned.  Each is marked in
    `in_list` (M, h, w).  With `weights.nonneg` all this holds for Dᵀr instead of |Dᵀr|.
    """
    M, _, w = in_list.shape
    width = VECTORS * VECTOR_BYTES // r.itemsize
    groups = (M + ATOMS - 1) // ATOMS
    block = _block(r, groups)
    ratio = np.zeros(M, r.dtype)
    varied = _varies(weights)
    _set_levels(block.level, weights, varied, factor)
    found = np.empty((3, 1024), np.int32)
    n = 0
    for p in range(span[0], span[1]):
        for q in range(0, w, width):
            at = np.int64(p) * atoms.layout.strides[0] + q
            end = np.int64(min(width, w - q))
            for group in range(groups):
                if correlate(r, atoms, np.int64(group), at, end, not weights.nonneg, block):
                    for v in range(VECTORS):
                        m, column = _worst(
                            block, group, v, p, q, weights, varied, factor, ratio, in_list
                        )
                        if m >= 0:
                            in_list[m, p, column] = True
                            if n == found.shape[1]:
                                found = _doubled(found)
                            found[0, n], found[1, n], found[2, n] = m, p, column
                            n += 1
    lanes = width // VECTORS
    for m in range(M):
        if not varied and weights.least[m] > 0:
            ratio[m] = block.largest[m * lanes : (m + 1) * lanes].max() / weights.least[m]
    return found[:, :n], ratio.max()


@kernel()
def _block(r: Floats, groups: int) -> Block:
    """Return a block for the positions of one call of `correlate`, with infinite levels."""
    width = VECTORS * VECTOR_BYTES // r.itemsize
    return Block(
        np.full(groups * ATOMS, np.inf, r.dtype),
        np.zeros(groups * ATOMS * (width // VECTORS), r.dtype),
        np.empty(ATOMS * width, r.dtype),
        np.empty(ATOMS * VECTORS, np.int64),
    )


@kernel()
def _varies(weights: Weights) -> bool:
    """Tell whether λ differs between the positions of an atom."""
    return weights.lam.strides[1] != 0 or weights.lam.strides[2] != 0


@kernel()
def _set_levels(level: Floats, weights: Weights, varied: bool, factor: Float) -> None:
    """Set the levels above which a correlation is examined.

    It may be a violation or, where λ varies, the largest ratio to λ so far.
    """
    for m in range(len(weights.least)):
        if varied:
            level[m] = 0
        elif weights.least[m] > 0:
            level[m] = factor * weights.least[m]
        elif factor < np.inf:
            level[m] = 0


@kernel(inline=True)
def _worst(
    block: Block,
    group: int,
    v: int,
    p: int,
    q: int,
    weights: Weights,
    varied: bool,
    factor: Float,
    ratio: Floats,
    in_list: Marks,
) -> tuple[int, int]:
    """Return atom and column of the worst new violation in vector v of a block, or (-1, -1).

    The other violations near it mostly vanish once it is minimised.  Where λ varies, also raise
    the largest ratio of each atom, and its level with it.
    """
    M = len(weights.least)
    lanes = VECTOR_BYTES // block.values.itemsize
    nonneg = weights.nonneg
    best = block.values.dtype.type(0)
    worst = column = -1
    for u in range(min(ATOMS, M - group * ATOMS)):
        m = group * ATOMS + u
        mark = block.marks[u * VECTORS + v]
        j = v * lanes - 1
        while mark:
            j += 1
            here = mark & 1
            mark >>= 1
            if here:
                g = block.values[u * VECTORS * lanes + j]
                size = g if nonneg else abs(g)
                lam = weights.lam[m, p, q + j]
                if varied and lam > 0 and size > ratio[m] * lam:
                    ratio[m] = size / lam
                    block.level[m] = min(factor, ratio[m]) * weights.least[m]
                if size > best and size > factor * lam and not in_list[m, p, q + j]:
                    best, worst, column = size, m, q + j
    return worst, column


@kernel()
def _doubled(found: Ints) -> Ints:
    """Return a copy with room for as many columns again."""
    n = found.shape[1]
    grown = np.empty((3, 2 * n), np.int32)
    grown[:, :n] = found
    return grown


@kernel(fastmath={"reassoc", "contract", "nsz", "nnan"})
def proximal_step(
    r: Floats,
    atoms: Atoms,
    weights: Weights,
    now: Codes,
    before: Codes,
    new: Codes,
    scalars: Scalars,
    image: Floats,
    span: Span,
) -> tuple[float, float]:
    """Write h(y + Dᵀr/L) into `new` and add its synthesis to `image`, for a span of rows.

    y = now + momentum · (now − before), and h has the threshold factor · λ/L.  Return ‖y − new‖²
    and ⟨y − new, new − now⟩ of these rows.
    """
    M, h, w = weights.lam.shape
    width = VECTORS * VECTOR_BYTES // r.itemsize
    groups = (M + ATOMS - 1) // ATOMS
    runs = (w + width - 1) // width
    zero = r.dtype.type(0)
    block = _block(r, groups)
    block.level[:M] = scalars.factor * weights.least
    theta = np.empty(width, r.dtype)
    scale = scalars.factor / scalars.L
    varied = weights.lam.strides[1] != 0 or weights.lam.strides[2] != 0
    squares = products = 0.0
    for group in range(groups):  # outermost, so that codes are read and written in long runs
        for p in range(span[0], span[1]):
            for q in range(0, w, width):
                at = np.int64(p) * atoms.layout.strides[0] + q
                end = min(width, w - q)
                marked = correlate(
                    r, atoms, np.int64(group), at, np.int64(end), not weights.nonneg, block
                )
                for u in range(min(ATOMS, M - group * ATOMS)):
                    m = group * ATOMS + u
                    run = (m * h + p) * runs + q // width
                    # Slices from zero: an index that might be negative is not vectorised.
                    place = (m * h + p) * w + q
                    out = new.z[place : place + end]
                    if not (marked >> u & 1 or now.in_use[run] or before.in_use[run]):
                        if new.in_use[run]:
                            out[:] = zero
                            new.in_use[run] = 0
                        continue
                    if varied:
                        for j in range(end):
                            theta[j] = scale * weights.lam[m, p, q + j]
                    else:
                        theta[:end] = scale * weights.least[m]
                    size, square, product = _shrink_run(
                        now.z[place : place + end],
                        before.z[place : place + end],
                        block.values[u * width : u * width + end],
                        theta,
                        scalars,
                        weights.nonneg,
                        out,
                    )
                    squares += float(square)
                    products += float(product)
                    new.in_use[run] = size > zero
                    if size > zero:
                        for j in range(end):
                            if out[j] != zero:
                                subtract(image, atoms, np.int64(m), at + j, -out[j], ())
    return squares, products


@kernel(fastmath={"reassoc", "contract", "nsz", "nnan"})
def _shrink_run(
    now: Floats,
    before: Floats,
    g: Floats,
    theta: Floats,
    scalars: Scalars,
    nonneg: bool,
    out: Floats,
) -> tuple[Float, Float, Float]:
    """Write h(y + g/L) of a run of codes into `out`; return ‖·‖₁ of it and the two sums."""
    zero = out.dtype.type(0)
    below = out.dtype.type(0 if nonneg else 1)  # whether there are codes below −θ
    inverse = out.dtype.type(1) / scalars.L
    size = square = product = zero
    for j in range(len(out)):
        y = now[j] + scalars.momentum * (now[j] - before[j])
        a = y + inverse * g[j]
        high, low = a - theta[j], a + theta[j]
        value = (high if high > zero else zero) + below * (low if low < zero else zero)
        out[j] = value
        size += abs(value)
        square += (y - value) * (y - value)
        product += (y - value) * (value - now[j])
    return size, square, product


@kernel()
def synthesise(image: Floats, atoms: Atoms, z: NDArray[np.float32] | NDArray[np.float64]) -> None:
    """Add the synthesis of codes (M, h, w) to an image."""
    M, h, w = z.shape
    for m in range(M):
        for p in range(h):
            for q in range(w):
                if z[m, p, q] != 0:
                    at = np.int64(p) * atoms.layout.strides[0] + q
                    subtract(image, atoms, np.int64(m), at, -z[m, p, q], ())
