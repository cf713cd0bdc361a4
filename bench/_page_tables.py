"""How the table of a results page is made of its file in ``docs/results/data``.

A file has the machine, the date and the commands, and then one of two things:

- ``figures``: what a bench wrote with ``--json``. :data:`MAKERS` says how its table is made.
- ``columns`` and ``rows``: figures of an earlier measurement whose JSON file was not kept. They are those that its page
  had. A number is written as it stands in the file, with its zeros.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewright.jsonable import Json, JsonObject
from tilewright.wording import counted

#: The networks of ``bench.export --elsewhere`` for people.
_NETWORKS = {
    "squeezenet": "SqueezeNet (random weights, before softmax)",
    "shufflenet": "ShuffleNet (random weights, before softmax)",
    "small ResNet": "a ResNet of three blocks",
    "attention": "attention: 2 x 64 tokens, 4 heads of 32",
    "LSTM": "LSTM: bidirectional, 48 units",
}
_RUNTIMES = {"tilewright": "Tilewright", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_TITLES = {
    "resnet50": "ResNet-50",
    "minilm": "MiniLM",
    "mobilenetv3": "MobileNetV3-large",
    "efficientnet_b0": "EfficientNet-B0",
    "mobilenetv2": "MobileNetV2",
    "regnety_800mf": "RegNetY-800MF",
    "resnet18": "ResNet-18",
    "resnet50_timm": "ResNet-50",
    "convnext_tiny": "ConvNeXt-tiny",
    "vit_tiny": "ViT-tiny",
    "detector": "detector, 320x320",
    "unet": "U-Net, 128x128",
    "ocr_det": "text detector (PP-OCRv4), 640x640",
    "ocr_rec": "text recogniser (PP-OCRv4)",
    "magika": "magika",
    "mobilenetv3_large_100": "MobileNetV3-large",
    "vit_tiny_patch16_224": "ViT-tiny",
    "encoder": "transformer encoder",
}
#: The arms of PyTorch in ``bench.training``.
_OTHERS = ("eager", "inductor")
_CASES = {"minilm": "MiniLM-L6", "vit": "ViT-tiny", "causal512": "causal", "causal1024": "causal"}
_KILLED = {
    "head": "the command",
    "node": "a node",
    "desk": "the process on a node",
    "worker": "a worker",
    "database": "the database",
}
_EXPORT = {
    "load_ms": ("`load_ms`: making an instance", "{:.1f} ms", "under 50 ms"),
    "python_load_ms": (
        "`python_load_ms`: `load_executable`, the first one of a process",
        "{:.0f} ms",
        "under 50 ms",
    ),
    "call_overhead_us": (
        "`call_overhead_us`: a call whose kernels do nothing",
        "{:.2f} us",
        "at most 1 us",
    ),
    "throughput_ratio": (
        "`throughput_ratio`: four instances of one thread in one process, beside two processes with one instance each",
        "{:.2f}",
        "at least 0.95",
    ),
    "core_scaling": ("`core_scaling`: these two processes beside one process alone, by core", "{:.2f}", ""),
}


#: What is timed of a convolution; the figures of each, and their forms.
_KINDS = ("with rounding", "products alone")
_TIMED = (("microseconds", ".0f"), ("share", ".2f"))


class Digits(str):
    """A number as it stands in a file, such as ``94.40`` or ``4.3e-06``."""


@dataclass(frozen=True)
class Data:
    """The file of a table.

    Attributes:
        machine: what it was measured on: processor, instruction set, cores.
        date: the day, such as ``2026-11-30``.
        commands: what was run; empty if it was measured by hand.
        table: the table in Markdown.
    """

    machine: str
    date: str
    commands: tuple[str, ...]
    table: str


def read_data(file: Path) -> Data:
    """Read the file of a table, and make the table.

    Raises:
        KeyError: the file lacks a part, or nothing says how its table is made.
        OSError: the file is not there.
    """
    text = file.read_text(encoding="utf-8")
    about: JsonObject = json.loads(text)
    if "figures" in about:
        table = MAKERS[file.stem](_object(about["figures"]))
    else:
        written = json.loads(text, parse_float=Digits, parse_int=Digits)
        table = _copied(written["columns"], written["rows"])
    commands = about["commands"]
    assert isinstance(commands, list)
    return Data(str(about["machine"]), str(about["date"]), tuple(map(str, commands)), table)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, each line with its end."""
    first, *rest = (f"| {' | '.join(line)} |\n" for line in (head, *rows))
    # A cell with nothing in it has one blank, not two.
    return re.sub(r"\|  (?=\|)", "| ", first + "|---" * len(head) + "|\n" + "".join(rest))


