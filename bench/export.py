"""Times libraries for C: loading, the cost of a call, and instances side by side.

    python -m bench.export --json e.json

A network is built with default schedules and exported with its weights in a file. A program in C makes an instance and
calls it.

- ``load_ms``: making an instance, the shortest of some processes.
- ``python_load_ms``: ``load_executable`` of the same network, the shortest of some processes, without the imports.
- ``call_overhead_us``: the fastest call of the same library with kernels that do nothing.
- ``throughput_ratio``: the runs per second of four instances of one thread in one process, divided by what the cores
  allow: those of as many processes as there are cores (at most four), side by side, each with such an instance.
  The median of some turns.
- ``core_scaling``: the runs per second of these processes, divided by their number and by those of one process alone.

    python -m bench.export --elsewhere --json elsewhere.json

builds five networks for 64-bit Arm, runs their libraries by QEMU, and prints the largest error of their outputs against
ONNX Runtime's. Nothing is timed then.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx

from tilewright.cli.boundary import write_json
from tilewright.compiling.build import build
from tilewright.executable.export.library import export_library
from tilewright.executable.manifest import read_manifest
from tilewright.executable.runtime.library import find_compiler
from tilewright.frontend.load import load
from tilewright.graph.tasks import extract
from tilewright.ops.registry import make_space
from tilewright.target import Target
from tilewright.tvm_compat import usable_cores

MODEL = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
#: Processes of each kind, and instances side by side.
TURNS, INSTANCES = 5, 4
#: A program that times loading.
LOADING = """
import sys, time
from tilewright import load_executable
began = time.perf_counter()
load_executable(sys.argv[1])
print(1e3 * (time.perf_counter() - began))
"""
#: A kernel that does nothing, in the place of all.
NOTHING = "int bench_nothing(void *self, const void *arguments, int count, void *result) { return 0; }\n"


def make_executable(model: Path, out: Path) -> None:
    """Write the executable of a network with default schedules."""
    target = Target.parse()
    extraction = extract(load(model), target)
    spaces = {use.task.key: make_space(use.task, target) for use in extraction.uses}
    build(extraction, {key: space.schedule(space.default()).mod["main"] for key, space in spaces.items()}, out, {})


def make_driver(executable: Path, prefix: Path, hollow: bool) -> Path:
    """Export an executable, and compile the program that times it."""
    flags: list[str] = []
    if hollow:
        nothing = prefix.with_name("nothing.c")
        nothing.write_text(NOTHING)
        plan = read_manifest(executable)["plan"]
        assert plan is not None
        flags = [f"-D__tvm_ffi_{kernel}=bench_nothing" for kernel in {str(k) for k, _ in plan["calls"] if k}]
        flags.append(str(nothing))
    export_library(executable, prefix, "net", weights_file=True, flags=flags)
    source, program = Path(__file__).with_name("_export_driver.c"), prefix / "driver"
    places = [f"-I{prefix}/include", f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib"]
    command = [*find_compiler(), "-O2", "-pthread", str(source), *places, "-lnet", "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def time_loading(executable: Path) -> float:
    """Milliseconds of ``load_executable`` in a new process."""
    done = subprocess.run([sys.executable, "-c", LOADING, str(executable)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def time_processes(program: Path, rounds: int, count: int) -> float:
    """The runs per second of several processes side by side, each with one instance of one thread."""
    command = [str(program), str(rounds), "1", "1"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return sum(float(process.communicate()[0].split()[3]) for process in running)


def time_driver(program: Path, rounds: int, threads: int, instances: int) -> list[float]:
    """Milliseconds to load and of the first run, microseconds of the fastest run, and runs per second of all."""
    command = [str(program), str(rounds), str(threads), str(instances)]
    return list(map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="an ONNX file; by default a ResNet-50")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--elsewhere", action="store_true", help="compare outputs of libraries for 64-bit Arm instead")
    given = parser.parse_args()
    if given.elsewhere:
        from bench._elsewhere import compare_elsewhere

        found = compare_elsewhere()
        write_json(given.json, {"networks": found})
        for name, row in found.items():
            print(f"    {name:<14} error {row['error']:.2g}, {row['tasks']:.0f} tasks, {row['build_seconds']:.1f} s")
        return
    with tempfile.TemporaryDirectory() as folder:
        make_executable(given.model, Path(folder, "out"))
        program = make_driver(Path(folder, "out"), Path(folder, "c"), hollow=False)
        empty = make_driver(Path(folder, "out"), Path(folder, "hollow"), hollow=True)
        cores = min(INSTANCES, usable_cores())
        ratios, scalings, loads, python_loads = [], [], [], []
        for _ in range(TURNS):
            one = time_driver(program, given.rounds, 1, 1)
            loads.append(one[0])
            python_loads.append(time_loading(Path(folder, "out")))
            apart = time_processes(program, given.rounds, cores)
            scalings.append(apart / (one[3] * cores))
            ratios.append(time_driver(program, given.rounds, 1, INSTANCES)[3] / apart)
        overhead = min(time_driver(empty, 1000, 1, 1)[2] for _ in range(TURNS))
    result = {
        "model": given.model.stem,
        "cores": cores,
        "load_ms": min(loads),
        "python_load_ms": min(python_loads),
        "call_overhead_us": overhead,
        "throughput_ratio": statistics.median(ratios),
        "core_scaling": statistics.median(scalings),
    }
    write_json(given.json, result)
    for key, value in result.items():
        print(f"    {key:<18} {value:.4g}" if isinstance(value, float) else f"    {key:<18} {value}")


if __name__ == "__main__":
    main()
