"""The compiled inner loops of coordinate descent: one coordinate's dot product and update.

A coordinate (m, p, q) reads and writes the C windows of k×k pixels that its atom covers.  A row of
a window is one vector of k numbers, and all C·k rows are unrolled.  LLVM does that only when it is
told, so `_dot` and `_subtract` emit the vector instructions themselves, with k and C taken from the
lengths of two tuples: numba compiles a kernel per float type, k and C, and caches it on disk.
Against the same loops written plainly this is 4 to 10 times faster.

Only :mod:`csc.cd` imports this module, and only when it runs: numba takes a while to load.
"""

# numba calls what is decorated with other arguments than are written, and is itself untyped.
# mypy: disable-error-code="no-untyped-call, call-arg, no-any-return"

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


def _rows(context: Any, builder: Any, signature: Any, args: Any) -> Iterator[tuple[Any, Any]]:
    """Yield pointers to the vectors of the window at `at` and of the atom, row by row."""
    r_type, D_type = signature.args[:2]
    rows, channels = signature.args[5:7]
    r = context.make_array(r_type)(context, builder, args[0]).data
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
    _: Any, r: Any, D: Any, m: Any, at: Any, strides: Any, rows: Any, channels: Any, t: Any
) -> Any:
    """Subtract t·d_m from the window of r at, in place."""
    signature = types.void(r, D, m, at, strides, rows, channels, t)
    align = r.dtype.bitwidth // 8

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        factor = ir.Constant(_vector(r, rows), ir.Undefined)
        for i in range(rows.count):
            factor = builder.insert_element(factor, args[7], ir.Constant(ir.IntType(32), i))
        for window, atom in _rows(context, builder, signature, args):
            change = builder.fmul(factor, builder.load(atom, align=align), flags=_REASSOCIATE)
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
    norm2: Any,
    lam: Any,
    nonneg: Any,
    atoms: Any,
    at: Any,
    values: Any,
    low: Any,
    high: Any,
    epochs: Any,
) -> None:
    """Minimise over each of the coordinates low ≤ i < high in turn, `epochs` times over.

    r (C·H·W) and D (M·C·k·k) are flat; `at` is the flat position p·W + q of a coordinate's window
    in the first channel; r and `values` change in place.
    """
    zero = r.dtype.type(0)
    for _ in range(epochs):
        for i in range(low, high):
            m = np.int64(atoms[i])
            old = values[i]
            g = old * norm2[m] + _dot(r, D, m, at[i], strides, rows, channels)
            new = zero
            if g > lam[m]:
                new = (g - lam[m]) / norm2[m]
            elif g < -lam[m] and not nonneg:
                new = (g + lam[m]) / norm2[m]
            change = new - old
            if change != zero:
                values[i] = new
                _subtract(r, D, m, at[i], strides, rows, channels, change)


