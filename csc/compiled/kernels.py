"""The compiled inner loops: dot product and update of one coordinate, correlation with all atoms.

A coordinate (m, p, q) reads and writes the C windows of k×k pixels that its atom covers.  A row of
a window is one vector of k numbers, and all C·k rows are unrolled.  LLVM does that only when it is
told, so `_dot`, `_subtract` and `_correlate` emit the vector instructions themselves, with k and C
taken from the lengths of two tuples: numba compiles a kernel per float type, k and C, and caches it
on disk.  Against the same loops written plainly this is 4 to 10 times faster.

Only :mod:`csc.compiled.image` and what needs it import this module: numba takes a while to load.
"""

# numba calls what is decorated with other arguments than are written, and is itself untyped.
# mypy: disable-error-code="no-untyped-call, call-arg, no-any-return, var-annotated"

from collections.abc import Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# Reassociation only: it lets sums be taken in vector order, and keeps NaN and infinity honest.
_REASSOCIATE = ("reassoc", "contract")


def _vector(r: Any, rows: Any) -> Any:
    scalar = ir.FloatType() if r.dtype == types.float32 else ir.DoubleType()
    return ir.VectorType(scalar, rows.count)


def _rows(
    context: Any, builder: Any, signature: Any, args: Any, image: int = 0
) -> Iterator[tuple[Any, Any]]:
    """Yield pointers to the vectors of the window at `at` and of the atom, row by row.

    The window is one of argument number `image`.
    """
    r_type, D_type = signature.args[image], signature.args[1]
    rows, channels = signature.args[5:7]
    r = context.make_array(r_type)(context, builder, args[image]).data
    D = context.make_array(D_type)(context, builder, args[1]).data
    m, at, strides = args[2], args[3], args[4]
    row, plane = (builder.extract_value(strides, i) for i in (0, 1))
    pointer = _vector(r_type, rows).as_pointer()
    k = rows.count
    first = builder.mul(m, ir.Constant(m.type, channels.count * k * k))
    for c in range(channels.count):
        for i in range(k):
            down = builder.mul(row, ir.Constant(row.type, i))
            across = builder.mul(plane, ir.Constant(plane.type, c))
            pixel = builder.add(at, builder.add(down, across))
            entry = builder.add(first, ir.Constant(first.type, (c * k + i) * k))
            yield (
                builder.bitcast(builder.gep(r, [pixel]), pointer),
                builder.bitcast(builder.gep(D, [entry]), pointer),
            )


@intrinsic
def _dot(_: Any, r: Any, D: Any, m: Any, at: Any, strides: Any, rows: Any, channels: Any) -> Any:
    """Return ⟨d_m, window of r at⟩."""
    signature = r.dtype(r, D, m, at, strides, rows, channels)
    align = r.dtype.bitwidth // 8

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums: list[Any] = [None, None]  # two chains hide the latency of the addition
        for i, (window, atom) in enumerate(_rows(context, builder, signature, args)):
            product = builder.fmul(
                builder.load(window, align=align),
                builder.load(atom, align=align),
                flags=_REASSOCIATE,
            )
            before = sums[i % 2]
            if before is not None:
                product = builder.fadd(before, product, flags=_REASSOCIATE)
            sums[i % 2] = product
        total = sums[0]
        if sums[1] is not None:
            total = builder.fadd(total, sums[1], flags=_REASSOCIATE)
        scalar = total.type.element
        reduce = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(scalar, [scalar, total.type]),
            f"llvm.vector.reduce.fadd.v{total.type.count}f{r.dtype.bitwidth}",
        )
        return builder.call(reduce, [ir.Constant(scalar, 0.0), total], fastmath=_REASSOCIATE)

    return signature, emit


@intrinsic
def _subtract(
    _: Any,
    r: Any,
    D: Any,
    m: Any,
    at: Any,
    strides: Any,
    rows: Any,
    channels: Any,
    t: Any,
    mask: Any,
) -> Any:
    """Subtract t·d_m from the window of r at, in place, but for what the mask hides.

    The mask is () or as r, 1 at known pixels and 0 at missing ones.
    """
    signature = types.void(r, D, m, at, strides, rows, channels, t, mask)
    masked = isinstance(mask, types.Array)
    align = r.dtype.bitwidth // 8

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        factor = ir.Constant(_vector(r, rows), ir.Undefined)
        for i in range(rows.count):
            factor = builder.insert_element(factor, args[7], ir.Constant(ir.IntType(32), i))
        windows = list(_rows(context, builder, signature, args))
        known = list(_rows(context, builder, signature, args, 8)) if masked else windows
        for (window, atom), (hides, _) in zip(windows, known, strict=True):
            change = builder.fmul(factor, builder.load(atom, align=align), flags=_REASSOCIATE)
            if masked:
                change = builder.fmul(change, builder.load(hides, align=align))
            value = builder.load(window, align=align)
            builder.store(builder.fsub(value, change, flags=_REASSOCIATE), window, align=align)
        return context.get_dummy_value()

    return signature, emit


