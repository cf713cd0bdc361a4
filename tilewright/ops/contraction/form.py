"""The form of a contraction: its axes, their extents, and how they index its buffers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.ops.contraction.dot_products import FITS, PAIR, QUAD, Operands
from tilewright.ops.mark import Mark

if TYPE_CHECKING:
    from tvm.ir import Expr, IRModule, TensorRegion, Var
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import SBlockRV

__all__ = [
    "AXES",
    "BLOCK",
    "KERNEL_ROWS",
    "KIND",
    "PACK",
    "PAD",
    "ROLES",
    "WIDEN",
    "Access",
    "Form",
    "find_pad",
    "mark_roles",
    "read_form",
]

#: All axes of contractions: batch, blocks of outputs, rows and columns of pixels, lanes; then blocks of inputs, rows
#: and columns of the kernel, inputs of a block; and groups of channels. An axis that a contraction lacks has extent 1.
AXES = ("n", "o", "h", "w", "l", "rc", "kh", "kw", "ri", "g")
#: The kind of the tasks, and the attribute of their functions that tells the roles of the block's iterators.
KIND, ROLES = "contraction", "tilewright.contraction"
#: The axes of the reduction of weights of 4 bits.
_NIBBLES = ("rc", "kw", "ri")
#: The names of the blocks that add and multiply, that pad the data, and that pack the right operand of a product.
BLOCK, PAD, PACK = "contraction", "pad", "pack"
#: The name of the block that pads if it also converts data, from bytes to int16 or from float32 to bfloat16. It may do
#: nothing else than convert.
WIDEN = "pad_words"
#: The annotation of blocks of depthwise convolutions of bytes: the rows of the kernel, and their dilation.
KERNEL_ROWS = "tilewright.kernel_rows"


@dataclass(frozen=True)
class Access:
    """How a buffer is indexed.

    Attributes:
        name: ``A`` (the data), ``W`` (the weights) or ``C`` (the result).
        itemsize: bytes of an element; of int32 sums, those of the elements that the function makes of them.
        dims: for each dimension the axes that move along it, with their coefficients.
        steps: for each axis the distance in elements between neighbours along it.
    """

    name: str
    itemsize: int
    dims: tuple[tuple[tuple[str, int], ...], ...]
    steps: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Form:
    """A contraction C[n, o, h, w, l] += A[n, rc, h + kh, w + kw, ri] * W[o, rc, kh, kw, ri, l], or one with fewer axes.

    With groups, all three buffers have the axis g, too. A depthwise contraction is C[n, o, h, w, l] += A[n, o, h + kh,
    w + kw, l] * W[o, kh, kw, l].

    Attributes:
        iterators: the axis of each iterator of the block, in the block's order.
        spatial: number of spatial iterators. They come first.
        extents: extent of each of ``AXES``. With ``fused``, ``w`` is all pixels and ``h`` is 1.
        accesses: of A, W and C.
        fused: whether rows and columns of pixels are one axis (a 1x1 kernel without stride or padding).
        rows: whether rows of pixels have an axis of their own.
        padded: whether a block in the function pads the data, or packs the right operand.
        depthwise: whether the data have the lane axis, too. They are then multiplied vector by vector.
        together: how many inputs an instruction multiplies together: four bytes (a quad), or two int16 or bfloat16
            numbers (a pair), which are one element here, or 1. The block's last iterator, over the parts of a quad or
            pair, is no axis.
        nibbles: whether the weights are words of eight levels, whose scales are further operands. Then ``rc`` are
            blocks with one scale, ``kw`` the words of a block, and ``ri`` the levels of a word, and scales are in no
            access: they are a small share of the weights. Or such words become numbers in the block that packs.
        operands: what is known of the bytes of quads.
        halves: whether pairs are of bfloat16 numbers, whose bits are in uint16.
        kernel_rows: of a depthwise kernel whose rows are multiplied together, how many, and their dilation. Then ``kh``
            are the quads or pairs.
    """

    iterators: tuple[str, ...]
    spatial: int
    extents: dict[str, int]
    accesses: tuple[Access, ...]
    fused: bool
    rows: bool
    padded: bool
    depthwise: bool = False
    together: int = 1
    nibbles: bool = False
    operands: Operands = "any"
    halves: bool = False
    kernel_rows: tuple[int, ...] = ()

    @property
    def unpacks(self) -> bool:
        """Whether words become numbers in the loops of the contraction, rather than in a block before it."""
        return self.nibbles and "kw" in self.iterators

    def bytes(self, name: str) -> int:
        """Bytes of the buffer ``name`` that all iterations together touch."""
        return next(a for a in self.accesses if a.name == name).itemsize * self.elements(name)

    def elements(self, name: str) -> int:
        """Elements of the buffer ``name`` that all iterations together touch."""
        access = next(a for a in self.accesses if a.name == name)
        return math.prod(1 + sum(c * (self.extents[axis] - 1) for axis, c in dim) for dim in access.dims)


def mark_roles(roles: str) -> dict[str, str]:
    """The annotations of a contraction's block.

    Args:
        roles: what the iterators are for, spatial ones before the slash. b: batch, g: groups, o: blocks of output
            channels, p: pixels or rows, l: lane, r: reduction, q: bytes of a quad, or int16 of a pair. ``boppl/rrrr``
            is a convolution, ``boppl/rrrrq`` one of bytes, and ``pol/rrr`` a product with weights of 4 bits.
    """
    return Mark(KIND, roles).annotations


def find_pad(schedule: Schedule, block: SBlockRV) -> SBlockRV | None:
    """The block that pads the contraction's data or packs its right operand; None without one."""
    pads = [p for p in schedule.get_producers(block) if schedule.get(p).name_hint.startswith((PAD, PACK))]
    return pads[0] if pads else None


