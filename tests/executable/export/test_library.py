"""Libraries for C: their outputs, their header, their packages, and what they refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.c_libraries import build_two_buckets, compile_c, run_bare
from tests.executables import read, reseal
from tests.models import normal, runs
from tests.targets import lane_target
from tilewright.errors import OutputError, TilewrightError
from tilewright.executable.executable import load_executable
from tilewright.executable.export.library import export_library
from tilewright.executable.manifest import OBJECTS
from tilewright.executable.runtime.library import find_compiler

pytestmark = runs

CHECKS = Path(__file__).with_name("checks.c")
#: Bytes of the input in the first bucket.
SIZE = 4 * 8 * 32 * 32
#: The flags of each sanitizer. The first finding ends the program.
SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"),
    "thread": ("-fsanitize=thread", "-g", "-DFORKS=0"),
}
needs = {
    tool: pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")
    for tool in ("cmake", "pkg-config", "valgrind", "g++")
}


@pytest.fixture(scope="module")
def prefix(two_buckets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both kinds of libraries, ``net`` with weights inside and ``apart``, moved after they were exported."""
    folder = tmp_path_factory.mktemp("c")
    export_library(two_buckets, folder / "made", "net")
    export_library(two_buckets, folder / "made", "apart", weights_file=True)
    return Path(shutil.move(folder / "made", folder / "installed"))


@pytest.mark.parametrize("name", ["net", "apart"])
def test_the_example_gives_the_same_bits_without_python(
    name: str, two_buckets: Path, prefix: Path, tmp_path: Path
) -> None:
    source = prefix / "share" / "doc" / name / "example.c"
    assert len(source.read_text().splitlines()) <= 30
    done = run_bare(compile_c(source, prefix, name, tmp_path / "example"), data=(x := normal(1, 8, 32, 32)).tobytes())
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"".join(np.ascontiguousarray(y).tobytes() for y in load_executable(two_buckets)(x))
    done = run_bare(tmp_path / "example", data=x.tobytes()[:-1])
    assert (done.returncode, done.stderr) == (1, b"the inputs have more bytes\n")


def test_every_function_and_every_wrong_use(prefix: Path, tmp_path: Path) -> None:
    done = run_bare(compile_c(CHECKS, prefix, "net", tmp_path / "checks"))
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_sanitizers_find_nothing(sanitizer: str, two_buckets: Path, tmp_path: Path) -> None:
    flags = SANITIZERS[sanitizer]
    (tmp_path / "probe.c").write_text("int main(void) { return 0; }")
    probe = subprocess.run([*find_compiler(), *flags, tmp_path / "probe.c", "-o", tmp_path / "probe"], check=False)
    if probe.returncode or run_bare(tmp_path / "probe").returncode:
        pytest.skip(f"there is no {sanitizer} sanitizer here")
    export_library(two_buckets, tmp_path / "c", "net", weights_file=True, flags=(*flags, "-Wl,-z,undefs"))
    program = compile_c(CHECKS, tmp_path / "c", "net", tmp_path / "checks", flags)
    done = run_bare(program, str(tmp_path / "c" / "lib" / "net.weights"))
    assert (done.returncode, done.stderr) == (0, b"")


@needs["valgrind"]
def test_valgrind_finds_nothing(tmp_path: Path) -> None:
    out = build_two_buckets(tmp_path, lane_target(8))  # valgrind knows no AVX-512
    export_library(out, tmp_path / "c", "net")
    program = compile_c(CHECKS, tmp_path / "c", "net", tmp_path / "checks", ["-g", "-DRUNS=1", "-DFORKS=0"])
    tool = ["valgrind", "-q", "--fair-sched=yes", "--leak-check=full", "--error-exitcode=9", str(program)]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs["g++"]
def test_the_header_is_cpp_too(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "t.cc").write_text(
        "#include <net.h>\n#include <apart.h>\n"
        "int main() {\n  net_options options = NET_OPTIONS;\n  net_network *network = nullptr;\n"
        "  if (net_create(&options, &network, nullptr)) return 1;\n  net_destroy(network);\n"
        "  return apart_abi() == APART_ABI ? 0 : 1;\n}\n"
    )
    flags = ["-std=c++11", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{prefix}/include"]
    libraries = [f"-L{prefix}/lib", "-lnet", "-lapart", f"-Wl,-rpath,{prefix}/lib"]
    subprocess.run(["g++", *flags, tmp_path / "t.cc", *libraries, "-o", tmp_path / "t"], check=True)
    assert run_bare(tmp_path / "t").returncode == 0


@needs["cmake"]
def test_cmake_finds_the_package(prefix: Path, tmp_path: Path) -> None:
    shutil.copy(prefix / "share" / "doc" / "net" / "example.c", tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.10)\nproject(p C)\nfind_package(net 1 REQUIRED)\n"
        "add_executable(example example.c)\ntarget_link_libraries(example net::net)\n"
    )
    environment = os.environ | {"CMAKE_PREFIX_PATH": str(prefix)}
    for command in (["-S", str(tmp_path), "-B", str(tmp_path / "b")], ["--build", str(tmp_path / "b")]):
        subprocess.run(["cmake", *command], check=True, capture_output=True, env=environment)
    assert run_bare(tmp_path / "b" / "example", data=bytes(SIZE)).returncode == 0
    text = (tmp_path / "CMakeLists.txt").read_text()
    (tmp_path / "CMakeLists.txt").write_text(text.replace("net 1 REQ", "net 2 REQ"))
    command = ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "other")]
    assert subprocess.run(command, capture_output=True, env=environment, check=False).returncode != 0


