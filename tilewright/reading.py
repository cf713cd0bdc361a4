"""Reading files that others may have written: bounded in size, checked in form, and nothing in them is evaluated.

Everything here raises ``OSError`` or ``ValueError``; the reader of a format makes a ``TilewrightError`` of it that
names the file and the remedy.
"""

from __future__ import annotations

import io
import json
import math
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

__all__ = ["open_regular", "parse_json", "read_array", "read_arrays", "read_file"]

#: More digits than any number has that is not made to be slow to convert.
_DIGITS = 400
#: Bytes read at a time.
_CHUNK = 1 << 20
#: The header of an array, NumPy's format 1 to 3: a Python dictionary, which NumPy evaluates as a literal, and which is
#: matched here.
_ITEM = (
    rb"'(?:descr': *'[<>|=]?[?bBiufcSUV]\d{0,9}'|fortran_order': *(?:True|False)"
    rb"|shape': *\((?:\d{1,18}, *)*(?:\d{1,18})?\))"
)
_HEADER = re.compile(rb"\{ *" + _ITEM + rb", *" + _ITEM + rb", *" + _ITEM + rb",? *\} *\n?")
_HEADER_BYTES = 1 << 14
#: The header of an archive's member ends in two lengths: of its name and of what follows the name.
_MEMBER = struct.Struct("<26x2H")


def open_regular(path: Path, most: int | None = None) -> BinaryIO:
    """A file opened for reading, if it is one: a pipe would wait for ever, a device never ends.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no regular file, or larger than ``most`` bytes.
    """
    # Looked at before it is opened, which for a pipe does not return until somebody writes.
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "Is a directory")
    if not stat.S_ISREG(mode):
        raise ValueError("it is no regular file")
    size = path.stat().st_size
    if most is not None and size > most:
        raise ValueError(f"it has {size:,} bytes, but at most {most:,} are read")
    return path.open("rb")


def read_file(path: Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes. Raises as :func:`open_regular` does."""
    with open_regular(path, most) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return content


def parse_json(text: str | bytes, most: int | None = None, infinite: bool = False) -> Any:
    """What a JSON text says, of at most ``most`` characters.

    Stricter than ``json.loads``: no key twice in one object, no ``NaN``, no ``Infinity`` unless ``infinite`` (but
    ``1e999`` is one, as everywhere), no halves of characters (lone surrogates, which cannot be printed or stored), no
    numbers of hundreds of digits.

    Args:
        text: the text.
        most: its most characters; None: any number.
        infinite: whether ``Infinity`` and ``-Infinity`` are numbers.

    Raises:
        ValueError: it is no such text, or nested too deeply.
    """
    if most is not None and len(text) > most:
        raise ValueError(f"its JSON has {len(text):,} characters, but at most {most:,} are read")
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        value = (_INFINITE_DECODER if infinite else _DECODER).decode(text)
        # Only an escape makes half a character out of text that was valid UTF-8, and few texts have any.
        if "\\ud" in text or "\\uD" in text or not text.isascii():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as exc:
        raise ValueError("a text has half a character") from exc
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)[:40]!r} stands there twice")
    return made


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _infinity(text: str) -> float:
    return float(text) if text.endswith("Infinity") else _no_constant(text)


def _int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


#: Made once: that costs as much as reading a short text.
_DECODER, _INFINITE_DECODER = (
    json.JSONDecoder(object_pairs_hook=_object, parse_constant=constant, parse_int=_int)
    for constant in (_no_constant, _infinity)
)


@dataclass(frozen=True)
class _Layout:
    """What the header of a ``.npy`` file says of its array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    nbytes: int

    def arrange(self, memory: NDArray[np.uint8]) -> NDArray[Any]:
        """The array of these bytes."""
        if not self.dtype.itemsize:
            return np.empty(self.shape, dtype=self.dtype)
        array: NDArray[Any] = memory.view(self.dtype).reshape(self.shape, order=self.order)
        return array


def _read_layout(file: BinaryIO | _Memory, size: int) -> _Layout:
    """Read the header of a ``.npy`` file that goes on for ``size`` bytes. Raises ``ValueError`` if it is none."""
    start = file.read(8)
    wide = 2 if start[6:7] == b"\x01" else 4
    if start[:6] != b"\x93NUMPY" or start[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise ValueError("it is no array of NumPy's format")
    length = int.from_bytes(file.read(wide), "little")
    if length > _HEADER_BYTES:
        raise ValueError(f"the header of an array has {length:,} bytes")
    header = file.read(length)
    if not _HEADER.fullmatch(header):
        raise ValueError(f"the header of an array is of another form, or it holds objects: {header[:80]!r}")
    fields = {item[:3]: item.partition(b":")[2].strip() for item in (m[1:] for m in re.findall(_ITEM, header))}
    if len(fields) != 3:
        raise ValueError("the header of an array says something twice")
    try:
        dtype = np.dtype(fields[b"des"].strip(b"'").decode())
    except TypeError as exc:
        raise ValueError(f"an array has a type that does not exist: {fields[b'des']!r}") from exc
    shape = tuple(int(extent) for extent in re.findall(rb"\d+", fields[b"sha"]))
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes != size - len(start) - wide - length or len(shape) > 32:
        raise ValueError(f"an array of {dtype} {shape} needs {nbytes:,} bytes, but the file has another number")
    return _Layout(dtype, shape, "F" if fields[b"for"] == b"True" else "C", nbytes)


def read_array(file: BinaryIO, size: int) -> NDArray[Any]:
    """The array in a ``.npy`` file that goes on for ``size`` bytes: of numbers or text, never of objects.

    Memory is taken only where the size agrees with what the header declares.

    Raises:
        ValueError: it is none, or its header and its size disagree.
    """
    layout = _read_layout(file, size)
    nbytes = layout.nbytes
    memory = np.empty(nbytes, dtype=np.uint8)
    place = 0
    while place < nbytes and (part := file.read(min(_CHUNK, nbytes - place))):
        memory[place : place + len(part)] = np.frombuffer(part, dtype=np.uint8)
        place += len(part)
    if place < nbytes or file.read(1):
        raise ValueError("an array is cut off, or longer than it says")
    return layout.arrange(memory)


class _Memory(io.RawIOBase):
    """Memory as a file. A ``mmap`` has no such methods before Python 3.13, and raises other errors."""

    def __init__(self, content: mmap) -> None:
        self.bytes = np.frombuffer(content, dtype=np.uint8)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self.bytes[self._place :][: len(buffer)]
        buffer[: len(part)] = part.tobytes()
        self._place += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self.bytes)}[whence]
        if place < 0:
            raise OSError("a file begins at 0")
        self._place = place
        return place

    def tell(self) -> int:
        return self._place


