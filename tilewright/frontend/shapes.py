"""The shapes that a network is read in: what a user asks for, and what that means for the inputs of a model.

A dimension that a model leaves open has a name or none. Dimensions of one name have one extent. Several extents of a
dimension, or several shapes of an input, make several *buckets*: one network for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

from tilewright.errors import ShapeError

if TYPE_CHECKING:
    from tilewright.tensor import Array

__all__ = [
    "Declared",
    "Dimension",
    "ShapeRequest",
    "Shapes",
    "bind_shapes",
    "describe_dimensions",
    "fits",
    "make_request",
]

#: A dimension as a model declares it: its extent; or the name of an open one, empty if it has none. An extent of 0 may
#: stand for an open one, so it may be given another extent; otherwise it is 0.
Dimension: TypeAlias = "int | str"
#: The dimensions of inputs by name; None: even their number is open.
Declared: TypeAlias = "Mapping[str, tuple[Dimension, ...] | None]"
#: The shapes of inputs by name.
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

#: The most buckets of one executable: each is compiled by itself.
_MOST_BUCKETS = 64


@dataclass(frozen=True)
class ShapeRequest:
    """What a user says about the inputs of a model.

    Attributes:
        choices: pairs of a name and, for each dimension, its extents. The name is that of an input, which has all
            combinations as shapes; or that of an open dimension, which has all of these extents.
        whole: the shapes of all inputs, each a bucket. The name of an input may be empty if the model has a single one.
        values: the values of inputs that become constants, by name.
        shares: the share of the tuning that each bucket gets; empty: equal ones.
        samples: inputs by name, on which outputs are judged besides. ``whole`` has their shapes.
    """

    choices: tuple[tuple[str, tuple[tuple[int, ...], ...]], ...] = ()
    whole: tuple[Shapes, ...] = ()
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    shares: tuple[float, ...] = ()
    samples: tuple[Mapping[str, Array], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.choices or self.whole or self.values)


def make_request(shapes: ShapeRequest | Shapes | Sequence[Shapes] | None) -> ShapeRequest:
    """The request for shapes by name; of a sequence, each entry is a bucket."""
    if isinstance(shapes, ShapeRequest):
        return shapes
    if shapes is None or isinstance(shapes, Mapping):
        return ShapeRequest(tuple((n, tuple((e,) for e in shape)) for n, shape in (shapes or {}).items()))
    return ShapeRequest(whole=tuple(dict(entry) for entry in shapes))


def bind_shapes(request: ShapeRequest, declared: Declared) -> list[dict[str, tuple[int | None, ...] | None]]:
    """The shapes of all inputs, for each bucket; None stands for what nothing says.

    - Several shapes of one input are alternatives. Alternatives of several inputs go together: the first with the
      first, the second with the second. An input with a single shape has it in all buckets.
    - All extents of a named dimension are combined with those of other names, and with each of these alternatives.

    Args:
        request: what the user says.
        declared: the inputs of the model.

    Raises:
        ShapeError: a name is that of no input and of no dimension, or a shape has another rank than the model's or
            other extents than it fixes, or there are too many buckets.
    """
    inputs: dict[str, list[tuple[int, ...]]] = {}
    names: dict[str, list[int]] = {}
    for name, dimensions in request.choices:
        if name in declared:
            inputs.setdefault(name, []).extend(product(*dimensions))
        elif name in _list_names(declared):
            names.setdefault(name, []).extend(extent for extents in dimensions for extent in extents)
        else:
            raise _unknown(name, declared)
    groups = [_name_input(shapes, declared, request.values) for shapes in request.whole]
    if inputs or not groups:
        groups += _pair(inputs)
    count = len(groups)
    for extents in names.values():
        count *= len(set(extents))
    if count > _MOST_BUCKETS:
        raise ShapeError(
            f"an executable has at most {_MOST_BUCKETS} buckets, since each is compiled by itself, but these shapes "
            f"make {count}; leave some out, or take a larger step"
        )
    found = [
        _bind(group, dict(zip(names, extents, strict=True)), declared)
        for group in groups
        for extents in product(*names.values())
    ]
    return [bound for number, bound in enumerate(found) if bound not in found[:number]]


def describe_dimensions(dimensions: Sequence[Dimension] | None) -> str:
    """Dimensions for people: extents, names, and ``?`` for an open one without a name."""
    return "..." if dimensions is None else ",".join(str(dimension) or "?" for dimension in dimensions)


def _list_names(declared: Declared) -> list[str]:
    """The names of open dimensions, each once."""
    found = [d for dims in declared.values() for d in dims or () if isinstance(d, str) and d]
    return list(dict.fromkeys(found))


def _unknown(name: str, declared: Declared) -> ShapeError:
    names = _list_names(declared)
    more = f"; its open dimensions are: {', '.join(names)}" if names else ""
    return ShapeError(
        f"--shape and samples name inputs of the model, but {name!r} is none; it has: {', '.join(declared)}{more}"
    )


def _name_input(shapes: Shapes, declared: Declared, fixed: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    """Shapes by the names of inputs that are not fixed. The name of a single one may have been left out."""
    if "" in shapes:
        if len(declared) != 1:
            raise ShapeError(
                f"a single array is a sample of a model with a single input, but this has: {', '.join(declared)}; "
                "give an archive with an array for each"
            )
        return {next(iter(declared)): shapes[""]}
    unknown = [name for name in shapes if name not in declared and name not in fixed]
    if unknown:
        raise _unknown(unknown[0], declared)
    return {name: shape for name, shape in shapes.items() if name in declared}


def _pair(inputs: Mapping[str, Sequence[tuple[int, ...]]]) -> list[dict[str, tuple[int, ...]]]:
    """The alternatives of all inputs, the first with the first and so on."""
    count = max(map(len, inputs.values()), default=1)
    for name, shapes in inputs.items():
        if len(shapes) not in (1, count):
            other = next(n for n, s in inputs.items() if len(s) == count)
            raise ShapeError(
                f"the shapes of several inputs go together, the first with the first, but {name!r} has {len(shapes)} "
                f"and {other!r} has {count}; give as many of each, or a single one"
            )
    return [{name: shapes[min(k, len(shapes) - 1)] for name, shapes in inputs.items()} for k in range(count)]


def fits(shape: Sequence[int], dimensions: Sequence[Dimension]) -> bool:
    """Whether a shape has the extents that a model fixes."""
    return len(shape) == len(dimensions) and all(
        isinstance(dimension, str) or dimension in (0, extent)
        for dimension, extent in zip(dimensions, shape, strict=True)
    )


def _bind(group: Shapes, names: Mapping[str, int], declared: Declared) -> dict[str, tuple[int | None, ...] | None]:
    """The shapes of all inputs, given those of some, and the extents of named dimensions."""
    known = dict(names)
    for name, shape in group.items():
        dimensions = declared[name]
        if dimensions is None:
            continue
        if not fits(shape, dimensions):
            stack = len(shape) > 0 and (fits(shape[1:], dimensions) or fits((1, *shape[1:]), dimensions))
            raise ShapeError(
                f"--shape or a sample keeps the dimensions that the model fixes, but input {name!r} is "
                f"[{describe_dimensions(dimensions)}] and {list(shape)} was given; give another "
                "shape" + (", or one sample in each file of --sample" if stack else "")
            )
        for dimension, extent in zip(dimensions, shape, strict=True):
            if isinstance(dimension, str) and dimension:
                known.setdefault(dimension, extent)
    bound: dict[str, tuple[int | None, ...] | None] = {}
    for name, dimensions in declared.items():
        if name in group:
            bound[name] = group[name]
        elif dimensions is None:
            bound[name] = None
        else:
            bound[name] = tuple(d if isinstance(d, int) else known.get(d) for d in dimensions)
    return bound
