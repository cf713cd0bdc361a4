"""Hands the inputs of a network to its plan or its segments, and collects its outputs from both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tilewright.executable.segment import LoadedSegment, SegmentJson
from tilewright.tensor import Array, TensorSpec

__all__ = ["Routes", "find_routes"]

#: An input or output of a network: an array of numbers or texts, a sequence, or an optional value.
Given: TypeAlias = object


@dataclass(frozen=True)
class Routes:
    """Where the inputs of a network go, and where its outputs come from.

    Attributes:
        planned: for each input of the network, whether the plan has it among its inputs.
        names: the names of the network's inputs.
        sources: for each output of the network, where it comes from. An integer: the number of the plan's output. A
            pair: the number of the segment that returns it, and its name. A string: the name of an equal input.
    """

    planned: tuple[bool, ...]
    names: tuple[str, ...]
    sources: tuple[int | tuple[int, str] | str, ...]

    def select_inputs(self, values: Sequence[Given]) -> list[Array]:
        """The values for the plan's inputs, in their order."""
        return [value for value, planned in zip(values, self.planned, strict=True) if planned]  # type: ignore[misc]

    def give(self, values: Sequence[Given], segments: Sequence[LoadedSegment]) -> None:
        """Hand the inputs that the plan does not take to the segments that take them."""
        given = {n: v for n, v, planned in zip(self.names, values, self.planned, strict=True) if not planned}
        for segment in segments:
            segment.given = {name: given[name] for name in segment.entry["given"]}

    def collect(
        self, planned: Sequence[Array], values: Sequence[Given], segments: Sequence[LoadedSegment]
    ) -> list[Array]:
        """The network's outputs.

        Args:
            planned: copies of the plan's outputs.
            values: the network's inputs.
            segments: the segments, after they ran.
        """
        found: list[object] = []
        for source in self.sources:
            if isinstance(source, int):
                found.append(planned[source])
            elif isinstance(source, str):
                found.append(values[self.names.index(source)])
            else:
                number, name = source
                found.append(segments[number].returned[name])
        return found  # type: ignore[return-value]


def find_routes(inputs: Sequence[TensorSpec], outputs: Sequence[str], segments: Sequence[SegmentJson]) -> Routes:
    """The routes of a network.

    Args:
        inputs: its inputs. The plan takes only tensors of numbers with fixed shapes.
        outputs: the names of its outputs.
        segments: its segments. Their entries ``given`` and ``returned`` say which inputs and outputs the plan lacks.
    """
    given = {name for segment in segments for name in segment["given"]}
    given |= {spec.name for spec in inputs if not spec.is_fixed}
    returned: Mapping[str, int] = {name: n for n, segment in enumerate(segments) for name in segment["returned"]}
    sources: list[int | tuple[int, str] | str] = []
    count = 0
    for name in outputs:
        if name in returned:
            sources.append((returned[name], name))
        elif name in given:
            sources.append(name)
        else:
            sources.append(count)
            count += 1
    names = tuple(spec.name for spec in inputs)
    return Routes(tuple(name not in given for name in names), names, tuple(sources))
