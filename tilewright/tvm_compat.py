"""Every work-around for a TVM version, each with the version and the reason. Import TVM through here first.

Nothing else in Tilewright patches TVM or sets its environment variables.
"""

from __future__ import annotations

import gc
import importlib
import math
import os
import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from tilewright.control_groups import control_groups
from tilewright.errors import TargetError
from tilewright.fetching import LOCAL_SUMS, fetch_ahead
from tilewright.fetching_ahead import fetch_steps
from tilewright.processor import count_cores
from tilewright.vector_instructions import choose_instructions, follow_pass, is_bytes, register_operators

__all__ = [
    "keep_interrupts",
    "keep_nan",
    "lean_kernels",
    "light_errors",
    "light_import",
    "light_tensor_intrinsics",
    "load_object",
    "narrow_indices",
    "plain_clip",
    "set_threads",
    "spin_briefly",
    "unchecked_schedules",
    "usable_cores",
    "wanted_threads",
]

#: Passes of TVM's pipeline that change no kernel for a CPU: they are for the threads, memories and instructions of GPUs
#: and DSPs. ``RemoveNoOp`` removes what does nothing; LLVM does that, too.
_IDLE_PASSES = (
    *("s_tir.LowerCrossThreadReduction", "s_tir.LiftThreadBinding", "s_tir.UnifyThreadBinding"),
    *("s_tir.ManifestSharedMemoryLocalStage", "s_tir.LowerAutoCopy", "s_tir.InjectPermutedLayout"),
    *("s_tir.TransformMmaBufferLayout", "s_tir.InjectDoubleBuffer", "s_tir.VerifyVTCMLimit", "s_tir.LowerVtcmAlloc"),
    *("s_tir.ThreadSync", "s_tir.InferFragment", "s_tir.LowerThreadAllreduce", "s_tir.MergeSharedMemoryAllocations"),
    *("tirx.VerifyMemory", "tirx.RemoveNoOp"),
)
#: The size of the largest buffer that is kept on the stack, in numbers: 32 vectors of 16.
_STACK_NUMBERS = 512


def usable_cores(root: Path = Path("/")) -> int:
    """How many cores this process may use: those of its affinity, and the quotas of its control groups.

    Hyper-threads of one core count once (:func:`tilewright.processor.count_cores`).

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    bound = hasattr(os, "sched_getaffinity")
    cores = count_cores(os.sched_getaffinity(0), root) if bound else (os.cpu_count() or 1)
    for group in control_groups("cpu", root):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # version 2, version 1
            with suppress(OSError, ValueError):  # "max", or no such group
                quota, period = " ".join((group / name).read_text(encoding="ascii") for name in names).split()
                if int(quota) > 0:
                    cores = min(cores, max(1, (2 * int(quota) + int(period)) // (2 * int(period))))
    return cores


def wanted_threads() -> int:
    """How many threads programs run on: as ``TVM_NUM_THREADS`` says, otherwise one for each usable core.

    Everything that is timed or tuned for takes this number: candidates, executables, other runtimes, and the target.

    Raises:
        TargetError: the variable is set to what is no number of threads.
    """
    text = os.environ.get("TVM_NUM_THREADS") or str(usable_cores())
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text):
        raise TargetError(f"TVM_NUM_THREADS is a number of threads from 1 up, but it is {text!r}; correct or unset it")
    return int(text)


def set_threads(count: int | None = None) -> None:
    """Make TVM's thread pool use ``count`` threads (default: all usable cores). Call before TVM is imported.

    TVM 0.27, x86: the pool takes half of the logical processors, as if the rest were hyper-threads, also where they
    are not. An explicit ``TVM_NUM_THREADS`` of the user's wins.
    """
    _import_without_home()
    if not os.environ.get("TVM_NUM_THREADS"):
        os.environ["TVM_NUM_THREADS"] = str(count or usable_cores())


def _import_without_home() -> None:
    """Let TVM be imported by a user whom the system does not know, and for whom ``HOME`` is not set.

    TVM 0.27: on its import ``tvm.contrib.pickle_memoize`` asks where the user's cache is, and there is no answer. It
    gets one, a place where nothing is and nothing can be made: of what TVM caches there Tilewright uses nothing.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ.setdefault("XDG_CACHE_HOME", f"{os.devnull}/no-home")