def read_form(module: IRModule, name: str = BLOCK, roles: str | None = None) -> Form:
    """The form of a contraction in ``module``.

    Args:
        module: holds its function.
        name: of its block.
        roles: of the block's iterators; None: the function's attribute has them.

    Raises:
        FormError: it holds no contraction, or one of another form.
    """
    from tvm.s_tir import Schedule

    attributes = module["main"].attrs
    if roles is None and attributes is not None and ROLES in attributes:
        roles = str(attributes[ROLES])
    if roles is None:
        raise FormError(f"a contraction's function has the attribute {ROLES!r}, but this one has not")
    schedule = Schedule(module)
    block = schedule.get_sblock(name)
    stmt = schedule.get(block)
    quads = roles.endswith("q")
    iterators = _axes_of(roles.removesuffix("q"))
    spatial = roles.index("/")
    kinds = [int(v.iter_type) for v in stmt.iter_vars]
    if kinds != [0] * spatial + [2] * (len(iterators) - spatial + quads):
        raise FormError(f"the block's iterators are not those of its roles {roles!r}")
    extents = dict.fromkeys(AXES, 1)
    for axis, var in zip(iterators, stmt.iter_vars, strict=not quads):
        extents[axis] = _integer(var.dom.extent)
    names = list(zip((*iterators, "q"), (v.var for v in stmt.iter_vars), strict=False))
    extents["q"] = together = _integer(stmt.iter_vars[-1].dom.extent) if quads else 1
    reads = [
        _access(region, names, extents) for region in stmt.reads if not region.source.same_as(stmt.writes[0].source)
    ]
    dtypes = {str(region.source.ty.dtype) for region in stmt.reads}
    depthwise = "rc" not in iterators and "ri" not in iterators
    nibbles = iterators[spatial:] == _NIBBLES
    data, weights = _find_operands(reads, depthwise, nibbles, together)
    sums = _as_written(_access(stmt.writes[0], names, extents), module, quads)
    accesses = [_named("A", data), _named("W", weights), _named("C", sums)]
    del extents["q"]
    pad = find_pad(schedule, block)
    nibbles = nibbles or (pad is not None and any(str(r.source.ty.dtype) == "uint32" for r in schedule.get(pad).reads))
    dims = set() if quads and depthwise else set(accesses[0].dims)  # a quad is of rows
    plain = extents["kh"] == extents["kw"] == 1 and (("h", 1),) in dims and (("w", 1),) in dims
    rows = "h" in iterators
    # Rows and columns make one axis only if the rows lie in memory one after the other.
    steps = dict(accesses[0].steps)
    widened = pad is not None and schedule.get(pad).name_hint == WIDEN
    fused = rows and plain and (widened or pad is None) and steps["h"] == extents["w"] * steps["w"]
    if fused:
        extents |= {"w": extents["h"] * extents["w"], "h": 1}
        accesses = [_without_rows(a) for a in accesses]
    return Form(
        iterators,
        spatial,
        extents,
        tuple(accesses),
        fused,
        rows and not fused,
        pad is not None,
        depthwise,
        together,
        nibbles,
        operands=_find_kind(FITS in stmt.annotations, dtypes),
        halves=together == PAIR and "uint16" in dtypes,
        kernel_rows=tuple(map(int, str(stmt.annotations.get(KERNEL_ROWS, "")).split())),
    )


def _find_kind(fits: bool, dtypes: set[str]) -> Operands:
    """What is known of the bytes that a contraction reads."""
    if fits:
        return "fitting"
    return "shifted" if "int8" in dtypes and "uint8" not in dtypes else "any"


def _find_operands(reads: list[Access], depthwise: bool, nibbles: bool, together: int) -> tuple[Access, Access]:
    """The data and the weights among what a contraction reads, with quads and pairs as their elements."""
    weights = reads[1:] if depthwise else [a for a in reads if "l" in dict(a.steps)]
    data = reads[:1] if depthwise else [a for a in reads if "l" not in dict(a.steps)]
    if nibbles:  # the scales, and perhaps zero points, follow the words
        weights = [a for a in weights if "kw" in dict(a.steps)]
    if len(weights) != 1 or len(data) != 1:
        raise FormError("a contraction multiplies data by weights, of which only the weights have the lane axis")
    if together == 1:
        return data[0], weights[0]
    grouped = _beside_quads(data[0]) if depthwise else _in_groups(data[0], together)
    return grouped, _in_groups(weights[0], together)