@njit(nogil=True, cache=True)
def subtract_all(
    r: Any,
    D: Any,
    strides: Any,
    rows: Any,
    channels: Any,
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
            _subtract(r, D, m, at[i], strides, rows, channels, values[i])


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


# A dense pass correlates ATOMS atoms at once with LANES bytes of a row, held in registers.
ATOMS = 8
LANES = 64


def lanes(dtype: Any) -> int:
    """Return how many positions of a row a dense pass takes at once."""
    return LANES // np.dtype(dtype).itemsize


@intrinsic
def _correlate(
    _: Any, r: Any, G: Any, group: Any, at: Any, strides: Any, rows: Any, channels: Any, out: Any
) -> Any:
    """Correlate a group of atoms with r at `at` and the positions right of it, into `out`.

    G is (groups, C, k, k, ATOMS), flat; out is (ATOMS · lanes,).
    """
    signature = types.void(r, G, group, at, strides, rows, channels, out)
    align, width = r.dtype.bitwidth // 8, LANES * 8 // r.dtype.bitwidth
    k, C = rows.count, channels.count

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = _vector(r, rows).element
        vector = ir.VectorType(scalar, width)
        data = [
            context.make_array(t)(context, builder, a).data
            for t, a in ((r, args[0]), (G, args[1]), (out, args[7]))
        ]
        integer = args[2].type
        row, plane = (builder.extract_value(args[4], i) for i in (0, 1))
        sums = [cgutils.alloca_once(builder, vector) for _ in range(ATOMS)]
        for s in sums:
            builder.store(ir.Constant(vector, None), s)
        first = builder.mul(args[2], ir.Constant(integer, C * k * k * ATOMS))
        with (
            cgutils.for_range(builder, ir.Constant(integer, C)) as channel,
            cgutils.for_range(builder, ir.Constant(integer, k)) as line,
        ):
            c, i = channel.index, line.index
            pixel = builder.add(args[3], builder.add(builder.mul(c, plane), builder.mul(i, row)))
            tap = builder.add(builder.mul(c, ir.Constant(integer, k)), i)
            entry = builder.add(first, builder.mul(tap, ir.Constant(integer, k * ATOMS)))
            for j in range(k):
                here = builder.gep(data[0], [builder.add(pixel, ir.Constant(integer, j))])
                window = builder.load(builder.bitcast(here, vector.as_pointer()), align=align)
                for u in range(ATOMS):
                    where = builder.add(entry, ir.Constant(integer, j * ATOMS + u))
                    weight = builder.load(builder.gep(data[1], [where]))
                    spread = builder.insert_element(
                        ir.Constant(vector, ir.Undefined), weight, ir.Constant(ir.IntType(32), 0)
                    )
                    zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), None)
                    spread = builder.shuffle_vector(
                        spread, ir.Constant(vector, ir.Undefined), zeros
                    )
                    product = builder.fmul(window, spread, flags=_REASSOCIATE)
                    total = builder.fadd(builder.load(sums[u]), product, flags=_REASSOCIATE)
                    builder.store(total, sums[u])
        for u, s in enumerate(sums):
            there = builder.gep(data[2], [ir.Constant(integer, u * width)])
            builder.store(builder.load(s), builder.bitcast(there, vector.as_pointer()), align=align)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def _largest(_: Any, block: Any, u: Any, absolute: Any) -> Any:
    """Return the largest of the lanes of atom u, or of their absolute values."""
    signature = block.dtype(block, u, absolute)
    align, width = block.dtype.bitwidth // 8, LANES * 8 // block.dtype.bitwidth

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar = ir.FloatType() if block.dtype == types.float32 else ir.DoubleType()
        vector = ir.VectorType(scalar, width)
        name = f"v{width}f{block.dtype.bitwidth}"
        fabs = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector]), f"llvm.fabs.{name}"
        )
        reduce = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(scalar, [vector]), f"llvm.vector.reduce.fmax.{name}"
        )
        data = context.make_array(block)(context, builder, args[0]).data
        here = builder.gep(data, [builder.mul(args[1], ir.Constant(args[1].type, width))])
        values = builder.load(builder.bitcast(here, vector.as_pointer()), align=align)
        values = builder.select(args[2], builder.call(fabs, [values]), values)
        return builder.call(reduce, [values], fastmath=("nnan",))

    return signature, emit


@njit(nogil=True, cache=True)
def dense_pass(
    r: Any,
    G: Any,
    strides: Any,
    rows: Any,
    channels: Any,
    width: Any,
    level: Any,
    nonneg: Any,
    listed: Any,
    top: Any,
    bottom: Any,
) -> Any:
    """Correlate every atom at every position of rows top ≤ p < bottom, without keeping Dᵀr.

    List, and mark as listed, coordinates with |Dᵀr| > level that were not: (atoms, rows, columns),
    sorted by row, and of each atom the worst among the positions taken at once.  Also return the
    largest |Dᵀr| (Dᵀr where nonneg) of each atom.  r has `lanes` entries to spare at its end.
    """
    M, _, w = listed.shape
    zero = r.dtype.type(0)
    block = np.empty(ATOMS * width, r.dtype)
    largest = np.zeros(M, r.dtype)
    room = 1024
    found = np.empty((3, room), np.int32)
    n = 0
    for p in range(top, bottom):
        for q in range(0, w, width):
            at = np.int64(p) * strides[0] + q
            end = min(width, w - q)
            for group in range((M + ATOMS - 1) // ATOMS):
                _correlate(r, G, group, at, strides, rows, channels, block)
                for u in range(min(ATOMS, M - group * ATOMS)):
                    m = group * ATOMS + u
                    if end < width:  # beyond the last column stands the next row
                        block[u * width + end : (u + 1) * width] = zero
                    peak = _largest(block, u, not nonneg)
                    largest[m] = max(largest[m], peak)
                    if peak > level[m]:
                        # One a block: its neighbours mostly vanish once it has been minimised.
                        best = level[m]
                        column = -1
                        for j in range(end):
                            g = block[u * width + j] if nonneg else abs(block[u * width + j])
                            if g > best and not listed[m, p, q + j]:
                                best, column = g, q + j
                        if column >= 0:
                            listed[m, p, column] = True
                            if n == room:
                                grown = np.empty((3, 2 * room), np.int32)
                                grown[:, :room] = found
                                found, room = grown, 2 * room
                            found[0, n], found[1, n], found[2, n] = m, p, column
                            n += 1
    return found[:, :n], largest