def spin_briefly() -> None:
    """Let TVM's threads sleep 1.5 ms after a kernel, where several processes take turns. Call before TVM is imported.

    TVM 0.27: by default they go on asking for work for 300,000 rounds, which is 0.22 s alone and longer with company.
    The pool binds its threads to the same cores in every process, so the next process's kernels take 2 to 3 times
    their time meanwhile. Between the regions of one kernel, or the calls of a loop, 2,000 rounds are as good: no
    spinning at all costs 20 us per region. An explicit ``TVM_THREAD_POOL_SPIN_COUNT`` of the user's wins.
    """
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "2000")


def light_errors() -> None:
    """Make TVM's errors without a C++ backtrace. Call before TVM is imported. A variable of the user's wins.

    TVM 0.27 (tvm-ffi 0.1.14): for the first error it reads the symbols of all libraries, which takes 0.5 s. Scheduling
    raises such errors regularly, and handles them.
    """
    os.environ.setdefault("TVM_TRACEBACK_LIMIT", "0")


@contextmanager
def light_import() -> Iterator[None]:
    """Let TVM be imported in 0.3 s instead of 2, unless it was before. Not to be used by several threads at once.

    TVM 0.27 (tvm-ffi 0.1.14), in seconds of one core:

    - Where PyTorch is installed it is imported first, 1.3 s and half of the memory, against a conflict of symbols that
      was seen on Windows. PyTorch can be imported later still. If it was imported before, TVM gets it.
    - ``tvm.runtime.disco`` asks for a class that is not there yet, and the GPUs' modules ask for operators that are not
      there. TVM does without them, as it does here. But the first such error makes a backtrace, and for this the
      compiler's symbols are read: 0.2 s, and a second if they are not in memory.
    - 52 modules list the names of all global functions anew, 0.1 s. None of these is registered in between by Python.
    - Python's garbage collector looks through 200,000 objects that all stay, 0.1 s.
    """
    if "tvm" in sys.modules:
        yield
        return
    absent = [name for name in ("torch", "tvm.runtime.disco") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # these imports then fail as if not installed
    collecting = gc.isenabled()
    gc.disable()
    try:
        with _without_gpus(), _names_listed_once():
            yield
    finally:
        for name in absent:
            del sys.modules[name]
        if collecting:
            gc.enable()


@contextmanager
def _without_gpus() -> Iterator[None]:
    """TVM's modules for GPUs are not imported. The library that it loads with them is: it sorts on CPUs as well.

    ``tvm.backend.loader.load("cuda")`` imports them later, for a program that uses TVM for GPUs beside Tilewright.
    """
    variable = "TVM_DEVICE_BACKEND_AUTOLOAD"
    if variable in os.environ:
        yield
        return
    os.environ[variable] = "0"
    try:
        yield
    finally:
        del os.environ[variable]
    from tvm.base import _LOADED_LIBS
    from tvm_ffi.libinfo import load_lib_ctypes

    name, place = "tvm_runtime_extra", Path(_LOADED_LIBS["tvm_runtime"]._name).resolve().parent
    with suppress(OSError, RuntimeError):  # as TVM has it
        _LOADED_LIBS[name] = load_lib_ctypes("tvm", name, "RTLD_LOCAL", extra_lib_paths=[place])


@contextmanager
def _names_listed_once() -> Iterator[None]:
    from tvm_ffi import registry

    listing = registry.list_global_func_names
    registry.list_global_func_names = cache(listing)
    try:
        yield
    finally:
        registry.list_global_func_names = listing


def keep_interrupts() -> None:
    """Let a Ctrl-C that arrives in a Python function which TVM called stay a KeyboardInterrupt.

    TVM 0.27 (tvm-ffi 0.1.14): an exception of a class that was not registered leaves TVM as a RuntimeError without a
    message. That looks like a pass that failed, which is caught in places, and the interrupt would be forgotten.
    """
    import tvm_ffi

    tvm_ffi.register_error("KeyboardInterrupt", KeyboardInterrupt)


def plain_clip() -> None:
    """Let the ONNX importer write Clip in operators of Relax.

    TVM 0.27: it writes loops, which no rewriting of layouts sees through: every Clip (the activation of MobileNets)
    then stands between two layout changes. Its care for bounds that are no numbers is dropped with them.
    """
    from tvm import relax
    from tvm.relax.frontend.onnx import onnx_frontend

    def by_attributes(_: Any, builder: Any, inputs: Any, attributes: Any, params: Any) -> Any:
        low, high = (float(attributes.get(name, bound)) for name, bound in (("min", -math.inf), ("max", math.inf)))
        return relax.op.clip(inputs[0], low, high)

    def by_inputs(_: Any, builder: Any, inputs: Any, attributes: Any, params: Any) -> Any:
        result = inputs[0]
        for bound, limit in ((inputs[1], relax.op.maximum), (inputs[2], relax.op.minimum)):
            if bound is not None:
                result = builder.normalize(limit(result, bound))
        return result

    onnx_frontend.Clip._impl_v1 = classmethod(by_attributes)
    onnx_frontend.Clip._impl_v13 = classmethod(by_inputs)


def narrow_indices(module: Any) -> Any:
    """The module with 32-bit indices, where it has 64-bit ones (as Relax makes them).

    TVM 0.27: NarrowDataType gives a loop a new variable, but not the pragma on it, so that
    ``pragma_loop_partition_hint`` names no loop any more: a tile that sticks out then keeps its conditions around
    every multiply-add, and the whole loop ran at 36 % of its speed. A module that has nothing to narrow stays as it
    is, and so does one with 64-bit data, which the pass refuses.
    """
    import tvm

    try:
        return tvm.tirx.transform.ForceNarrowIndexToInt32()(module)
    except (RuntimeError, ValueError, TypeError):
        return module


def keep_nan(module: Any) -> Any:
    """The module with max(x, 0) --> max(0, x), and min likewise, so that a NaN in x stays a NaN.

    TVM 0.27: ``max(a, b)`` is ``a > b ? a : b``, which is b if a number is NaN. Its ReLU and Clip have the constant as
    b. In the other order LLVM makes the same single instruction (``maxps`` gives its second operand), so this costs
    nothing. The maximum of two tensors keeps a NaN of the second one only. Called when a kernel is compiled: the
    programs of tasks, and so their keys, stay as they are. Prefetches (``tilewright.fetching``) are added then, too.
    """
    from tvm import tirx
    from tvm_ffi import structural_map

    choose_instructions()
    local_sums()

    def swapped(node: Any) -> Any:
        if _is_scalar(node.b) and not _is_scalar(node.a) and str(node.b.ty.dtype).startswith(("float", "bfloat")):
            return type(node)(node.b, node.a)
        return node

    made = module
    for var, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc):
            fetching = fetch_ahead(fetch_steps(function))
            body = structural_map(fetching.body, ((tirx.Max, tirx.Min), swapped))
            if not body.same_as(function.body):
                made = module.clone() if made is module else made
                made.update_func(var, fetching.with_body(body))
    return made


