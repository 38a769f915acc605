"""Three inner loops as LLVM vector instructions: a window times an atom, and a block of atoms.

A coordinate (m, p, q) reads and writes the C windows of kh×kw pixels that its atom covers.  A row
of a window is one vector of kw numbers, and the C·kh rows are unrolled.  LLVM does not find these
instructions by itself, so we emit them.  They are 4 to 10 times faster than the plain loops.

Each docstring ends with the plain loop, where the arrays are not flat: r is (C, H, W), D is
(M, C, kh, kw) and a position is a row p and a column q.  `tests/csc/compiled/test_intrinsics.py`
runs these loops.  In the code the position is the number `at` = p · W + q.
"""

# numba is partly typed: its types of arrays and records do not tell their attributes.
# mypy: disable-error-code="attr-defined, no-untyped-call, no-any-return"

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext
from numba.core.typing import Signature
from numba.extending import intrinsic

from csc.compiled.records import (
    ATOMS,
    VECTOR_BYTES,
    VECTORS,
    Atoms,
    Block,
    Float,
    Floats,
    Mask,
)

# Reassociation lets sums be taken in vector order; NaN and infinity still spread.
REASSOCIATE = ("reassoc", "contract")

Emit: TypeAlias = Callable[[BaseContext, ir.IRBuilder, Signature, list[ir.Value]], ir.Value]
Typed: TypeAlias = tuple[Signature, Emit]


def _dot(
    _: object, r: types.Array, atoms: types.NamedTuple, m: types.Integer, at: types.Integer
) -> Typed:
    """Return ⟨d_m, window of r⟩.

    ::

        total = (r[:, p : p + kh, q : q + kw] * D[m]).sum()
    """
    signature = r.dtype(r, atoms, m, at)
    align = r.dtype.bitwidth // 8

    def emit(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, args: list[ir.Value]
    ) -> ir.Value:
        sums: list[ir.Value] = []
        memory = _memory(context, builder, signature, args)
        pixels = _window(builder, memory, _data(context, builder, r, args[0]), args[3])
        for row, atom in zip(pixels, _atom(builder, memory, args[2]), strict=True):
            product = builder.fmul(
                builder.load(row, align=align), builder.load(atom, align=align), flags=REASSOCIATE
            )
            if len(sums) == 2:  # two sums in turn hide the latency of the addition
                product = builder.fadd(sums.pop(0), product, flags=REASSOCIATE)
            sums.append(product)
        total = sums[0] if len(sums) == 1 else builder.fadd(*sums, flags=REASSOCIATE)
        scalar = total.type.element
        reduce = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(scalar, [scalar, total.type]),
            f"llvm.vector.reduce.fadd.v{total.type.count}f{r.dtype.bitwidth}",
        )
        return builder.call(reduce, [ir.Constant(scalar, 0.0), total], fastmath=REASSOCIATE)

    return signature, emit


dot = cast("Callable[[Floats, Atoms, np.int64, np.int64], Float]", intrinsic(_dot))


def _subtract(
    _: object,
    r: types.Array,
    atoms: types.NamedTuple,
    m: types.Integer,
    at: types.Integer,
    t: types.Float,
    mask: types.Array | types.Tuple,
) -> Typed:
    """Subtract t·d_m from the window of r at known pixels, in place.

    The mask is as r, or () where all pixels are known.

    ::

        known = mask[:, p : p + kh, q : q + kw] if len(mask) else 1
        r[:, p : p + kh, q : q + kw] -= t * D[m] * known
    """
    signature = types.void(r, atoms, m, at, t, mask)
    masked = isinstance(mask, types.Array)
    align = r.dtype.bitwidth // 8

    def emit(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, args: list[ir.Value]
    ) -> ir.Value:
        memory = _memory(context, builder, signature, args)
        factor = _spread(builder, args[4], memory.kw)
        pixels = list(_window(builder, memory, _data(context, builder, r, args[0]), args[3]))
        known = pixels
        if masked:
            known = list(_window(builder, memory, _data(context, builder, mask, args[5]), args[3]))
        atom = _atom(builder, memory, args[2])
        for row, atom_row, known_row in zip(pixels, atom, known, strict=True):
            change = builder.fmul(factor, builder.load(atom_row, align=align), flags=REASSOCIATE)
            if masked:
                change = builder.fmul(change, builder.load(known_row, align=align))
            value = builder.load(row, align=align)
            builder.store(builder.fsub(value, change, flags=REASSOCIATE), row, align=align)
        return context.get_dummy_value()

    return signature, emit


subtract = cast(
    "Callable[[Floats, Atoms, np.int64, np.int64, Float, Mask], None]", intrinsic(_subtract)
)