def _read_stored(file: BinaryIO | _Memory, member: zipfile.ZipInfo) -> NDArray[Any]:
    """The array of an uncompressed member of an archive, read at once, without comparing the archive's checksums.

    Args:
        file: the archive: in memory, which the array shares, or with a number among the files of this process.
        member: of it.
    """
    file.seek(member.header_offset)
    start = file.read(_MEMBER.size)
    if len(start) < _MEMBER.size or start[:4] != b"PK\x03\x04" or member.flag_bits & 1:
        raise ValueError("an array does not begin where its archive says, or it is encrypted")
    file.seek(sum(_MEMBER.unpack(start)), io.SEEK_CUR)
    layout = _read_layout(file, member.file_size)
    if isinstance(file, _Memory):
        memory = file.bytes[file.tell() :][: layout.nbytes]
    else:
        memory = np.fromfile(file, dtype=np.uint8, count=layout.nbytes)
    if len(memory) < layout.nbytes:
        raise ValueError("an array is cut off")
    return layout.arrange(memory)


def read_arrays(content: bytes | BinaryIO | mmap, most: int | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` archive, by name.

    Args:
        content: the archive, a file of the system, or memory, which arrays that are uncompressed share. Of a file or
            memory whose arrays are uncompressed, the archive's own checksums are not compared, which takes as long as
            reading: its reader has a better one.
        most: bytes of all arrays together. None: they must lie in it uncompressed, so that the file's own size is it.

    Raises:
        ValueError: it is no such archive, is damaged, or holds more.
    """
    try:
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        file = _Memory(source) if isinstance(source, mmap) else source
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if len(set(names)) < len(names) or not all(name.endswith(".npy") for name in names):
                raise ValueError("an archive of arrays has each of them once, as NAME.npy")
            total = sum(member.file_size for member in members)
            # Other ways of packing are unpacked without a limit.
            if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
                raise ValueError("its arrays are packed in a way that NumPy does not use")
            if most is None:
                # Members may point at the same bytes, or claim more than there are.
                if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members):
                    raise ValueError("its arrays are compressed")
                assert archive.fp is not None
                most = archive.fp.seek(0, io.SEEK_END)
            if total > most:
                raise ValueError(f"its arrays have {total:,} bytes, but at most {most:,} are read")
            arrays = {}
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            for member in members:
                if stored and not isinstance(file, io.BytesIO):
                    arrays[member.filename[:-4]] = _read_stored(file, member)
                    continue
                with archive.open(member) as opened:
                    arrays[member.filename[:-4]] = read_array(opened, member.file_size)  # type: ignore[arg-type]
            return arrays
    except _DAMAGED as exc:
        raise ValueError(next(iter(str(exc).splitlines()), "") or type(exc).__name__) from exc


#: What ``zipfile`` and ``zlib`` raise where an archive is damaged, encrypted, or packed in a way they do not know.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    LookupError,
    OverflowError,
    MemoryError,
    OSError,
)
