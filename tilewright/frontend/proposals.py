"""Fixes the open dimensions of inputs, or says what is missing: all of them, with options that work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from types import MappingProxyType

from tilewright.errors import ShapeError
from tilewright.frontend.shapes import Declared, Dimension, ShapeRequest, Shapes, bind_shapes, describe_dimensions

__all__ = ["find_buckets"]

#: No input decides which operators run.
_NONE_DECIDES: Mapping[str, str] = MappingProxyType({})
#: Names of a dimension of independent examples.
_BATCHES = ("batch", "n", "b", "bs")
#: Extents that are proposed for the sides of an image, and for any other open dimension; the first that works is taken.
_SIDES, _LENGTHS = (224, 48, 640, 256, 320, 512, 32), (128, 16, 512, 64, 16000, 1)
#: How many proposals are tried.
_MOST_TRIED = 24
#: Numbers of channels by which an image is recognised.
_CHANNELS = (1, 3, 4)


def find_buckets(
    declared: Declared,
    request: ShapeRequest,
    accepts: Callable[[Shapes], bool],
    deciding: Mapping[str, str] = _NONE_DECIDES,
) -> list[dict[str, tuple[int, ...]]]:
    """The shapes of all inputs that are tensors, for each bucket; a single one for most models.

    Args:
        declared: the dimensions of the inputs as the model declares them.
        request: what the user says.
        accepts: whether the model can be run with inputs of some shapes; asked only to propose shapes.
        deciding: the values to propose for inputs that decide which operators run, as texts; empty: it is not known.

    Raises:
        ShapeError: a dimension stays open, or the request does not fit the model.
    """
    found = []
    for bound in bind_shapes(request, declared):
        shapes = {name: extents for name, shape in bound.items() if (extents := _complete(shape)) is not None}
        if len(shapes) < len(bound):
            raise _explain(declared, bound, accepts, deciding)
        found.append(shapes)
    return found


def _explain(
    declared: Declared,
    bound: Mapping[str, tuple[int | None, ...] | None],
    accepts: Callable[[Shapes], bool],
    deciding: Mapping[str, str],
) -> ShapeError:
    """The error that names all open dimensions, with options that fix them."""
    missing = [name for name, shape in bound.items() if shape is None or None in shape]
    proposal: dict[str, tuple[int, ...]] = {}
    for proposed in _propose(declared, bound):
        proposal = proposal or proposed
        if accepts(proposed):
            proposal = proposed
            break
    have = " and ".join(f"{name!r} is [{describe_dimensions(declared[name])}]" for name in missing)
    options = _write_options(declared, bound, missing, proposal)
    options += [f"--fix {_quote(name)}={value}" for name, value in deciding.items() if value]
    them = "it" if len(missing) == 1 else "them"
    return ShapeError(
        f"every input has a fixed shape, but {have}; fix {them} with {' '.join(options)}{_explain_values(deciding)}"
    )


def _explain_values(deciding: Mapping[str, str]) -> str:
    """What ``--fix`` is for, if inputs decide which operators run."""
    said = ""
    for name, value in deciding.items():
        said += f"; the value of {name!r} decides which operators run"
        said += ", so it is best fixed as well" if value else f", so give it with --fix {_quote(name)}=VALUE"
    return said


def _write_options(
    declared: Declared,
    bound: Mapping[str, tuple[int | None, ...] | None],
    missing: list[str],
    proposal: Shapes,
) -> list[str]:
    """The options that fix the missing dimensions as proposed: by the names of dimensions if these are fewer."""
    extents: dict[str, int] = {}
    nameless = False
    for name in missing:
        dimensions, shape = declared[name], bound[name]
        if dimensions is None or shape is None:
            nameless = True
            continue
        for dimension, known, extent in zip(dimensions, shape, proposal[name], strict=True):
            if known is None and isinstance(dimension, str) and dimension and dimension not in declared:
                extents[dimension] = extent
            elif known is None:
                nameless = True
    if not nameless and len(extents) < len(missing):
        return [f"--shape {_quote(name)}={extent}" for name, extent in extents.items()]
    return [f"--shape {_quote(name)}={','.join(map(str, proposal[name]))}" for name in missing]


def _quote(name: str) -> str:
    """A name as a shell takes it."""
    return name if all(c.isalnum() or c in "_-./:" for c in name) else "'" + name.replace("'", "'\\''") + "'"


def _propose(
    declared: Declared, bound: Mapping[str, tuple[int | None, ...] | None]
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes of all inputs to try, the most likely first. Dimensions of one name have one extent."""
    tried: list[dict[str, tuple[int, ...]]] = []
    for side, length, lone in product(_SIDES, _LENGTHS, (False, True)):
        names: dict[str, int] = {}
        made = {}
        for name, shape in bound.items():
            dimensions = declared[name]
            if dimensions is None or shape is None:
                made[name] = _shape_of_any(length)
                continue
            extents = []
            for place, (dimension, known) in enumerate(zip(dimensions, shape, strict=True)):
                guess = known if known is not None else _guess(dimensions, place, side, length, lone)
                if isinstance(dimension, str) and dimension:
                    guess = names.setdefault(dimension, guess)
                extents.append(guess)
            made[name] = tuple(extents)
        if made not in tried:
            tried.append(made)
            yield made
        if len(tried) >= _MOST_TRIED:
            return


def _shape_of_any(length: int) -> tuple[int, ...]:
    """A shape for an input whose number of dimensions is open."""
    return (1, length) if length > 1 else (1,)


def _guess(dimensions: tuple[Dimension, ...], place: int, side: int, length: int, lone: bool) -> int:
    """A likely extent of an open dimension.

    Args:
        dimensions: all dimensions of the input.
        place: which of them it is.
        side: the extent of the sides of images.
        length: the extent of lengths.
        lone: whether an inner dimension without a name is taken for one of examples, as in the state of a network.
    """
    name = str(dimensions[place]).lower()
    if place == 0 or "batch" in name or name in _BATCHES:
        return 1
    if len(dimensions) == 4:
        channels = dimensions[1]
        first = channels in _CHANNELS or (isinstance(channels, str) and dimensions[3] not in _CHANNELS)
        if place == 1 and first:
            return 3
        if place in ((2, 3) if first else (1, 2)):
            return side
    return 1 if lone and not name and place < len(dimensions) - 1 else length


def _complete(shape: tuple[int | None, ...] | None) -> tuple[int, ...] | None:
    """The shape, if all of its extents are known."""
    known = tuple(extent for extent in shape or () if extent is not None)
    return known if shape is not None and len(known) == len(shape) else None