def _correlate(
    _: object,
    r: types.Array,
    atoms: types.NamedTuple,
    group: types.Integer,
    at: types.Integer,
    end: types.Integer,
    absolute: types.Boolean,
    block: types.NamedTuple,
) -> Typed:
    """Correlate a group of atoms with r at a position and those right of it, into a block.

    Positions from `end` on count as zero.  Return bits: bit u tells whether the block has a mark
    of atom u.  The plain loop is for ATOMS atoms a group and `width` positions a block, and its
    arrays `largest`, `values` and `marks` have one entry for each position.

    ::

        for u in range(ATOMS):
            for j in range(end):
                g = (r[:, p : p + kh, q + j : q + j + kw] * groups[group, ..., u]).sum()
                values[u, j] = g
                size = abs(g) if absolute else g
                marks[u, j] = size > level[group, u]
                largest[group, u] = max(largest[group, u], size)
    """
    signature = types.int64(r, atoms, group, at, end, absolute, block)
    align, lanes = r.dtype.bitwidth // 8, VECTOR_BYTES * 8 // r.dtype.bitwidth

    def emit(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, args: list[ir.Value]
    ) -> ir.Value:
        memory = _memory(context, builder, signature, args)
        pixels = _data(context, builder, r, args[0])
        sums = _block_of_sums(builder, memory, pixels, args[2], args[3], lanes)
        level, largest, values, marks = (
            _data(context, builder, *_field(builder, block, args[6], name))
            for name in ("level", "largest", "values", "marks")
        )
        zero = ir.Constant(ir.VectorType(memory.scalar, lanes), None)
        counting = ir.VectorType(_INTEGER, lanes)
        limit = _spread(builder, args[4], lanes)
        found = _number(0)
        for u in range(ATOMS):
            atom = builder.add(builder.mul(args[2], _number(ATOMS)), _number(u))
            peak = _vector_at(builder, largest, builder.mul(atom, _number(lanes)), lanes)
            bound = _spread(builder, builder.load(builder.gep(level, [atom])), lanes)
            marks_of_atom = _number(0)
            for v in range(VECTORS):
                columns = ir.Constant(counting, [v * lanes + n for n in range(lanes)])
                inside = builder.icmp_signed("<", columns, limit)
                g = builder.select(inside, builder.load(sums[u][v]), zero)
                size = builder.select(args[5], _absolute(builder, g), g)
                before = builder.load(peak, align=align)
                larger = builder.fcmp_ordered(">", size, before)
                builder.store(builder.select(larger, size, before), peak, align=align)
                above = builder.bitcast(builder.fcmp_ordered(">", size, bound), ir.IntType(lanes))
                above = builder.zext(above, _INTEGER)
                builder.store(above, builder.gep(marks, [_number(u * VECTORS + v)]))
                marks_of_atom = builder.or_(marks_of_atom, above)
                to = _vector_at(builder, values, _number((u * VECTORS + v) * lanes), lanes)
                builder.store(g, to, align=align)
            marked = builder.icmp_unsigned("!=", marks_of_atom, _number(0))
            found = builder.or_(found, builder.select(marked, _number(1 << u), _number(0)))
        return found

    return signature, emit


correlate = cast(
    "Callable[[Floats, Atoms, np.int64, np.int64, np.int64, bool, Block], int]",
    intrinsic(_correlate),
)


def _block_of_sums(
    builder: ir.IRBuilder,
    memory: "_Memory",
    pixels: ir.Value,
    group: ir.Value,
    at: ir.Value,
    lanes: int,
) -> list[list[ir.Value]]:
    """Return where the correlations of ATOMS atoms with VECTORS vectors are, in registers."""
    kh, kw, C, align = memory.kh, memory.kw, memory.C, memory.align
    vector = ir.VectorType(memory.scalar, lanes)
    sums = [[cgutils.alloca_once(builder, vector) for _ in range(VECTORS)] for _ in range(ATOMS)]
    for pair in sums:
        for total in pair:
            builder.store(ir.Constant(vector, None), total)
    first = builder.mul(group, _number(C * kh * kw * ATOMS))
    with (
        cgutils.for_range(builder, _number(C)) as channels,
        cgutils.for_range(builder, _number(kh)) as rows,
    ):
        c, i = channels.index, rows.index
        offset = builder.add(builder.mul(c, memory.plane), builder.mul(i, memory.row))
        pixel = builder.add(at, offset)
        tap_row = builder.add(builder.mul(c, _number(kh)), i)
        entry = builder.add(first, builder.mul(tap_row, _number(kw * ATOMS)))
        for j in range(kw):
            windows = []
            for v in range(VECTORS):
                place = builder.add(pixel, _number(j + v * lanes))
                windows.append(builder.load(_vector_at(builder, pixels, place, lanes), align=align))
            for u in range(ATOMS):
                place = builder.add(entry, _number(j * ATOMS + u))
                tap = _spread(builder, builder.load(builder.gep(memory.groups, [place])), lanes)
                for total, window in zip(sums[u], windows, strict=True):
                    product = builder.fmul(window, tap, flags=REASSOCIATE)
                    added = builder.fadd(builder.load(total), product, flags=REASSOCIATE)
                    builder.store(added, total)
    return sums