@njit(nogil=True, cache=True)
def sweep(
    r: Any,
    D: Any,
    strides: Any,
    rows: Any,
    channels: Any,
    mask: Any,
    nonneg: Any,
    stage: Any,
    atoms: Any,
    at: Any,
    lam: Any,
    norm2: Any,
    values: Any,
    low: Any,
    high: Any,
    epochs: Any,
) -> None:
    """Minimise over each of the coordinates low ≤ i < high in turn, `epochs` times over.

    r (C·H·W) and D (M·C·k·k) are flat; `at` is the flat position p·W + q of a coordinate's window
    in the first channel.  The weight is stage · lam; r and `values` change in place.  Codes
    that are zero after the first epoch stay so in the others.
    """
    zero = r.dtype.type(0)
    for epoch in range(epochs):
        for i in range(low, high):
            old = values[i]
            if epoch > 0 and old == zero:
                continue
            m = np.int64(atoms[i])
            g = old * norm2[i] + _dot(r, D, m, at[i], strides, rows, channels)
            level = stage * lam[i]
            new = zero
            if g > level:
                new = (g - level) / norm2[i]
            elif g < -level and not nonneg:
                new = (g + level) / norm2[i]
            change = new - old
            if change != zero:
                values[i] = new
                _subtract(r, D, m, at[i], strides, rows, channels, change, mask)


@njit(nogil=True, cache=True)
def subtract_all(
    r: Any,
    D: Any,
    strides: Any,
    rows: Any,
    channels: Any,
    mask: Any,
    atoms: Any,
    at: Any,
    values: Any,
    low: Any,
    high: Any,
) -> None:
    """Subtract the synthesis of the codes low ≤ i < high of a list from r, in place."""
    for i in range(low, high):
        if values[i] != 0:
            m = np.int64(atoms[i])
            _subtract(r, D, m, at[i], strides, rows, channels, values[i], mask)


@njit(nogil=True, cache=True)
def gather(
    r: Any,
    D: Any,
    strides: Any,
    rows: Any,
    channels: Any,
    atoms: Any,
    at: Any,
    out: Any,
    low: Any,
    high: Any,
) -> None:
    """Write ⟨d_m, window of r⟩ of the coordinates low ≤ i < high into `out`."""
    for i in range(low, high):
        out[i] = _dot(r, D, np.int64(atoms[i]), at[i], strides, rows, channels)


# A dense pass correlates ATOMS atoms with VECTORS vectors of a row at once, all sums in registers.
ATOMS = 8
VECTORS = 2
LANES = 64  # bytes of a vector


def width(dtype: Any) -> int:
    """Return how many positions of a row a dense pass takes at once."""
    return VECTORS * LANES // np.dtype(dtype).itemsize


