"""Finds compilers of C for other platforms than this one."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from tilewright.errors import CompilerError

__all__ = ["find_cross_compiler", "same_architecture", "words_of_cc"]

#: The oldest version of the GNU C library that zig links for: all systems with 64-bit Arm processors have it.
_LEAST_GLIBC = "2.17"
#: Names of one architecture that LLVM and the kernel spell differently.
_SAME = {"arm64": "aarch64", "amd64": "x86_64"}


def find_cross_compiler(triple: str) -> tuple[str, ...]:
    """The command of a C compiler for a platform, as the beginning of a list of arguments.

    It is ``$CC`` if a name in it begins with the platform's architecture, as in ``aarch64-linux-gnu-gcc-12 -O2``;
    otherwise the platform's ``gcc`` or ``clang`` on ``PATH``; otherwise zig, from the package ``ziglang`` or ``PATH``.

    Args:
        triple: LLVM's name of the platform, such as ``aarch64-linux-gnu``.

    Raises:
        CompilerError: there is no such compiler.
    """
    own = words_of_cc()
    architecture = triple.partition("-")[0]
    if any(Path(word).name.startswith(f"{architecture}-") for word in own) and shutil.which(own[0]):
        return own
    for name in (f"{triple}-gcc", f"{triple}-clang"):
        if shutil.which(name):
            return (name,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc", "-target", _to_zig(triple))
    if shutil.which("zig"):
        return ("zig", "cc", "-target", _to_zig(triple))
    raise CompilerError(
        f"code for {triple} needs a C compiler for it, but there is neither {triple}-gcc nor zig; "
        "install zig with: pip install 'tilewright[cross]'"
    )


def words_of_cc() -> tuple[str, ...]:
    """The words of ``$CC``, as a shell splits them; empty: it is not set.

    Raises:
        CompilerError: it has a quotation mark without its fellow.
    """
    text = os.environ.get("CC", "")
    try:
        return tuple(shlex.split(text))
    except ValueError as exc:
        raise CompilerError(f"CC is the command of a C compiler, but {text!r} has {exc}; correct or unset it") from exc


def same_architecture(triple: str, machine: str) -> bool:
    """Whether a platform has the architecture of a machine, as ``platform.machine()`` calls it."""
    one, other = triple.partition("-")[0], machine.lower()
    return _SAME.get(one, one) == _SAME.get(other, other)


def _to_zig(triple: str) -> str:
    """Zig's name of a platform: without a vendor, and with the version of the C library."""
    architecture, *rest = triple.split("-")
    name = "-".join([_SAME.get(architecture, architecture), *rest[-2:]])
    return f"{name}.{_LEAST_GLIBC}" if re.search(r"-gnu$", name) else name