def _axes_of(roles: str) -> tuple[str, ...]:
    spatial, _, reduction = roles.partition("/")
    pixels = iter({0: [], 1: ["w"], 2: ["h", "w"]}.get(spatial.count("p"), []))
    other = {"b": "n", "g": "g", "o": "o", "l": "l"}
    axes = [next(pixels, "") if role == "p" else other.get(role, "") for role in spatial]
    # With one axis of pixels, two reductions are inputs by blocks. With rows and columns, they are a depthwise kernel.
    pair = ["kh", "kw"] if spatial.count("p") == 2 else ["rc", "ri"]
    axes += {"r": ["ri"], "rr": pair, "rrr": [*_NIBBLES], "rrrr": ["rc", "kh", "kw", "ri"]}.get(reduction, [""])
    if "" in axes or len(set(axes)) != len(axes) or not {"o", "w", "l"} <= set(axes):
        raise FormError(f"the roles of a contraction's iterators are such as 'boppl/rrrr', but these are {roles!r}")
    return tuple(axes)


def _integer(value: object) -> int:
    number = getattr(value, "value", value)
    if not isinstance(number, int):
        raise FormError(f"a contraction has known extents, but one of these is {value}")
    return number


def _access(region: TensorRegion, names: list[tuple[str, Var]], extents: dict[str, int]) -> Access:
    import tvm
    from tvm.sym import detect_linear_equation

    variables = [var for _, var in names]
    dims: list[tuple[tuple[str, int], ...]] = []
    steps: dict[str, int] = {}
    buffer = region.source.ty
    shape = [_integer(s) for s in buffer.shape]
    parts = [place for place, extent in enumerate(region.region) if _is_part(extent.min, names)]
    for place, extent in enumerate(region.region):
        if place in parts:
            # These dimensions hold parts of the batch's number. Neighbours in the batch differ in the last part.
            moves = place == parts[-1]
            if moves:
                steps["n"] = math.prod(shape[place + 1 :])
            dims.append((("n", 1),) if moves else ())
            continue
        linear = detect_linear_equation(extent.min, variables)
        if len(linear) == 0 or _integer(extent.extent) != 1:
            raise FormError("a contraction's buffers are indexed by sums of its iterators")
        terms = [(names[i][0], _integer(linear[i])) for i in range(len(names))]
        # An axis of extent 1 moves nothing. Listing it would hide that a 1x1 kernel reads pixels in order.
        used = tuple((axis, c) for axis, c in terms if c != 0 and (axis == "l" or extents[axis] > 1))
        for axis, c in used:
            steps[axis] = steps.get(axis, 0) + c * math.prod(shape[place + 1 :])
        dims.append(used)
    bits = int(tvm.DataType(str(buffer.dtype)).bits)
    return Access("", bits // 8, tuple(dims), tuple(steps.items()))


def _is_part(index: Expr, names: list[tuple[str, Var]]) -> bool:
    """Whether an index is a part of the batch's number: it depends on the batch alone, and not linearly."""
    from tvm.sym import detect_linear_equation
    from tvm.tirx.analysis import undefined_vars

    used = undefined_vars(index)
    batch = next((var for axis, var in names if axis == "n"), None)
    alone = len(used) == 1 and batch is not None and used[0].same_as(batch)
    return alone and len(detect_linear_equation(index, [batch])) == 0


def _named(name: str, access: Access) -> Access:
    return Access(name, access.itemsize, access.dims, access.steps)


def _in_groups(access: Access, count: int) -> Access:
    """The access to bytes as one to quads: A[..., 4 * ri + q] --> A[..., ri], W[..., ri, l, q] --> W[..., ri, l].

    Pairs of int16 or bfloat16 numbers are alike.
    """
    steps = [(axis, step) for axis, step in access.steps if axis != "q"]
    if access.itemsize * count != QUAD or ("q", 1) not in access.steps or any(step % count for _, step in steps):
        raise FormError("a quad of bytes or pair of 16 bits lies side by side, and none begins inside of another")
    dims = []
    for dim in access.dims:
        inside = ("q", 1) in dim
        dims.append(tuple((axis, c // count if inside else c) for axis, c in dim if axis != "q"))
    return Access(access.name, QUAD, tuple(dims), tuple((axis, step // count) for axis, step in steps))


def _as_written(sums: Access, module: IRModule, quads: bool) -> Access:
    """The access to int32 sums of quads as one to what the function makes of them, which alone is written to memory."""
    import tvm

    if not quads:
        return sums
    written = tvm.DataType(str(module["main"].params[-1].ty.dtype))
    return dataclasses.replace(sums, itemsize=int(written.bits) // 8)


def _beside_quads(access: Access) -> Access:
    """The access to the first byte of each quad of pixels."""
    dims = tuple(tuple((axis, c) for axis, c in dim if axis != "q") for dim in access.dims)
    return Access(access.name, access.itemsize, dims, tuple(s for s in access.steps if s[0] != "q"))


def _without_rows(access: Access) -> Access:
    dims = tuple(d for d in access.dims if d != (("h", 1),))
    return Access(access.name, access.itemsize, dims, tuple(s for s in access.steps if s[0] != "h"))