@intrinsic
def _correlate(
    _: Any,
    r: Any,
    G: Any,
    group: Any,
    at: Any,
    strides: Any,
    rows: Any,
    channels: Any,
    absolute: Any,
    end: Any,
    level: Any,
    largest: Any,
    out: Any,
    marks: Any,
) -> Any:
    """Correlate a group of atoms with r at `at` and the positions right of it, into `out`.

    Positions from `end` on count as zero.  `largest` keeps the largest Dᵀr of each atom, lane by
    lane, or |Dᵀr| with `absolute`.  Bit u of what is returned tells whether atom u of the group is
    above its level anywhere, and bit j of marks[u · VECTORS + v] whether it is in lane j of vector
    v.  G is (groups, C, k, k, ATOMS), level (groups · ATOMS), largest (groups, ATOMS, lanes) and
    out (ATOMS, VECTORS, lanes), all flat.
    """
    signature = types.int64(
        r, G, group, at, strides, rows, channels, absolute, end, level, largest, out, marks
    )
    align, lanes = r.dtype.bitwidth // 8, LANES * 8 // r.dtype.bitwidth
    k, C = rows.count, channels.count

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = _vector(r, rows).element
        vector = ir.VectorType(scalar, lanes)
        r_data, G_data, level_data, largest_data, out_data = (
            context.make_array(t)(context, builder, a).data
            for t, a in (
                (r, args[0]),
                (G, args[1]),
                (level, args[9]),
                (largest, args[10]),
                (out, args[11]),
            )
        )
        marks_data = context.make_array(marks)(context, builder, args[12]).data
        integer = args[2].type
        row, plane = (builder.extract_value(args[4], i) for i in (0, 1))

        def number(n: int) -> Any:
            return ir.Constant(integer, n)

        def place(data: Any, index: Any) -> Any:
            return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())

        def spread(value: Any, kind: Any) -> Any:
            one = builder.insert_element(
                ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
            )
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), None)
            return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

        def function(name: str, *arguments: Any) -> Any:
            kinds = [a.type for a in arguments]
            f = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, kinds),
                f"llvm.{name}.v{lanes}f{r.dtype.bitwidth}",
            )
            return builder.call(f, arguments)

        sums = [
            [cgutils.alloca_once(builder, vector) for _ in range(VECTORS)] for _ in range(ATOMS)
        ]
        for pair in sums:
            for s in pair:
                builder.store(ir.Constant(vector, None), s)
        first = builder.mul(args[2], number(C * k * k * ATOMS))
        with (
            cgutils.for_range(builder, number(C)) as channel,
            cgutils.for_range(builder, number(k)) as line,
        ):
            c, i = channel.index, line.index
            pixel = builder.add(args[3], builder.add(builder.mul(c, plane), builder.mul(i, row)))
            tap = builder.add(builder.mul(c, number(k)), i)
            entry = builder.add(first, builder.mul(tap, number(k * ATOMS)))
            for j in range(k):
                windows = [
                    builder.load(
                        place(r_data, builder.add(pixel, number(j + v * lanes))), align=align
                    )
                    for v in range(VECTORS)
                ]
                for u in range(ATOMS):
                    where = builder.add(entry, number(j * ATOMS + u))
                    weight = spread(builder.load(builder.gep(G_data, [where])), vector)
                    for s, window in zip(sums[u], windows, strict=True):
                        product = builder.fmul(window, weight, flags=_REASSOCIATE)
                        builder.store(builder.fadd(builder.load(s), product, flags=_REASSOCIATE), s)
        counting = ir.VectorType(integer, lanes)
        above_level = number(0)
        limit = spread(args[8], counting)
        insides = [
            builder.icmp_signed(
                "<", ir.Constant(counting, [v * lanes + n for n in range(lanes)]), limit
            )
            for v in range(VECTORS)
        ]
        for u in range(ATOMS):
            atom_hits = number(0)
            for v, inside in enumerate(insides):
                signed = builder.select(inside, builder.load(sums[u][v]), ir.Constant(vector, None))
                value = builder.select(args[7], function("fabs", signed), signed)
                atom = builder.add(builder.mul(args[2], number(ATOMS)), number(u))
                peak = place(largest_data, builder.mul(atom, number(lanes)))
                above = builder.fcmp_ordered(">", value, builder.load(peak, align=align))
                builder.store(
                    builder.select(above, value, builder.load(peak, align=align)), peak, align=align
                )
                bound = spread(builder.load(builder.gep(level_data, [atom])), vector)
                hits = builder.bitcast(builder.fcmp_ordered(">", value, bound), ir.IntType(lanes))
                hits = builder.zext(hits, integer)
                builder.store(hits, builder.gep(marks_data, [number(u * VECTORS + v)]))
                atom_hits = builder.or_(atom_hits, hits)
                there = place(out_data, number((u * VECTORS + v) * lanes))
                builder.store(signed, there, align=align)
            hit = builder.icmp_unsigned("!=", atom_hits, number(0))
            above_level = builder.or_(above_level, builder.select(hit, number(1 << u), number(0)))
        return above_level

    return signature, emit


