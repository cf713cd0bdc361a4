"""A compiled model in training: its graphs, their parts, and who runs them."""

from __future__ import annotations

import contextlib
import logging
import pickle
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from tilewright.training.boxing import Boxed, box, hand_over
from tilewright.training.cache import find_folder, keep_proof, key_of, load_cached
from tilewright.training.course import Course
from tilewright.training.cuts import Cuts
from tilewright.training.lengths import StepLengths
from tilewright.training.live import LivePart, adopt, first_line
from tilewright.training.options import Options
from tilewright.training.orders import Order, Request
from tilewright.training.parts import divide
from tilewright.training.progress import Progress
from tilewright.training.recording import name_values
from tilewright.training.results import Kind
from tilewright.training.saved import find_kept, show_plain
from tilewright.training.support import explain, is_heavy
from tilewright.training.worker import find_worker

if TYPE_CHECKING:
    from torch import fx

__all__ = ["Session", "StepGraph"]

#: The share of the budget that is spent on a graph. A backward pass has twice the arithmetic of a forward pass.
_SHARES: dict[Kind, float] = {"forward": 1 / 3, "backward": 2 / 3, "inference": 1.0}

_log = logging.getLogger("tilewright.training")


@dataclass
class StepGraph:
    """A graph of a step.

    Attributes:
        kind: what it computes.
        parts: what is compiled of it.
        rest: how many operators PyTorch runs besides, by name.
        steps: how often it ran.
        progress: is told of its steps.
        lengths: of the steps that begin with it. A backward pass belongs to the step of its forward pass.
        course: the times of these steps.
    """

    kind: Kind
    parts: tuple[LivePart, ...]
    rest: Mapping[str, int]
    steps: int = 0
    progress: Progress | None = None
    lengths: StepLengths = field(default_factory=StepLengths)
    course: Course = field(default_factory=Course)