def local_sums() -> None:
    """Keep small buffers of functions with ``tilewright.fetching.LOCAL_SUMS``, and of bytes, on the stack.

    TVM 0.27 allocates them in its runtime. LLVM then expects other pointers to them, and stores a tile's sums before
    each prefetch. In kernels of bytes for AVX2, it stored each sum of a depthwise convolution, and loaded it again.
    """
    from tvm import tirx
    from tvm.target.codegen import target_has_features
    from tvm_ffi import structural_map

    def keep(node: Any) -> Any:
        size = math.prod(getattr(extent, "value", _STACK_NUMBERS + 1) for extent in node.buffer.ty.shape)
        own = dict(node.annotations or {}) | {"disable_lower_builtin": tirx.const(True, "bool")}
        return tirx.AllocBuffer(node.buffer, own) if size <= _STACK_NUMBERS else node

    def look(function: Any, _module: Any, _context: Any) -> Any:
        attributes = dict(function.attrs or {})
        target = attributes.get("target")
        of_bytes = target is not None and target.kind.name == "llvm" and any(map(is_bytes, function.params))
        narrow = of_bytes and target_has_features("avx2", target) and not target_has_features("avx512f", target)
        if LOCAL_SUMS not in attributes and not narrow:
            return function
        return function.with_body(structural_map(function.body, (tirx.AllocBuffer, keep)))

    follow_pass("StorageRewrite", look)


