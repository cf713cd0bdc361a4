"""Tells by a file's first bytes whether it is an ONNX file, a PyTorch program, or in a format mistaken for them."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

from tilewright.errors import ModelFormatError

__all__ = ["check_kind", "is_program"]

#: The suffix of files that ``torch.export.save`` writes.
_PROGRAM = ".pt2"
#: How many bytes are read.
_HEAD = 512
_EXPORT = (
    "load the model in PyTorch, then save torch.export.export(model.eval(), (example_input,)) with torch.export.save "
    "as a .pt2 file, or write an ONNX file with torch.onnx.export"
)
_ONNX = "export the model as an ONNX file"
_UNPACK = "unpack it, and name the model's file in it"
#: Known formats: a position and the bytes there, what such a file is, and what its user should do.
_SIGNS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes weights", f"{_ONNX} with tf2onnx or keras.Model.export"),
    (4, b"TFL3", "a TensorFlow Lite model", f"{_ONNX}, for example with tf2onnx --tflite"),
    (4, b"ORTM", "a model in ONNX Runtime's own format", "name the ONNX file that it was made from"),
    (0, b"GGUF", "a GGUF file of llama.cpp's", _ONNX),
    (0, b"version https://git-lfs", "a pointer to a file in Git LFS", "fetch the file itself with git lfs pull"),
    (0, b"<!DOCTYPE html", "a web page", "download the model itself"),
    (0, b"<html", "a web page", "download the model itself"),
    (0, b"<?xml", "an XML file, as OpenVINO writes models", f"{_ONNX} from the framework that it comes from"),
    (0, b"<net ", "a model of OpenVINO's", f"{_ONNX} from the framework that it comes from"),
    (0, b"\x93NUMPY", "an array of NumPy's", "name the model's file"),
    (0, b"\x1f\x8b", "compressed by gzip", _UNPACK),
    (0, b"BZh", "compressed by bzip2", _UNPACK),
    (0, b"\xfd7zXZ\x00", "compressed by xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"7767517\n", "a model of ncnn's", f"{_ONNX} from the framework that it comes from"),
)


def check_kind(path: Path) -> None:
    """Refuse a file of a known format other than an ONNX file or a PyTorch program.

    Raises:
        ModelFormatError: the file is of such a format; the message says which, and what to do.
        OSError: the file cannot be read.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a pipe would wait for a writer
        raise ModelFormatError(f"a model is a file, but {path} is a pipe or a device; write what it gives to a file")
    found = _foreign(path)
    if found is not None:
        raise ModelFormatError(
            f"a model is an ONNX file, or a {_PROGRAM} file of torch.export.save, but {path} is {found[0]}; {found[1]}"
        )


def is_program(path: Path) -> bool:
    """Whether the file is a PyTorch program, by its suffix or by the files in its archive."""
    return path.suffix == _PROGRAM or _members(path) == _PROGRAM


def _foreign(path: Path) -> tuple[str, str] | None:
    """What the file is, and the remedy; None if it may be a model."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for place, sign, what, remedy in _SIGNS:
        if head[place : place + len(sign)] == sign:
            return what, remedy
    if head[:1] == b"{" and path.suffix == ".json":
        return "a JSON file", _ONNX
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle, as torch.save of old versions and Python's pickle write them", _EXPORT
    size = path.stat().st_size
    if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < size:
        return "a safetensors file: weights without the network", _EXPORT
    if path.suffix == ".pb" and head[:1] == b"\x0a":
        return "a graph of TensorFlow", f"{_ONNX} with tf2onnx"
    if path.name == "saved_model.pb":
        return "a SavedModel of TensorFlow", f"{_ONNX} with tf2onnx --saved-model"
    if head[:4] == b"PK\x03\x04" and path.suffix != _PROGRAM:
        found = _members(path)
        if found == _PROGRAM:
            return None
        remedy = _EXPORT if "PyTorch" in found else f"{_ONNX} with keras.Model.export" if "Keras" in found else _UNPACK
        return found or "a damaged zip archive", remedy
    return None


def _members(path: Path) -> str:
    """What a zip archive is, by the names of the files in it; empty if it is no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return ""
    if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names):
        return _PROGRAM
    if any("/code/" in name for name in names):
        return "a TorchScript program of PyTorch's"
    if any(name.endswith("data.pkl") for name in names):
        return "a file of torch.save of PyTorch's: a state dict without its network, or a pickled module"
    if any(name.endswith("model.weights.h5") for name in names):
        return "a model of Keras"
    return "a zip archive"
