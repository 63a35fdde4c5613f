"""Products of one level with a block of columns, the block in one vector register.

Of such loops numba makes vectors of entries, whose columns it gathers one by one; vectors of
columns take a third of the time (0.25 against 0.83 ns for each entry and column on AVX-512). The
functions here are what they say in NumPy; `register` gives compiled loops LLVM's instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparselmm.base.types import FloatArray, IntArray


def add_product(
    cols: IntArray, Y: FloatArray, a: int, weight: float, v: FloatArray, out: FloatArray,
    begin: int, end: int,
) -> None:  # fmt: skip
    """``out += w y (y'v)``, y the entries ``begin`` to ``end`` of column a of Y; out, v (r, 8)."""
    own = cols[begin:end]
    y = Y[begin:end, a]
    out[own] += y[:, None] * (weight * (y @ v[own]))


def add_narrow_product(
    cols: IntArray, Y: FloatArray, a: int, weight: float, v: FloatArray, out: FloatArray,
    begin: int, end: int,
) -> None:  # fmt: skip
    """The same of four columns, (r, 4)."""
    add_product(cols, Y, a, weight, v, out, begin, end)


WIDTHS: dict[Callable[..., None], int] = {add_product: 8, add_narrow_product: 4}


def register() -> None:
    """Have numba compile the functions above; once, before anything that calls them is compiled."""
    from numba.extending import overload

    for function, width in WIDTHS.items():
        overload(function)(_typed(width))


def _typed(width: int) -> Callable[..., Any]:
    from numba.core import types
    from numba.extending import intrinsic

    def typing(
        context: Any, cols: Any, Y: Any, a: Any, weight: Any, v: Any, out: Any, begin: Any, end: Any
    ) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arrays = [
                context.make_array(signature.args[i])(context, builder, args[i])
                for i in (0, 1, 4, 5)
            ]
            _instructions(builder, width, arrays, *args[2:4], *args[6:])
            return context.get_dummy_value()

        given = cols, Y, types.int64, types.float64, v, out, types.int64, types.int64
        return types.void(*given), code

    product: Any = intrinsic(typing)

    def typed(
        cols: Any, Y: Any, a: Any, weight: Any, v: Any, out: Any, begin: Any, end: Any
    ) -> Any:
        def compiled(
            cols: Any, Y: Any, a: Any, weight: Any, v: Any, out: Any, begin: Any, end: Any
        ) -> None:
            product(cols, Y, a, weight, v, out, begin, end)

        return compiled

    return typed


def _instructions(
    builder: Any, width: int, arrays: list[Any], a: Any, weight: Any, begin: Any, end: Any
) -> None:  # fmt: skip
    """Two loops over the entries: the sum, and what it adds to every row."""
    from llvmlite import ir
    from numba.core import cgutils as untyped

    cgutils: Any = untyped
    cols, Y, v, out = arrays
    long, vector = ir.IntType(64), ir.VectorType(ir.DoubleType(), width)
    stride = cgutils.unpack_tuple(builder, Y.shape, 2)[1]
    nothing, step = ir.Constant(vector, ir.Undefined), ir.Constant(long, 1)
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)

    def entry(e: Any) -> tuple[Any, Any]:
        """Place of the entry's row, and its coefficient in all lanes."""
        row = builder.sext(builder.load(builder.gep(cols.data, [e])), long)
        y = builder.load(builder.gep(Y.data, [builder.add(builder.mul(e, stride), a)]))
        return builder.mul(row, ir.Constant(long, width)), in_all(y)

    def in_all(x: Any) -> Any:
        first = builder.insert_element(nothing, x, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, nothing, lanes)

    def block(array: Any, place: Any) -> Any:
        return builder.bitcast(builder.gep(array.data, [place]), vector.as_pointer())

    def plus(total: Any, x: Any, y: Any) -> Any:
        product = builder.fmul(x, y, flags=["contract"])
        return builder.fadd(product, total, flags=["contract"])

    total = cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * width))
    with cgutils.for_range_slice(builder, begin, end, step, inc=True) as (e, _):
        place, y = entry(e)
        x = builder.load(block(v, place), align=8)
        builder.store(plus(builder.load(total), x, y), total)
    sums = builder.fmul(builder.load(total), in_all(weight))
    with cgutils.for_range_slice(builder, begin, end, step, inc=True) as (e, _):
        place, y = entry(e)
        at = block(out, place)
        builder.store(plus(builder.load(at, align=8), sums, y), at, align=8)
