"""Checks PyTorch's ``.pt2`` files, and refuses those from which PyTorch would run code.

``torch.export.load`` does more than read data:

- it unpickles what a file marks as pickled, and loads compiled libraries;
- it lets SymPy evaluate the expressions of symbolic shapes, which are arithmetic here;
- it looks up the functions that nodes name;
- it makes Python code of guards and of the names of arguments, and executes it.

A network of ATen's operators needs no more than arithmetic of symbols, so a file with more is refused.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import TypedDict

from tilewright.errors import ShapeError
from tilewright.jsonable import Json
from tilewright.reading import open_regular, parse_json

__all__ = ["check_program"]

#: The most bytes of a description of a network. It has a few kilobytes for each operator.
_MOST_JSON = 1 << 28
#: The names of an archive's files that hold data, without the directory that all of them are in.
_MEMBER = re.compile(
    r"models/model\.json|data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+)"
    r"|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|\.data/\w+|\.format_version"
    r"|\.storage_alignment|version|extra/[\w./-]+|extra_files/[\w./-]+"
    # PyTorch before 2.8 wrote these.
    r"|serialized_exported_program\.json|serialized_(state_dict|constants|example_inputs)\.pt"
)
#: The functions that a node may call.
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|higher_order)\.\w+(\.\w+)?|_operator\.\w+|math\.\w+|torch\.sym_\w+"
)
#: The operators that read and write files.
_REFUSED_TARGETS = re.compile(r"torch\.ops\.aten\.(from_file|_?save|_?load)\b.*")
#: Texts that remain words when Python code is made of them.
_WORD = re.compile(r"[\w.:+ -]*")
#: An extent that is computed from symbols, as SymPy writes it: symbols, integers, and a few functions of them. SymPy
#: evaluates such a text, so nothing else may be in it.
_EXPRESSION = re.compile(
    r"(Symbol\('[su]\d{1,9}'(, (positive|integer|nonnegative)=(True|False)){0,3}\)"
    r"|(Integer|Mul|Add|FloorDiv|Mod|PythonMod|CleanDiv|Max|Min)\(|-?\d{1,18}|, |\))+"
)
#: The most characters of such a text.
_MOST_EXPRESSION = 1000
#: The classes in which inputs and outputs may be nested.
_NESTS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None)


class _TensorMeta(TypedDict):
    sizes: list[dict[str, int]]


class _Payload(TypedDict):
    path_name: str
    use_pickle: bool
    tensor_meta: _TensorMeta


class _Payloads(TypedDict):
    """The list of weights as PyTorch writes it. A file may hold anything else."""

    config: dict[str, _Payload]


def check_program(path: Path) -> None:
    """Refuse a file from which PyTorch would run code.

    Raises:
        OSError: the file cannot be opened.
        ValueError, TypeError, LookupError, AttributeError, zipfile.BadZipFile: ``torch.export.save`` does not write
            such a file, or it holds code.
        ShapeError: a shape is symbolic.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        # PyTorch has a reader of its own. An archive in which the two readers could see different members is refused.
        file.seek(-22, io.SEEK_END)
        if archive.comment or min(m.header_offset for m in members) or file.read(4) != b"PK\x05\x06":
            raise ValueError("its archive has something before or after it")
        if len({m.filename for m in members}) < len(members):
            raise ValueError("its archive has a member twice")
        if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members):
            raise ValueError("its archive is compressed")
        heads = {m.filename.partition("/")[0] for m in members}
        stem = heads.pop() + "/" if len(heads) == 1 else ""
        sizes = {m.filename[len(stem) :]: m.file_size for m in members}
        for name in sizes:
            if not _MEMBER.fullmatch(name) or ".." in name:
                raise ValueError(f"it has a part {name!r:.80}, which is no data of a network")
            if name.endswith(".pt"):
                _check_pickle(archive.read(stem + name), name)
            elif name.endswith(".json"):
                found = parse_json(archive.read(stem + name), _MOST_JSON)
                if name.endswith("config.json"):
                    _check_payloads(found, name.rpartition("/")[0], sizes)
                else:
                    _check_words(found)


def _check_pickle(content: bytes, name: str) -> None:
    """Raise ``ValueError`` if PyTorch's restricted unpickler, which runs no code, refuses the content."""
    import torch

    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as exc:  # the errors of pickle, zipfile and PyTorch share no base class
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:120]
        raise ValueError(f"{name} holds more than tensors: {line}") from exc


def _check_payloads(config: _Payloads, folder: str, sizes: dict[str, int]) -> None:
    """Raise if a weight is pickled, lies elsewhere, or declares elements that its file does not have.

    Args:
        config: the list of weights.
        folder: the directory of the weights in the archive.
        sizes: the sizes of the archive's files in bytes, by name.
    """
    for entry in config["config"].values():
        name, meta = f"{folder}/{entry['path_name']}", entry["tensor_meta"]
        if entry["use_pickle"] is not False or "/" in entry["path_name"] or name not in sizes:
            raise ValueError(f"its part {entry['path_name']!r:.80} is pickled, or not there")
        found = [extent.get("as_int") for extent in meta["sizes"]]
        extents = [extent for extent in found if type(extent) is int and extent >= 0]
        if len(extents) < len(found):
            raise ShapeError(f"every tensor has a fixed shape, but that of {entry['path_name']!r:.80} is symbolic")
        if sizes[name] == 0 and 0 not in extents:
            raise ValueError(f"its part {entry['path_name']!r:.80} is empty, but declares {extents!r:.80}")


def _check_words(value: Json, key: str = "") -> None:
    """Raise if PyTorch would evaluate a text in ``value``, or make code of it, and the text is more than a word.

    Args:
        value: a part of a network's description.
        key: the key of this part in the object around it.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            _check_text(name)
            # Metadata tell people where a node comes from.
            if name != "metadata":
                _check_words(item, name)
            elif not isinstance(item, dict) or not all(isinstance(text, str) for text in item.values()):
                raise ValueError("its metadata are no texts")
    elif isinstance(value, list):
        if key == "guards_code" and value:
            raise ValueError("it has guards, which are code; export the model with fixed shapes")
        for item in value:
            _check_words(item, key)
    elif isinstance(value, str):
        if key == "expr_str":
            if len(value) > _MOST_EXPRESSION or not _EXPRESSION.fullmatch(value):
                raise ValueError(f"an extent is computed by {value[:80]!r}, which is more than arithmetic of symbols")
            return
        if key == "target" and not (_TARGET.fullmatch(value) and not _REFUSED_TARGETS.fullmatch(value)):
            raise ValueError(f"a node calls {value[:80]!r}, which is no operator of ATen's")
        if key in ("in_spec", "out_spec"):
            _check_spec(parse_json(value))
        else:
            _check_text(value)


def _check_text(text: str) -> None:
    if not _WORD.fullmatch(text):
        raise ValueError(f"it has the text {text[:80]!r} where a word is expected")


def _check_spec(spec: Json) -> None:
    """Raise if inputs or outputs are nested in other classes than Python's own. PyTorch would import these."""
    if isinstance(spec, list):
        for item in spec:
            _check_spec(item)
    elif isinstance(spec, dict):
        if spec["type"] not in _NESTS:
            raise ValueError(f"its inputs or outputs are of the class {spec['type']!r:.80}; export it with tuples")
        context = spec["context"]
        _check_words(parse_json(context) if isinstance(context, str) else context)
        _check_spec(spec["children_spec"])
