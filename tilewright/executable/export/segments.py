"""The segments of a C library: the parts of its network that ONNX Runtime runs (``runtime/segments.h``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tilewright.errors import OutputError
from tilewright.executable.export.onnxruntime import (
    VARIABLE,
    OnnxRuntime,
    check_release,
    find_onnxruntime,
    find_release,
)
from tilewright.executable.loading import Planned
from tilewright.executable.manifest import Manifest, copy_listed
from tilewright.executable.plan import Plan
from tilewright.executable.segment import SegmentJson, data_name, file_name, is_segment, segment_name, segment_number

__all__ = ["Segment", "Segments", "check_segments", "describe_segments", "number_calls", "read_segments"]


@dataclass(frozen=True)
class Segment:
    """A part of a network that ONNX Runtime runs.

    Attributes:
        inputs, outputs: the names of its inputs and outputs, in the order of the tensors of its call.
        operators: the types of its operators, for people to read.
        bytes: the size of its model.
        alone: whether no kernel runs beside it.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: tuple[str, ...]
    bytes: int
    alone: bool


@dataclass(frozen=True)
class Segments:
    """The segments of a library.

    Attributes:
        parts: the segments, in the order of their numbers.
        release: the oldest release of ONNX Runtime that runs them: N of 1.N.
    """

    parts: tuple[Segment, ...]
    release: int

    @property
    def bytes(self) -> int:
        """The size of their models and weights."""
        return sum(part.bytes for part in self.parts)

    @property
    def before(self) -> list[str]:
        """The lines of C that precede the runtime."""
        if not self.parts:
            return []
        return [f"#define SEGMENT_COUNT {len(self.parts)}u", f"#define SEGMENT_RELEASE {self.release}"]


def check_segments(executable: Path, manifest: Manifest, folder: Path | None) -> OnnxRuntime | None:
    """Find ONNX Runtime for C if a library of the executable needs it.

    Args:
        executable: its directory, for messages.
        manifest: its manifest.
        folder: the directory of ONNX Runtime for C, as of :func:`find_onnxruntime`.

    Returns:
        None if ONNX Runtime runs no part of the network.

    Raises:
        OutputError: a segment has a tensor that the header cannot describe, or ONNX Runtime is missing or too old.
    """
    segments = manifest.get("segments", [])
    if not segments:
        return None
    parts = "; ".join(map(_describe, range(len(segments)), segments))
    for number, entry in enumerate(segments):
        if loose := [*entry["given"], *entry["returned"]]:
            raise OutputError(
                f"the tensors of a library for C have numbers and a fixed shape, but {loose[0]!r:.80}, which segment "
                f"{number} of {executable} takes or gives, has texts, a sequence or an open shape ({parts}); export a "
                "model without these operators, or run the executable from Python"
            )
    found = find_onnxruntime(folder, manifest.get("target", {}).get("triple", ""))
    if found is None:
        raise OutputError(
            f"parts of {executable} run in ONNX Runtime: {parts}; name the directory of a release of ONNX Runtime for "
            f"C with --onnxruntime or {VARIABLE}, or install one that pkg-config finds as libonnxruntime, or export a "
            "model without these operators, or what 'tilewright build' makes if ONNX Runtime was only faster"
        )
    opsets = [entry.get("opset", 0) for entry in segments]
    check_release(found, find_release(opsets), max(opsets))
    return found


def _describe(number: int, entry: SegmentJson) -> str:
    if not entry["reasons"]:
        return f"segment {number}"
    return f"segment {number} ({', '.join(entry.get('operators', [])) or 'operators'}: {entry['reasons'][0]:.120})"


def number_calls(planned: Planned) -> Plan:
    """A plan whose calls name segments by their numbers among those of the executable.

    bucket 1: call @0  -->  call @3
    """
    calls = (
        replace(call, kernel=segment_name(planned.numbers[segment_number(call.kernel)]))
        if is_segment(call.kernel)
        else call
        for call in planned.plan.calls
    )
    return replace(planned.plan, calls=tuple(calls))


def read_segments(executable: Path, manifest: Manifest, planned: Sequence[Planned], work: Path) -> Segments:
    """Copy the files of an executable's segments to ``work``.

    Raises:
        OSError, OutputError: a file cannot be copied.
    """
    entries = manifest.get("segments", [])
    alone = {number: not entry.plan.kernels for entry in planned for number in entry.numbers}
    parts = []
    for number, entry in enumerate(entries):
        if data_name(number) in manifest["sha256"]:
            raise OutputError(
                f"a segment of a library for C has at most 1 GiB of weights, but segment {number} of {executable} has "
                "more; run the executable from Python"
            )
        copy_listed(executable, manifest, file_name(number), work / file_name(number))
        ends = tuple(entry["inputs"]), tuple(entry["outputs"])
        operators = tuple(entry.get("operators", []))
        parts.append(Segment(*ends, operators, (work / file_name(number)).stat().st_size, alone.get(number, False)))
    return Segments(tuple(parts), find_release(entry.get("opset", 0) for entry in entries))


def describe_segments(segments: Segments) -> list[str]:
    """The lines of C with the data of segments: what ``segments.h`` needs."""
    if not segments.parts:
        return []
    lines, models = [], []
    for number, part in enumerate(segments.parts):
        names = [*map(_quote, part.inputs), *map(_quote, part.outputs)]
        lines += _include(f"tilewright_segment{number}", file_name(number))
        lines.append(f"static const char *const segment{number}_names[] = {{{', '.join(names)}}};")
        symbol = f"tilewright_segment{number}"
        counts = f"{len(part.inputs)}, {len(part.outputs)}, segment{number}_names, {int(part.alone)}"
        models.append(f"  {{{symbol}, {part.bytes}, {counts}}},")
    return [*lines, "static const SegmentModel segment_models[SEGMENT_COUNT] = {", *models, "};"]


def _include(symbol: str, file: str) -> list[str]:
    """Lines that make a file's content a constant."""
    return [
        f'INCLUDE_BYTES("{symbol}", "{file}");',
        f'extern const char {symbol}[] __attribute__((visibility("hidden")));',
    ]


def _quote(text: str) -> str:
    """A literal of C in UTF-8."""
    content = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{content}"'