@njit(nogil=True, cache=True)
def dense_pass(
    r: Any,
    G: Any,
    strides: Any,
    rows: Any,
    channels: Any,
    width: Any,
    floor: Any,
    weights: Any,
    stage: Any,
    nonneg: Any,
    listed: Any,
    top: Any,
    bottom: Any,
) -> Any:
    """Correlate every atom at every position of rows top ≤ p < bottom, without keeping Dᵀr.

    List, and mark as listed, coordinates with |Dᵀr| > stage · weights that were not, (atoms, rows,
    columns), sorted by row; of neighbours only the worst.  Also return the largest |Dᵀr|/weights
    where weights > 0.  With nonneg it is Dᵀr in place of |Dᵀr|.

    weights is (M, h, w) and floor (M) its smallest of each atom.  r has `width` entries to spare at
    its end.
    """
    M, _, w = listed.shape
    zero = r.dtype.type(0)
    groups = (M + ATOMS - 1) // ATOMS
    block = np.empty(ATOMS * width, r.dtype)
    marks = np.empty(ATOMS * VECTORS, np.int64)
    lanes = width // VECTORS
    largest = np.zeros(groups * ATOMS * lanes, r.dtype)
    ratio = np.zeros(M, r.dtype)
    # What is worth a look: a violator or, where the weights of an atom differ, a larger ratio.
    level = np.full(groups * ATOMS, np.inf, r.dtype)
    varied = np.zeros(M, np.bool_)
    for m in range(M):
        varied[m] = weights.strides[1] != 0 or weights.strides[2] != 0
        if varied[m]:
            level[m] = zero
        elif floor[m] > 0:
            level[m] = stage * floor[m]
        elif stage < np.inf:
            level[m] = zero
    room = 1024
    found = np.empty((3, room), np.int32)
    n = 0
    for p in range(top, bottom):
        for q in range(0, w, width):
            at = np.int64(p) * strides[0] + q
            end = min(width, w - q)
            for group in range(groups):
                hits = _correlate(
                    r,
                    G,
                    np.int64(group),
                    at,
                    strides,
                    rows,
                    channels,
                    not nonneg,
                    np.int64(end),
                    level,
                    largest,
                    block,
                    marks,
                )
                if not hits:
                    continue
                # The worst of a vector of positions and a group of atoms: the others mostly vanish
                # once it is minimised.
                for v in range(VECTORS):
                    best = zero
                    worst = column = -1
                    for u in range(min(ATOMS, M - group * ATOMS)):
                        m = group * ATOMS + u
                        mark = marks[u * VECTORS + v]
                        j = v * lanes - 1
                        while mark:
                            j += 1
                            here = mark & 1
                            mark >>= 1
                            if here:
                                g = block[u * width + j] if nonneg else abs(block[u * width + j])
                                weight = weights[m, p, q + j]
                                if varied[m] and weight > 0 and g > ratio[m] * weight:
                                    ratio[m] = g / weight
                                    level[m] = min(stage, ratio[m]) * floor[m]
                                if g > best and g > stage * weight and not listed[m, p, q + j]:
                                    best, worst, column = g, m, q + j
                    if column >= 0:
                        listed[worst, p, column] = True
                        if n == room:
                            grown = np.empty((3, 2 * room), np.int32)
                            grown[:, :room] = found
                            found, room = grown, 2 * room
                        found[0, n], found[1, n], found[2, n] = worst, p, column
                        n += 1
    for m in range(M):
        if not varied[m] and floor[m] > 0:
            ratio[m] = largest[m * lanes : (m + 1) * lanes].max() / floor[m]
    return found[:, :n], ratio.max()


@njit(nogil=True, cache=True)
def relist(
    atoms: Any, rows: Any, columns: Any, values: Any, found: Any, dropped: Any, listed: Any
) -> Any:
    """Merge what is found into a list, both sorted by row; drop zero codes if asked to."""
    n, f = len(atoms), found.shape[1]
    total = n + f
    if dropped:
        for i in range(n):
            if values[i] == 0:
                total -= 1
                listed[atoms[i], rows[i], columns[i]] = False
    merged = np.empty((3, total), np.int32)
    kept = np.zeros(total, values.dtype)
    i = j = 0
    for t in range(total):
        while dropped and i < n and values[i] == 0:
            i += 1
        if j == f or (i < n and rows[i] <= found[1, j]):
            merged[0, t], merged[1, t], merged[2, t], kept[t] = (
                atoms[i],
                rows[i],
                columns[i],
                values[i],
            )
            i += 1
        else:
            merged[:, t] = found[:, j]
            j += 1
    return merged, kept


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def inner(a: Any, b: Any, n: Any) -> float:
    """Return the sum of a·b over the first n entries, in float64."""
    total = 0.0
    for i in range(n):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "nnan"})