def _copied(columns: Sequence[str | Sequence[str]], rows: Sequence[Sequence[str | Sequence[str]]]) -> str:
    """A table of figures as they stand in the file.

    Args:
        columns: the title of each column, or a title and a form of its cells, such as ``{} ms ({} to {})``.
        rows: a cell is a text, or the number or the numbers of the column's form.
    """
    heads = [column if isinstance(column, str) else column[0] for column in columns]
    forms = ["{}" if isinstance(column, str) else column[1] for column in columns]
    return markdown(heads, [[_cell(form, cell) for form, cell in zip(forms, row, strict=True)] for row in rows])


def _cell(form: str, cell: str | Sequence[str]) -> str:
    if isinstance(cell, str) and not isinstance(cell, Digits):
        return cell
    numbers = [cell] if isinstance(cell, str) else list(cell)
    if "{,}" in form:  # thousands are told apart
        form = form.replace("{,}", "{}")
        numbers = [re.sub(r"^\d+", lambda whole: f"{int(whole[0]):,}", number) for number in numbers]
    return form.format(*numbers)


def _elsewhere(figures: JsonObject) -> str:
    rows = []
    for name, row in _objects(figures["networks"]):
        rows.append([_NETWORKS.get(name, name), f"{_number(row['error']):.1e}", f"{_number(row['tasks']):.0f}"])
    return markdown(["network", "error", "tasks"], rows)


def _export(figures: JsonObject) -> str:
    rows = [[title, form.format(_number(figures[key])), goal] for key, (title, form, goal) in _EXPORT.items()]
    return markdown(["figure", "value", "goal"], rows)


def _attention(figures: JsonObject) -> str:
    rows, peak = [], _number(figures["peak"])
    for name, case in _objects(figures["cases"]):
        one, several = _number(case["one"]), [_number(value) for _, value in _object(case["several"]).items()]
        speed = _number(case["flop"]) / (one / 1e3)
        heads, _, tokens, depth, _ = re.findall(r"\d+", str(case["attention"]))
        rows.append(
            [
                _CASES[name],
                f"{heads} x {tokens} x {depth}",
                f"{one:.3f}",
                f"{sum(several):.3f} = " + " + ".join(f"{ms:.3f}" for ms in several),
                f"{one / sum(several):.2f}",
                f"{speed / 1e9:.0f}",
                f"{speed / peak:.2f}",
            ]
        )
    three = "three functions: scores + softmax + values"
    heading = ["attention", "heads x tokens x depth", "one function", three, "ratio", "GFLOP/s", "of the peak"]
    return markdown(heading, rows)


def _builder(figures: JsonObject) -> str:
    trials = _object(figures["builder_trials_per_second"])
    alone, built = trials["alone"], trials["with a builder"]
    assert isinstance(alone, list)
    assert isinstance(built, list)
    pairs = [(_number(one), _number(two)) for one, two in zip(alone, built, strict=True)]
    rows = [[str(turn), f"{one:.1f}", f"{two:.1f}", f"{two / one:.2f}"] for turn, (one, two) in enumerate(pairs, 1)]
    return markdown(["turn", "alone: trials per second", "with a builder", "ratio"], rows)


def _kills(figures: JsonObject) -> str:
    killed = _object(figures["killed"])
    rest = [f"{_number(figures[key]):.0f}" for key in ("records", "records_lost", "records_doubled", "orphans")]
    counts = [f"{_number(killed[key]):.0f}" for key in _KILLED]
    survived = f"{_number(figures['kills_survived']):.0f} of {_number(figures['kills']):.0f}"
    head = [*_KILLED.values(), "survived", "records", "lost", "doubled", "processes left"]
    return markdown(head, [[*counts, survived, *rest]])


