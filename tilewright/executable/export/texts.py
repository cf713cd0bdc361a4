"""The texts of a C library: its header, its source file, its example, and the files of its packages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tilewright.errors import TilewrightError
from tilewright.executable.export.segments import Segments, describe_segments
from tilewright.executable.manifest import Manifest, TensorJson

__all__ = [
    "ABI",
    "FUNCTIONS",
    "can_be_name",
    "check_name",
    "describe_onnxruntime",
    "fill_template",
    "write_header",
    "write_source",
]

#: The version of the header's interface. Count it up if a function, a structure or a status changes its meaning.
ABI = 1
#: The functions of the header, without the library's name before them.
FUNCTIONS = (
    *("abi", "alignment", "input_count", "output_count", "bucket_count", "input", "output", "find_bucket"),
    *("create", "destroy", "run", "run_shapes", "output_shape", "status_text"),
)
_TEMPLATES = Path(__file__).with_name("templates")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
#: Headers of C and POSIX, libraries of the system, and the runtimes, whose names would be taken twice.
_TAKEN = re.compile(
    "assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|math|setjmp|signal|stdalign|stdarg|stdatomic|"
    "stdbool|stddef|stdint|stdio|stdlib|stdnoreturn|string|tgmath|threads|time|uchar|wchar|wctype|fcntl|unistd|pthread|"
    "sched|semaphore|dirent|glob|regex|poll|netdb|dlfcn|elf|endian|link|malloc|c|m|dl|rt|util|gcc|gcc_s|resolv|"
    # Functions of POSIX such as timer_create and sem_destroy would have the names of the library's.
    "timer|sem|thrd|mtx|cnd|pthread_[a-z_]*|onnxruntime|tilewright"
)
#: What the header says of executables that have none of it.
_WITHOUT_RUNTIME = " * - Nothing else is needed: all operators are in this library, and none runs in ONNX Runtime."
#: What the header says of those of which ONNX Runtime runs a part.
_WITH_RUNTIME = """\
 * - ONNX Runtime runs parts of the network (@operators@): libonnxruntime.so of release 1.@release@ or
 *   later must be beside this library, or where the system looks for libraries. @name@_create makes its sessions. It
 *   allocates memory in each run, and keeps one environment for all its users in a process."""
#: The statuses that only such a library returns.
_STATUSES = """
#define @NAME@_NO_ONNXRUNTIME 8  /* ONNX Runtime is too old, or refuses a part of the network */
#define @NAME@_ONNXRUNTIME_FAILED 9 /* ONNX Runtime failed to run a part of the network */"""


def can_be_name(name: str) -> bool:
    """Whether ``name`` can be the name of a library and the beginning of functions in C."""
    return bool(_NAME.fullmatch(name)) and not _TAKEN.fullmatch(name.lower())


def check_name(name: str) -> None:
    """Raise ``TilewrightError`` if ``name`` cannot be the name of a library and the beginning of functions in C."""
    if not can_be_name(name):
        taken = _TAKEN.fullmatch(name.lower())
        raise TilewrightError(
            "--name is a name in C of at most 63 letters, digits and underscores, such as squeezenet, but "
            f"{name!r:.80} {'is taken by the C library or the runtime' if taken else 'is none'}; choose another one"
        )


def fill_template(template: str, name: str, values: Mapping[str, str]) -> str:
    """The text of a file in ``templates`` with ``@key@`` replaced by values; the library's name and ABI are known."""
    return _fill((_TEMPLATES / template).read_text(encoding="utf-8"), name, values)


def _fill(text: str, name: str, values: Mapping[str, str]) -> str:
    known = {"name": name, "NAME": name.upper(), "abi": str(ABI), **values}
    return re.sub(r"@(\w+)@", lambda found: known[found[1]], text)


def describe_onnxruntime(segments: Segments) -> str:
    """The sentence of the packages about ONNX Runtime, with a space before it; empty if it is not needed."""
    return f" It needs libonnxruntime.so of ONNX Runtime 1.{segments.release} or later." if segments.parts else ""


def write_header(manifest: Manifest, name: str, weights_file: bool, segments: Segments) -> str:
    """The header of a library."""
    operators = sorted({operator for part in segments.parts for operator in part.operators})
    known = {"release": str(segments.release), "operators": _in_comment(", ".join(operators) or "unknown")}
    plans = [entry["plan"] for entry in (manifest, *manifest.get("buckets", []))]
    values = {
        "title": _in_comment(manifest.get("name", name)),
        "cpu": _in_comment(manifest.get("target", {}).get("mcpu", "this machine")),
        "ends": "\n".join(_describe_ends(manifest)),
        "onnxruntime": _fill(_WITH_RUNTIME, name, known) if segments.parts else _WITHOUT_RUNTIME,
        "statuses": _fill(_STATUSES, name, {}) if segments.parts else "",
        "alignment": str(max(plan.get("vector", 16) for plan in plans if plan is not None)),
        "weights": f"{name}.weights beside the library" if weights_file else "they are inside of the library",
    }
    return fill_template("header.h.in", name, values)