def proximal_step(
    r: Any,
    G: Any,
    D: Any,
    strides: Any,
    rows: Any,
    channels: Any,
    width: Any,
    floor: Any,
    weights: Any,
    nonneg: Any,
    z: Any,
    z_in_use: Any,
    previous: Any,
    previous_in_use: Any,
    new: Any,
    new_in_use: Any,
    share: Any,
    L: Any,
    stage: Any,
    image: Any,
    top: Any,
    bottom: Any,
) -> Any:
    """Write h(y + Dᵀr/L) into `new` and add its synthesis to `image`, for rows top ≤ p < bottom.

    y = z + share (z − previous), and h has the threshold stage · weights / L.  Return ‖y − new‖²
    and ⟨y − new, new − z⟩ of these rows.  weights and floor are as of :func:`dense_pass`; z,
    previous and new are (M, h, w), flat.  A run of `width` codes that are all zero is neither read
    nor written: `*_in_use` (M, h, ⌈w/width⌉), flat, tells of each run whether it may hold others.
    """
    M, h, w = weights.shape
    below = r.dtype.type(0 if nonneg else 1)  # whether there are codes below −θ
    zero = r.dtype.type(0)
    groups = (M + ATOMS - 1) // ATOMS
    runs = (w + width - 1) // width
    lanes = width // VECTORS
    block = np.empty(ATOMS * width, r.dtype)
    marks = np.empty(ATOMS * VECTORS, np.int64)
    level = np.full(groups * ATOMS, np.inf, r.dtype)
    level[:M] = stage * floor
    unused = np.zeros(groups * ATOMS * lanes, r.dtype)
    theta = np.empty(width, r.dtype)
    scale, inverse = stage / L, r.dtype.type(1) / L
    varied = weights.strides[1] != 0 or weights.strides[2] != 0
    moved = uphill = 0.0
    for group in range(groups):  # outermost, so that codes are read and written in long runs
        for p in range(top, bottom):
            for q in range(0, w, width):
                at = np.int64(p) * strides[0] + q
                end = min(width, w - q)
                hits = _correlate(
                    r,
                    G,
                    np.int64(group),
                    at,
                    strides,
                    rows,
                    channels,
                    not nonneg,
                    np.int64(end),
                    level,
                    unused,
                    block,
                    marks,
                )
                for u in range(min(ATOMS, M - group * ATOMS)):
                    m = group * ATOMS + u
                    run = (m * h + p) * runs + q // width
                    # Slices from zero: an index that might be negative is not vectorised.
                    place = (m * h + p) * w + q
                    g, out = block[u * width : u * width + end], new[place : place + end]
                    if not (hits >> u & 1 or z_in_use[run] or previous_in_use[run]):
                        if new_in_use[run]:
                            out[:] = zero
                            new_in_use[run] = 0
                        continue
                    if varied:
                        for j in range(end):
                            theta[j] = scale * weights[m, p, q + j]
                    else:
                        theta[:end] = scale * floor[m]
                    now, before = z[place : place + end], previous[place : place + end]
                    some = square = product = zero
                    for j in range(end):
                        y = now[j] + share * (now[j] - before[j])
                        a = y + inverse * g[j]
                        high, low = a - theta[j], a + theta[j]
                        value = (high if high > zero else zero) + below * (
                            low if low < zero else zero
                        )
                        out[j] = value
                        some += abs(value)
                        square += (y - value) * (y - value)
                        product += (y - value) * (value - now[j])
                    moved += square
                    uphill += product
                    new_in_use[run] = some > zero
                    if some > zero:
                        for j in range(end):
                            value = out[j]
                            if value != zero:
                                _subtract(
                                    image,
                                    D,
                                    np.int64(m),
                                    at + j,
                                    strides,
                                    rows,
                                    channels,
                                    -value,
                                    (),
                                )
    return moved, uphill


@njit(nogil=True, cache=True)
def synthesise(
    image: Any, D: Any, strides: Any, rows: Any, channels: Any, z: Any, top: Any, bottom: Any
) -> None:
    """Add the synthesis of codes (M, h, w) in rows top ≤ p < bottom to an image."""
    M, _, w = z.shape
    for m in range(M):
        for p in range(top, bottom):
            for q in range(w):
                if z[m, p, q] != 0:
                    at = np.int64(p) * strides[0] + q
                    _subtract(image, D, np.int64(m), at, strides, rows, channels, -z[m, p, q], ())