def _precision(figures: JsonObject) -> str:
    rows, found = [], figures["rows"]
    assert isinstance(found, list)
    for row in map(_object, found):
        ours, ratio = row["runtime"] == "tilewright", _number(row["ratio"])
        bold = "**" if ours and row["precision"] == "int8" else ""
        ms, error = f"{_number(row['median_ms']):.2f}", _number(row["error"])
        base = ours and row["precision"] == "float32"  # what the others are divided by
        rows.append(
            [
                _TITLES[str(row["model"])],
                _RUNTIMES[str(row["runtime"])],
                str(row["precision"]),
                f"{bold}{ms}{bold}",
                "1" if base else f"{ratio:.3f}",
                "0" if base else f"{error:.2f}" if error > 0.005 else f"{error:.0e}".replace("e-0", "e-"),
            ]
        )
    return markdown(["network", "runtime", "precision", "median ms", "ratio", "error"], rows)


def _precision_by_network(figures: JsonObject) -> str:
    rows, found = figures["rows"], {}
    assert isinstance(rows, list)
    for row in map(_object, rows):
        found[str(row["model"]), str(row["runtime"]), str(row["precision"])] = row
    cells = []
    for model in dict.fromkeys(model for model, *_ in found):
        base = found[model, "tilewright", "float32"]
        cells.append([_TITLES[model], f"{_number(base['median_ms']):.2f}"])
        for precision in ("int8", "int8 reduced"):
            ours, *others = (found[model, runtime, precision] for runtime in _RUNTIMES)
            of_others = (_number(ours["median_ms"]) / _number(other["median_ms"]) for other in others)
            cells[-1] += [f"**{_number(ours['median_ms']):.2f}**", _interval(ours), *(f"{of:.2f}" for of in of_others)]
        errors = [_number(found[model, runtime, "int8"]["error"]) for runtime in _RUNTIMES]
        cells[-1].append(", ".join(f"{error:.2f}" if error < 1 else f"{error:.1f}" for error in errors))
    int8 = ["int8, ms", "ratio", "of ONNX Runtime's", "of OpenVINO's"]
    head = ["network", "float32, ms", *int8, *(f"7 bits: {column}" for column in int8), "error of the three in int8"]
    return markdown(head, cells)


def _embeddings(figures: JsonObject) -> str:
    rows, found = [], figures["rows"]
    assert isinstance(found, list)
    for row in map(_object, found):
        lowest, median, reached = (_number(row[key]) for key in ("lowest", "median", "reached"))
        ms = f"{_number(row['median_ms']):.2f}" if "median_ms" in row else "-"
        how, runtime = f"`{row['way']}`", _RUNTIMES[str(row["runtime"])]
        rows.append([how, runtime, f"{lowest:.5f}", f"{median:.5f}", f"{100 * reached:.0f} % >= {row['goal']}", ms])
    return markdown(["how", "runtime", "lowest cosine", "median cosine", "sentences that reach the goal", "ms"], rows)


def _convolutions(figures: JsonObject) -> str:
    found: dict[str, dict[str, JsonObject]] = {}
    kernels, whole = figures["kernels"], _object(figures["whole"])
    assert isinstance(kernels, list)
    for row in map(_object, kernels):
        found.setdefault(str(row["key"]), {})[str(row["kind"])] = row
    rows = []
    for kinds in found.values():
        cells = [f"{_number(kinds[kind][key]):{form}}" for kind in _KINDS for key, form in _TIMED]
        first = kinds[_KINDS[0]]
        rows.append([str(first["name"]), f"{_number(first['weight']):.0f}", *cells])
    totals = [cell for kind in _KINDS for cell in ("", f"**{_number(whole[kind]):.2f}**")]
    rows.append(["all, each as often as it is called", "", *totals])
    head = ["convolution", "calls", "with rounding, µs", "of the peak", "products alone, µs", "of the peak"]
    return markdown(head, rows)


def _int4(figures: JsonObject) -> str:
    rows, found = figures["rows"], {}
    assert isinstance(rows, list)
    for row in map(_object, rows):
        found[str(row["model"]), str(row["runtime"]), str(row["precision"])] = _number(row["median_ms"])
    cells = []
    for model in dict.fromkeys(model for model, *_ in found):
        shape = re.findall(r"\d+", model)
        real, ours, their_real, theirs = (
            found[model, runtime, precision]
            for runtime in ("tilewright", "onnxruntime")
            for precision in ("float32", "int4")
        )
        title = f"{counted(int(shape[0]), 'row')}, {shape[1]} x {shape[2]}"
        ratios = (f"{ours / real:.3f}", f"{their_real:.3f}", f"{theirs:.3f}", f"{ours / theirs:.2f}")
        cells.append([title, f"{real:.3f}", f"**{ours:.3f}**", *ratios])
    tilewright, other = ["Tilewright float32, ms", "Tilewright int4, ms", "ratio"], "ONNX Runtime"
    head = ["product", *tilewright, f"{other} float32, ms", f"{other} int4, ms", f"Tilewright's int4 of {other}'s"]
    return markdown(head, cells)


