"""PyTorch's ``.pt2`` files as others may have made them: what would run as code is refused before PyTorch reads them.

``torch.export.load`` is no reader of data. It unpickles what a file marks as pickled, loads compiled libraries, lets
SymPy evaluate the expressions of symbolic shapes, looks up the functions that nodes name, and makes Python code of
guards and of the names of arguments, which it executes. None of that is needed for a network of ATen's operators on
tensors of fixed shapes, so a file with any of it is refused.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from pathlib import Path
from typing import Any

from tilewright.errors import ShapeError
from tilewright.reading import open_regular, parse_json

__all__ = ["check_program"]

#: The description of a network is text, a few kilobytes for each operator.
_MOST_JSON = 1 << 28
#: Files of an archive, without the folder that all are in: plain names of data.
_MEMBER = re.compile(
    r"models/model\.json|data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+)"
    r"|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|\.data/\w+|\.format_version"
    r"|\.storage_alignment|version|extra/[\w./-]+|extra_files/[\w./-]+"
    # As PyTorch before 2.8 wrote it.
    r"|serialized_exported_program\.json|serialized_(state_dict|constants|example_inputs)\.pt"
)
#: What a node may call.
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|higher_order)\.\w+(\.\w+)?|_operator\.\w+|math\.\w+|torch\.sym_\w+"
)
#: Reads and writes files.
_REFUSED_TARGETS = re.compile(r"torch\.ops\.aten\.(from_file|_?save|_?load)\b.*")
#: Names and words, which stay words where Python code is made of them.
_WORD = re.compile(r"[\w.:+ -]*")
#: How inputs and outputs may be nested.
_NESTS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None)


def check_program(path: Path) -> None:
    """Refuse a file that PyTorch would not only read.

    Raises:
        OSError: it cannot be opened.
        ValueError, TypeError, LookupError, zipfile.BadZipFile: it is none of ``torch.export.save``, or holds code.
        ShapeError: a shape is symbolic.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        # PyTorch has a reader of its own: where the two could see different members, there is something to hide.
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
    """Raise ``ValueError`` where PyTorch's restricted unpickler, which runs nothing, does not take the content."""
    import torch

    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as exc:  # pickle's, zip's and PyTorch's own
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:120]
        raise ValueError(f"{name} holds more than tensors: {line}") from exc


def _check_payloads(config: Any, folder: str, sizes: dict[str, int]) -> None:
    """Raise where a weight is pickled, elsewhere, or declares elements that the file does not have."""
    for entry in config["config"].values():
        name, meta = f"{folder}/{entry['path_name']}", entry["tensor_meta"]
        if entry["use_pickle"] is not False or "/" in entry["path_name"] or name not in sizes:
            raise ValueError(f"its part {entry['path_name']!r:.80} is pickled, or not there")
        extents = [extent.get("as_int") for extent in meta["sizes"]]
        if any(type(extent) is not int or extent < 0 for extent in extents):
            raise ShapeError(f"every tensor has a fixed shape, but that of {entry['path_name']!r:.80} is symbolic")
        if sizes[name] == 0 and math.prod(extents):
            raise ValueError(f"its part {entry['path_name']!r:.80} is empty, but declares {extents!r:.80}")


def _check_words(value: Any, key: str = "") -> None:
    """Raise where a text could become more than a word: where PyTorch evaluates it, or makes code of it."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_text(name)
            # What nodes remember of their origin is for people.
            if name != "metadata":
                _check_words(item, name)
            elif not all(isinstance(text, str) for text in item.values()):
                raise ValueError("its metadata are no texts")
    elif isinstance(value, list):
        if key == "guards_code" and value:
            raise ValueError("it has guards, which are code; export the model with fixed shapes")
        for item in value:
            _check_words(item, key)
    elif isinstance(value, str):
        if key == "expr_str":
            raise ShapeError(
                f"every tensor has a fixed shape, but this has {value[:40]!r}; export it with fixed shapes"
            )
        if key == "target" and not (_TARGET.fullmatch(value) and not _REFUSED_TARGETS.fullmatch(value)):
            raise ValueError(f"a node calls {value[:80]!r}, which is no operator of ATen's")
        if key in ("in_spec", "out_spec"):
            _check_spec(parse_json(value))
        else:
            _check_text(value)


def _check_text(text: str) -> None:
    if not _WORD.fullmatch(text):
        raise ValueError(f"it has the text {text[:80]!r} where a word is expected")


def _check_spec(spec: Any) -> None:
    """Raise where inputs or outputs are of classes that are not Python's own, which would have to be imported."""
    if isinstance(spec, list):
        for item in spec:
            _check_spec(item)
    elif isinstance(spec, dict):
        if spec["type"] not in _NESTS:
            raise ValueError(f"its inputs or outputs are of the class {spec['type']!r:.80}; export it with tuples")
        context = spec["context"]
        _check_words(parse_json(context) if isinstance(context, str) else context)
        _check_spec(spec["children_spec"])
