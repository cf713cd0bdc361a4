"""Builds executables of one network in directories of their own, and has each of them judged."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tilewright.compiling.build import build, replace_kernels
from tilewright.compiling.kernels import Kernels
from tilewright.errors import CheckError, CompilerError, OutputError, SpaceError
from tilewright.graph.buckets import Extracted, combine
from tilewright.graph.left_out import leave_out_all
from tilewright.graph.tasks import extract
from tilewright.ops.registry import make_space
from tilewright.space.guard import guard_space
from tilewright.tuning.selection import Selection
from tilewright.verify.checker import Checker
from tilewright.verify.verdict import Outcome, Verdict

__all__ = ["JudgedExecutable", "Workshop"]


@dataclass(frozen=True)
class JudgedExecutable:
    """An executable that could be published: built, judged, and not wrong.

    Attributes:
        folder: its directory.
        extraction: the network as it was rewritten for it.
        selection: the schedule of each task.
        verdict: right, or not decidable.
        replaced: keys of tasks that had spoiled the outputs and were given their default schedules.
        seconds: that compiling and writing it took.
    """

    folder: Path
    extraction: Extracted
    selection: Selection
    verdict: Verdict
    replaced: tuple[str, ...] = ()
    seconds: float = 0.0


class Workshop:
    """Builds executables of one network, and has each of them judged.

    Args:
        extraction: the network.
        checker: judges the executables.
        aside: a directory for files, which outlives the candidates.
        name: of this workshop's files; two in one directory have two names.
    """

    def __init__(self, extraction: Extracted, checker: Checker, aside: Path, name: str) -> None:
        self.extraction = extraction
        self.kernels = Kernels(extraction, aside / f"{name}-kernels")
        self._checker, self._aside, self._name = checker, aside, name
        self._count = 0
        self._first: Path | None = None

    def build(self, selection: Selection) -> JudgedExecutable:
        """Build an executable of a selection.

        Tasks whose programs cannot be compiled get TVM's own programs. Tasks that spoil the outputs get their defaults,
        then TVM's programs.

        Raises:
            CompilerError: compiling or linking failed.
            OutputError: the directory for files cannot be written.
            CheckError: the outputs are still wrong after that.
        """
        began = time.monotonic()
        try:
            folder = self._made(selection)
        except CompilerError:  # perhaps a schedule is to blame
            repaired = self._untuned(selection, self.kernels.find_failing(selection.functions))
            if repaired is None:
                raise
            selection = repaired
            folder = self._made(selection)
        seconds = time.monotonic() - began
        verdict = self._checker.judge(folder)
        replaced: list[str] = []
        stage = "it was not looked for"
        for repair in (self._defaults, self._untuned):
            if verdict.outcome is not Outcome.WRONG:
                break
            guilty = self._checker.find_culprits(folder, self.extraction)
            stage, repaired = guilty.stage, repair(selection, guilty.tasks)
            if repaired is None:
                break
            selection = repaired
            replaced += [key for key in guilty.tasks if key not in replaced]
            folder = self._made(selection)
            verdict = self._checker.judge(folder)
        if verdict.outcome is Outcome.WRONG:
            raise CheckError(self._complaint(verdict, replaced, stage), report={"verdict": verdict.report()})
        return JudgedExecutable(folder, self.extraction, selection, verdict, tuple(replaced), seconds)

    def build_runtime(self) -> JudgedExecutable | None:
        """Build and judge an executable that is ONNX Runtime on the whole model, in all buckets.

        None if there is no ONNX model, or if the network is that already.

        Raises:
            CheckError: ONNX Runtime's outputs are wrong.
            TilewrightError: it cannot be built.
        """
        parts = self.extraction.parts
        if any(part.network.onnx is None for part in parts) or not self.extraction.uses:
            return None
        why = "ONNX Runtime is faster on the whole model"
        whole = [extract(leave_out_all(part.network, why), part.target) for part in parts]
        built = self._build_other(combine(whole, self.extraction.shares), Selection(), "runtime")
        if built.verdict.wrong:
            raise CheckError(
                "its outputs on the whole model are further from the reference than Tilewright's own rule allows: "
                f"{built.verdict.evidence}"
            )
        return built

    def mix(self, one: JudgedExecutable, other: JudgedExecutable, buckets: Collection[int]) -> JudgedExecutable | None:
        """Build and judge an executable that is ``other`` in some buckets, and ``one`` elsewhere; None if it is wrong.

        Args:
            one: an executable of the network in several buckets.
            other: another one, in the same buckets.
            buckets: the numbers of buckets.
        """
        parts = [
            (other if bucket in buckets else one).extraction.parts[bucket]
            for bucket in range(len(one.extraction.parts))
        ]
        built = self._build_other(combine(parts, one.extraction.shares), one.selection, "mixed")
        return None if built.verdict.wrong else built

    def _build_other(self, extraction: Extracted, selection: Selection, name: str) -> JudgedExecutable:
        """Build and judge an executable of another extraction. It may be wrong."""
        began = time.monotonic()
        folder = self._aside / f"{self._name}-{name}"
        build(extraction, selection.functions, folder, {}, Kernels(extraction, self._aside / f"{folder.name}-kernels"))
        seconds = time.monotonic() - began
        return JudgedExecutable(folder, extraction, selection, self._checker.judge(folder), (), seconds)

    def _made(self, selection: Selection) -> Path:
        """The directory of an executable of a selection. All of this workshop share one copy of the weights."""
        folder = self._folder()
        if self._first is None:
            build(self.extraction, selection.functions, folder, {}, self.kernels)
            self._first = folder
        else:
            library = self.kernels.library(selection.functions, self._aside / f"{folder.name}.so")
            replace_kernels(self._first, library, folder)
        return folder

    def exchange(self, candidate: JudgedExecutable, selection: Selection) -> JudgedExecutable | None:
        """The candidate with the kernels of another selection; None where that cannot be built, or is wrong."""
        began = time.monotonic()
        try:
            folder = self._made(selection)
        except (CompilerError, OutputError):
            return None
        seconds = time.monotonic() - began
        verdict = self._checker.judge(folder)
        if verdict.outcome is Outcome.WRONG:
            return None
        return JudgedExecutable(folder, self.extraction, selection, verdict, candidate.replaced, seconds)

    def _folder(self) -> Path:
        self._count += 1
        return self._aside / f"{self._name}-{self._count}"

    def _names(self, keys: Sequence[str]) -> list[str]:
        names = {use.task.key: use.task.name for use in self.extraction.uses}
        return [names[key] for key in keys]

    def _defaults(self, selection: Selection, keys: Sequence[str]) -> Selection | None:
        """The selection with the defaults of some tasks, or with TVM's own programs if all of them have their defaults.

        None if they have TVM's programs already.
        """
        tasks = {use.task.key: use.task for use in self.extraction.uses}
        functions = dict(selection.functions)
        for key in set(keys) & set(selection.tuned):
            try:
                with guard_space(f"the design space of {tasks[key].name!r}"):
                    space = make_space(tasks[key], self.extraction.target)
                    functions[key] = space.schedule(space.default()).mod["main"]
            except SpaceError:
                functions.pop(key, None)
        changed = replace(selection, functions=functions).mark_default(keys)
        return changed if set(keys) & set(selection.tuned) else self._untuned(selection, keys)

    def _untuned(self, selection: Selection, keys: Sequence[str]) -> Selection | None:
        """The selection with TVM's own programs for some tasks; None where these are what it has already."""
        functions = {key: function for key, function in selection.functions.items() if key not in keys}
        if len(functions) == len(selection.functions):
            return None
        return replace(selection, functions=functions).mark_default(keys)

    def _complaint(self, verdict: Verdict, replaced: Sequence[str], stage: str) -> str:
        blamed = f", also with the default schedules of {', '.join(self._names(replaced))}" if replaced else ""
        return (
            f"an executable computes what its model computes, but these outputs are wrong{blamed}: "
            f"{verdict.evidence}; cause: {stage}; this is a bug in Tilewright, please report it with the model"
        )