@needs["pkg-config"]
def test_pkg_config_finds_the_package(prefix: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    command = ["pkg-config", "--cflags", "--libs", "net"]
    flags = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.split()
    source = str(prefix / "share" / "doc" / "net" / "example.c")
    subprocess.run(
        [*find_compiler(), source, *flags, f"-Wl,-rpath,{prefix}/lib", "-o", str(tmp_path / "e")], check=True
    )
    assert run_bare(tmp_path / "e", data=bytes(SIZE)).returncode == 0


def test_the_library_exports_its_header_and_nothing_else(prefix: Path) -> None:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", prefix / "lib" / "libnet.so"], capture_output=True, text=True
    )
    names = {line.split()[-1].partition("@")[0] for line in listed.stdout.splitlines()} - {"NET_1"}
    assert names
    assert all(name.startswith("net_") for name in names)


def truncate(content: bytes) -> bytes:
    return content[:-64]


def change(content: bytes) -> bytes:
    return content[:20] + b"?" + content[21:]


@pytest.mark.parametrize(
    ("damage", "says"),
    [(None, "cannot be read: No such file"), (truncate, "has 8512 bytes instead of"), (change, "of another network")],
    ids=["missing", "truncated", "another"],
)
def test_weights_that_are_not_the_networks(
    damage: Callable[[bytes], bytes] | None, says: str, prefix: Path, tmp_path: Path
) -> None:
    here = shutil.copytree(prefix, tmp_path / "c")
    weights = here / "lib" / "apart.weights"
    content = weights.read_bytes()
    weights.unlink()
    if damage is not None:
        weights.write_bytes(damage(content))
    done = run_bare(compile_c(here / "share/doc/apart/example.c", here, "apart", tmp_path / "e"), data=bytes(SIZE))
    assert done.returncode == 1
    assert says.replace("8512", str(len(content) - 64)) in done.stderr.decode()
    assert str(weights) in done.stderr.decode()


def test_a_link_to_the_library_leads_to_its_weights(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libapart.so").symlink_to(prefix / "lib" / "libapart.so")
    (tmp_path / "include").symlink_to(prefix / "include")
    program = compile_c(prefix / "share/doc/apart/example.c", tmp_path, "apart", tmp_path / "e")
    done = run_bare(program, data=bytes(SIZE))
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_instruction_that_the_processor_lacks_is_named(two_buckets: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(two_buckets, tmp_path / "out"))
    manifest = read(out)
    manifest["target"]["features"] += ["no-such-extension", "another"]
    reseal(out, manifest)
    export_library(out, tmp_path / "c", "net")
    done = run_bare(
        compile_c(tmp_path / "c/share/doc/net/example.c", tmp_path / "c", "net", tmp_path / "e"), data=bytes(SIZE)
    )
    assert done.returncode == 1
    assert "a processor with no-such-extension, another, but" in done.stderr.decode()


def refuse(out: Path, change: Callable[[dict[str, Any]], object], says: str, to: Path) -> None:
    manifest = read(out)
    change(manifest)
    reseal(out, manifest)
    with pytest.raises(OutputError, match=says):
        export_library(out, to, "net")
    assert not to.exists()


def test_what_cannot_be_exported_says_why(shared: Path, tmp_path: Path) -> None:
    for number, (change, says) in enumerate(
        (
            (lambda manifest: manifest["sha256"].pop(OBJECTS), "an earlier version of Tilewright wrote it; tune again"),
            (lambda manifest: manifest.update(plan=None), "runs on TVM's virtual machine, since its network calls"),
        )
    ):
        refuse(Path(shutil.copytree(shared, tmp_path / f"{number}")), change, says, tmp_path / "c")


@pytest.mark.parametrize("name", ["", "2net", "my-net", "a" * 64, "math", "C", "timer", "tilewright", "nét", "net\n"])
def test_names_that_cannot_be_a_library(name: str, shared: Path, tmp_path: Path) -> None:
    with pytest.raises(TilewrightError, match="--name is a name in C of at most 63 letters"):
        export_library(shared, tmp_path / "c", name)


def test_a_name_in_capitals(shared: Path, tmp_path: Path) -> None:
    exported = export_library(shared, tmp_path, "NET")
    (tmp_path / "t.c").write_text("#include <NET.h>\nint main(void) { return NET_abi() != NET_ABI; }\n")
    assert run_bare(compile_c(tmp_path / "t.c", tmp_path, "NET", tmp_path / "t")).returncode == 0
    assert exported.library.name == "libNET.so"


def test_an_export_takes_the_place_of_an_earlier_one(shared: Path, two_buckets: Path, tmp_path: Path) -> None:
    (tmp_path / "c" / "lib").mkdir(parents=True)
    (tmp_path / "c" / "lib" / "mine.txt").write_text("kept")
    export_library(two_buckets, tmp_path / "c", "net")
    exported = export_library(shared, tmp_path / "c", "net")
    assert "Bucket" not in exported.header.read_text()
    assert (tmp_path / "c" / "lib" / "mine.txt").read_text() == "kept"
    assert not [path for path in (tmp_path / "c").rglob("*") if path.name.startswith(".")]