class _Memory(NamedTuple):
    """An `Atoms` record in LLVM's terms: pointers to its arrays, and its layout."""

    D: ir.Value
    groups: ir.Value
    row: ir.Value  # strides
    plane: ir.Value
    scalar: ir.Type
    align: int  # bytes of a scalar
    kh: int
    kw: int
    C: int


def _memory(
    context: BaseContext, builder: ir.IRBuilder, signature: Signature, args: list[ir.Value]
) -> _Memory:
    """Unpack the `Atoms` record, which is argument 1 of every intrinsic."""
    atoms_type, atoms = signature.args[1], args[1]
    D_type, D = _field(builder, atoms_type, atoms, "D")
    layout_type, layout = _field(builder, atoms_type, atoms, "layout")
    strides = _field(builder, layout_type, layout, "strides")[1]
    return _Memory(
        D=_data(context, builder, D_type, D),
        groups=_data(context, builder, *_field(builder, atoms_type, atoms, "groups")),
        row=builder.extract_value(strides, 0),
        plane=builder.extract_value(strides, 1),
        scalar=ir.FloatType() if D_type.dtype == types.float32 else ir.DoubleType(),
        align=D_type.dtype.bitwidth // 8,
        kh=_field(builder, layout_type, layout, "kh")[0].count,
        kw=_field(builder, layout_type, layout, "kw")[0].count,
        C=_field(builder, layout_type, layout, "C")[0].count,
    )


def _field(
    builder: ir.IRBuilder, kind: types.Type, value: ir.Value, name: str
) -> tuple[types.Type, ir.Value]:
    """Return type and value of a field of a record."""
    i = kind.fields.index(name)
    return kind.types[i], builder.extract_value(value, i)


def _data(
    context: BaseContext, builder: ir.IRBuilder, kind: types.Type, array: ir.Value
) -> ir.Value:
    """Return a pointer to the entries of an array."""
    return context.make_array(kind)(context, builder, array).data


def _window(
    builder: ir.IRBuilder, memory: _Memory, pixels: ir.Value, at: ir.Value
) -> Iterator[ir.Value]:
    """Yield pointers to the C·kh rows of the window at a position, each a vector."""
    for c in range(memory.C):
        for i in range(memory.kh):
            down = builder.mul(memory.row, ir.Constant(memory.row.type, i))
            across = builder.mul(memory.plane, ir.Constant(memory.plane.type, c))
            pixel = builder.add(at, builder.add(down, across))
            yield _vector_at(builder, pixels, pixel, memory.kw)


def _atom(builder: ir.IRBuilder, memory: _Memory, m: ir.Value) -> Iterator[ir.Value]:
    """Yield pointers to the C·kh rows of atom m, each a vector."""
    kh, kw, C = memory.kh, memory.kw, memory.C
    first = builder.mul(m, ir.Constant(m.type, C * kh * kw))
    for row in range(C * kh):
        entry = builder.add(first, ir.Constant(first.type, row * kw))
        yield _vector_at(builder, memory.D, entry, kw)


def _vector_at(builder: ir.IRBuilder, data: ir.Value, index: ir.Value, length: int) -> ir.Value:
    """Return a pointer to the vector that starts at an entry."""
    pointer = ir.VectorType(data.type.pointee, length).as_pointer()
    return builder.bitcast(builder.gep(data, [index]), pointer)


def _spread(builder: ir.IRBuilder, value: ir.Value, length: int) -> ir.Value:
    """Return a vector of copies of a value."""
    undefined = ir.Constant(ir.VectorType(value.type, length), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), length), None)
    return builder.shuffle_vector(first, undefined, zeros)


def _absolute(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Return |vector|."""
    bits = 32 if isinstance(vector.type.element, ir.FloatType) else 64
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector.type, [vector.type]),
        f"llvm.fabs.v{vector.type.count}f{bits}",
    )
    return builder.call(function, [vector])


_INTEGER = ir.IntType(64)


def _number(n: int) -> ir.Constant:
    return ir.Constant(_INTEGER, n)