class Session:
    """A model that is compiled, with one session for each graph of Dynamo's.

    Args:
        options: of the backend.
        examples: what the graph is called with.

    Attributes:
        options: of the backend.
        graphs: the graphs of its steps, as far as PyTorch has asked for them.
    """

    def __init__(self, options: Options, examples: Sequence[object]) -> None:
        self.options = options
        self._parameters = WeakTensorKeyDictionary()
        for example in examples:
            if isinstance(example, torch.nn.Parameter):
                self._parameters[example] = None
        self.graphs: list[StepGraph] = []
        #: Says of parts that they belong to one step.
        self._token = object()
        #: The names of tensors that stay in blocks between parts of both passes.
        self._kept: frozenset[str] = frozenset()
        self._cuts = Cuts()

    def start(self) -> None:
        """Start what prepares parts, if there will be some: nothing is in the cache yet."""
        folder = find_folder(self.options)
        if self.options.mode == "background" and (folder is None or not folder.exists()):
            with contextlib.suppress(Exception):  # said when a part needs it
                find_worker(self.options, self.threads).start()

    def compile(self, kind: Kind, module: fx.GraphModule, examples: Sequence[object]) -> Boxed:
        """A function that computes a graph of a step. It is PyTorch's own whatever fails.

        Args:
            kind: what the graph computes.
            module: the graph, as AOTAutograd makes it.
            examples: stand-ins for what it takes.
        """
        try:
            why = explain(module)
            name_values(module, kind == "backward")
            whole, parts = divide(module, None if kind == "inference" else partial(self._cuts.cut, kind == "backward"))
            names = [part.name for part in parts]
            self._kept |= find_kept(whole, names)
            show_plain(whole, names)
            live = tuple(LivePart(part, f"{kind} part {place}", self._kept) for place, part in enumerate(parts))
            hand_over(whole, names)
            for part in live:
                setattr(whole, part.part.name, part)
        except Exception as error:
            _log.warning("the %s pass stays with PyTorch: %s", kind, first_line(error))
            return self._box(module, StepGraph(kind, (), _count_operators(module)))
        if why and not any(map(is_heavy, module.graph.nodes)):
            _log.info("all of the %s pass stays with PyTorch: %s", kind, why)  # there is nothing to be gained
        elif why:
            _log.warning("%s the %s pass stays with PyTorch: %s", "part of" if live else "all of", kind, why)
        graph = StepGraph(kind, live, _count_operators(whole), lengths=StepLengths(kind == "inference"))
        self.graphs.append(graph)
        try:
            self._request(graph)
        except Exception as error:  # no file can be written, for example
            for part in live:
                part.leave(first_line(error))
        return self._box(whole, graph)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """Of the models that the graph was called with. Dynamo makes one graph for all models of a class."""
        return list(self._parameters)

    def note_models(self, examples: Sequence[object], run: Callable[..., object]) -> Callable[..., object]:
        """A function that runs the graph, and notes whose parameters it is called with.

        Args:
            examples: what the graph is called with at first.
            run: runs the graph.
        """
        places = [place for place, example in enumerate(examples) if isinstance(example, torch.nn.Parameter)]
        last: list[weakref.ref[torch.nn.Parameter]] = [weakref.ref(examples[place]) for place in places]

        def call(*arguments: object) -> object:
            if any(known() is not arguments[place] for known, place in zip(last, places, strict=True)):
                given = [arguments[place] for place in places]
                last[:] = map(weakref.ref, given)
                self._parameters.update(dict.fromkeys(given))
            return run(*arguments)

        return call

    @property
    def threads(self) -> int:
        """On which kernels run."""
        return self.options.threads or torch.get_num_threads()

    def _request(self, graph: StepGraph) -> None:
        """Have the parts of a graph prepared: now, or while the model trains."""
        total = sum(len(part.part.operators) for part in graph.parts)
        threads = self.threads
        worker, folder = find_worker(self.options, threads), find_folder(self.options)
        graph.progress = worker.progress
        graph.progress.add(graph.parts)
        for part in graph.parts:
            seconds = self.options.seconds * _SHARES[graph.kind] * len(part.part.operators) / total
            try:
                key = key_of(part.part.module, part.inputs, part.outputs, threads)
                cached = None
                if folder is not None:
                    part.keep_proofs(partial(keep_proof, folder, key))
                    cached = load_cached(folder, key, threads)
                if cached is not None:
                    part.tasks |= cached.tasks
                    if cached.proof is None:
                        part.offer(cached.executable)
                    else:
                        part.trust(cached.executable, cached.proof)
                    if self.options.mode == "cached" or cached.spent >= self.options.seconds:
                        continue
                module = pickle.dumps(part.part.module)
            except Exception as error:
                part.leave(f"it cannot be handed to the process that compiles it: {first_line(error)}")
                continue
            if self.options.mode == "background":
                seconds = 0.0
            request = Request(part.part.name, module, part.inputs, part.outputs, seconds, key)
            order = Order(request, part, None if cached is None else cached.spent, self._token)
            if self.options.mode == "now":
                worker.prepare(order)
            else:
                worker.enqueue(order)

    def _box(self, module: fx.GraphModule, graph: StepGraph) -> Boxed:
        """A function that empties the list of its arguments, so that no tensor is kept longer than it is needed."""
        # The function keeps the session, which is there as long as PyTorch may call it.
        call = partial(self._run, graph, box(module))
        call._boxed_call = True  # type: ignore[attr-defined]  # what AOTAutograd looks for
        return call

    def _run(self, graph: StepGraph, run: Boxed, arguments: list[object]) -> object:
        graph.steps += 1
        if graph.progress is None:
            return run(arguments)
        if graph.kind != "backward":
            parts = [part for each in self.graphs for part in each.parts]
            graph.lengths.ours = sum(part.counts.ours for part in parts)
            seconds = graph.progress.begin_step(graph.lengths, any(part.is_longer for part in parts))
            graph.course.note(seconds, graph.progress.slots.seconds, parts)
            adopt(parts)
        with graph.progress.run():
            return run(arguments)


def _count_operators(module: fx.GraphModule) -> Counter[str]:
    """How often PyTorch runs each operator of a graph, by name: those of its parts are not among them."""
    targets = [node.target for node in module.graph.nodes if node.op == "call_function"]
    return Counter(str(target).removeprefix("aten.") for target in targets if hasattr(target, "_schema"))