def _today(figures: JsonObject) -> str:
    names = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "pytorch-compiled": "Inductor"}
    raced = {peer for _, row in _objects(figures) for peer, _ in _objects(_object(row["bench"])["peers"])}
    names = {peer: name for peer, name in names.items() if peer in raced}
    rows = []
    for name, row in _objects(figures):
        peers = dict(_objects(_object(row["bench"])["peers"]))
        timed = [peers[peer] if "ratio" in peers[peer] else None for peer in names]
        ratios = ["-" if peer is None else _interval(peer) for peer in timed]
        best = max(_number(peer["ratio"]) for peer in timed if peer is not None)
        ms = _number(_object(_object(row["bench"])["executable"])["median_ms"])
        trials = f"{_number(_object(row['tune'])['trials']):.0f}"
        rows.append([_TITLES[name], trials, f"{ms:.2f}", *ratios, f"**{best:.2f}**"])
    head = [f"to {name}" for name in names.values()]
    fastest = "to the faster of both" if len(head) == 2 else "to the fastest"
    return markdown(["network", "trials", "Tilewright, ms", *head, fastest], rows)


def _training(figures: JsonObject) -> str:
    rows = []
    for name, row in _objects(figures["networks"]):
        ratios = _object(row["step_ratio"])
        steps, after = _object(row["step_ms"]), _object(row["overtakes_seconds"])
        cells = [_TITLES[name], f"{_number(row['minutes']):.0f}", _milliseconds(steps, "tilewright")]
        cells += [_milliseconds(steps, str(_object(ratios[other])["arm"])) for other in _OTHERS]
        cells += [f"**{_interval(_object(ratios[other]))}**" for other in _OTHERS]
        cells += ["never" if after[other] is None else f"{_number(after[other]):.0f} s" for other in _OTHERS]
        lost, peak, error = (_number(row[key]) for key in ("first_minute_lost", "peak_memory", "gradient_error"))
        cells += [f"{lost * 100:.0f} %", f"{_number(row['full_speed_seconds']):.0f} s", f"{peak:.2f}", f"{error:.1e}"]
        rows.append([cell.replace("e-0", "e-") for cell in cells])
    head = ["network", "minutes", "Tilewright", "eager", "Inductor", "ratio to eager", "ratio to Inductor"]
    head += ["overtakes eager after", "overtakes Inductor after", "first minute lost", "full speed with records after"]
    return markdown([*head, "peak memory", "largest error of a gradient"], rows)


def _milliseconds(steps: JsonObject, arm: str) -> str:
    return f"{_number(_object(steps[arm])['median_ms']):.0f} ms" + (", channels last" if arm.endswith("-last") else "")


def _interval(row: JsonObject) -> str:
    ratio, low, high = (_number(row[key]) for key in ("ratio", "ratio_low", "ratio_high"))
    return f"{ratio:.2f} ({low:.2f} to {high:.2f})"


def _number(value: Json) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _object(value: Json) -> JsonObject:
    assert isinstance(value, dict)
    return value


def _objects(value: Json) -> list[tuple[str, JsonObject]]:
    return [(name, _object(row)) for name, row in _object(value).items()]


#: What makes the Markdown of a table out of a bench's figures, by the file's name.
MAKERS: dict[str, Callable[[JsonObject], str]] = {
    "attention": _attention,
    "export": _export,
    "export-elsewhere": _elsewhere,
    "fleet-builder": _builder,
    "fleet-kills": _kills,
    "networks-today": _today,
    "networks-today-zen-3": _today,
    "networks-today-five-zen-3": _today,
    "precision-convolutions": _convolutions,
    "precision-dynamic": _precision,
    "precision-embeddings": _embeddings,
    "precision-int4": _int4,
    "precision-static": _precision,
    "precision-zen-3": _precision_by_network,
    "training-zen-3": _training,
}