def _describe_ends(manifest: Manifest) -> list[str]:
    """Lines of a comment that list inputs and outputs of all buckets."""
    buckets = manifest.get("buckets", [])
    lines = []
    for number, entry in enumerate(buckets or [manifest]):
        if buckets:
            lines.append(f" * Bucket {number}:")
        for kind, ends in (("Input", entry["inputs"]), ("Output", entry["outputs"])):
            lines += [f" *   {kind} {place}: {_describe_end(end)}" for place, end in enumerate(ends)]
    return [*lines, " *"]


def _describe_end(end: TensorJson) -> str:
    return f"{_in_comment(end['name'])}, {end['dtype']} {end['shape']}"


def _in_comment(text: str) -> str:
    """A text that cannot end a comment, in ASCII."""
    return re.sub(r"[^ -~]|[*/\\?]", "_", text)[:80]


def _list_paddings(manifest: Manifest) -> list[str]:
    """Lines of C that define how smaller inputs may be padded: ``PADDINGS`` of ``library.h``."""
    paddings: list[str] = []
    axes: list[str] = []
    for number, bucket in enumerate(manifest.get("buckets", [])):
        for padding in bucket["padding"]:
            found = []
            for ends, along in ((bucket["inputs"], padding["inputs"]), (bucket["outputs"], padding["outputs"])):
                found.append([(place, along[end["name"]]) for place, end in enumerate(ends) if end["name"] in along])
            paddings.append(f"{{{number}, {len(axes)}, {len(found[0])}, {len(found[1])}}}")
            axes += [f"{{{place}, {axis}}}" for pairs in found for place, axis in pairs]
    return [
        f"static const ImagePadding paddings[] = {{{', '.join(paddings) or '{0, 0, 0, 0}'}}};",
        f"static const PaddedAxis padded_axes[] = {{{', '.join(axes) or '{0, 0}'}}};",
        "#define PADDINGS paddings",
        "#define PADDED_AXES padded_axes",
        f"#define PADDING_COUNT {len(paddings)}u",
    ]


def write_source(kernels: Sequence[str], manifest: Manifest, name: str, weights_file: bool, segments: Segments) -> str:
    """The source file of a library, which includes the runtime."""
    lines = [
        "/* Made by Tilewright. */",
        "#define TILEWRIGHT_LIBRARY 1",
        f"#define NAME(x) {name}_##x",
        *segments.before,
        '#include "runtime.c"',
        f'#include "{name}.h"',
        "",
        # A name in capitals has the names of the macros already.
        *(f"#define {name}_{macro} {name.upper()}_{macro}" for macro in _MACROS if name != name.upper()),
        "",
        "#define INCLUDE_BYTES(symbol, file) \\",
        '  __asm__(".section .rodata\\n.balign 64\\n" symbol ":\\n.incbin \\"" file "\\"\\n.byte 0\\n.previous\\n")',
        "#define KERNEL(x) extern int x(void *self, const Argument *arguments, int32_t count, Argument *result)",
        "",
        *(f"KERNEL(__tvm_ffi_{kernel});" for kernel in kernels),
        f"static const Kernel kernels[] = {{{', '.join(f'__tvm_ffi_{kernel}' for kernel in kernels) or 'NULL'}}};",
        'INCLUDE_BYTES("tilewright_image", "image.bin");',
        'extern const char tilewright_image[] __attribute__((visibility("hidden")));',
        "#define IMAGE tilewright_image",
        "#define KERNELS kernels",
        *describe_segments(segments),
        *_list_paddings(manifest),
    ]
    if weights_file:
        lines.append(f'#define WEIGHTS_FILE "{name}.weights"')
    else:
        lines += [
            'INCLUDE_BYTES("tilewright_weights", "weights.bin");',
            'extern const char tilewright_weights[] __attribute__((visibility("hidden")));',
            "#define WEIGHTS tilewright_weights",
        ]
    return "\n".join([*lines, '#include "library.h"', ""])


#: The macros of the header that library.h uses by NAME(...).
_MACROS = ("ABI", "AFFINITY_AUTO", "AFFINITY_NONE", "AFFINITY_LIST")