def _is_scalar(expr: Any) -> bool:
    """Whether an operand is a constant, or the element of a tensor that has only one, such as a bound of Clip."""
    from tvm import ir, tirx

    if isinstance(expr, ir.TensorLoad):
        return all(isinstance(extent, tirx.IntImm) and extent.value == 1 for extent in expr.source.ty.shape)
    return isinstance(expr, tirx.FloatImm)


def load_object(text: str) -> Any:
    """What ``tvm.ir.load_json`` reads from a text that ``tvm.ir.save_json`` has written.

    TVM 0.27: it first brings a text to the present form, in Python, and prints it again with indents. That was a third
    of the time from a network to its default schedules. A text of this very version is in the present form.
    """
    import tvm
    from tvm_ffi.serialization import from_json_graph_str

    register_operators()
    if text.endswith(f'"metadata":{{"tvm_version":"{tvm.__version__}"}}}}'):
        return from_json_graph_str(text)
    return tvm.ir.load_json(text)


def lean_kernels(checks: bool = False) -> Any:
    """A context for compiling kernels: without passes that they do not need, and without checks of their arguments.

    TVM 0.27: checking the shape, strides, type and device of each argument is most of the code of an ordinary kernel,
    and a sixth of the time that compiling it takes. Callers see to it that arguments are what the kernel takes. TVM's
    pass over common subexpressions is a fifth of its lowering; LLVM finds them again. The other passes that are left
    out are a sixth of the rest.

    Args:
        checks: whether kernels check their arguments all the same.
    """
    import tvm

    config = {} if checks else {"tirx.disable_assert": True}
    disabled = ["tirx.CommonSubexprElim", *_IDLE_PASSES]
    return tvm.transform.PassContext(opt_level=3, config=config, disabled_pass=disabled)


def unchecked_schedules() -> None:
    """Let the primitives of schedules take their arguments without comparing them with the annotations.

    TVM 0.27: the comparison, in Python, is a third of the time that scheduling a candidate takes. What is no argument
    of a primitive is refused by its own code all the same.
    """
    from tvm.s_tir import Schedule

    for name, member in list(vars(Schedule).items()):
        if hasattr(member, "__wrapped__"):
            setattr(Schedule, name, member.__wrapped__)


def light_tensor_intrinsics() -> None:
    """Stand an empty package in for ``tvm.s_tir.tensor_intrin``.

    TVM 0.27: importing it parses every CUDA intrinsic, 31 s; ``TuneContext`` and MetaSchedule's builders import it.
    Only the ``x86`` or ``arm_cpu`` submodule is of use on a CPU.
    """
    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        return
    import tvm.s_tir

    package = types.ModuleType(name)
    package.__path__ = [str(Path(tvm.s_tir.__file__).parent / "tensor_intrin")]
    sys.modules[name] = package
    tvm.s_tir.tensor_intrin = package
    importlib.import_module(name + (".arm_cpu" if os.uname().machine == "aarch64" else ".x86"))
