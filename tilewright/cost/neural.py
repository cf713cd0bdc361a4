"""What neural cost models share: labels, losses, training, and weights that can be stored."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.model import Programs
from tilewright.cost.xgb import relative_throughput
from tilewright.errors import MissingExtraError, TilewrightError

__all__ = ["FEATURE_VERSION", "Loss", "NeuralModel", "State", "torch_threads"]

#: Counted up whenever features, graphs or layers change, so that weights of before are refused.
FEATURE_VERSION = 1
#: What training minimises: misordered pairs within a task, or the squared error of the relative throughput.
Loss: TypeAlias = Literal["rank", "regression"]
#: A model as arrays, for ``save_model``: how it was made, the inputs' mean and scale, and the weights.
State: TypeAlias = dict[str, NDArray[Any]]

_LOSSES = ("rank", "regression")
#: Programs of one step of training; with the loss ``rank`` all their pairs count.
_BATCH = 32
#: Weights there are do not have far to go: of the first learning rate, what a warm fit begins with.
_WARM_RATE = 0.3
#: More hidden layers than any model has.
_MOST_LAYERS = 64
#: Standardised inputs beyond this are cut off: a task can lie far from those that were learnt from.
_FARTHEST = 5.0


class NeuralModel(ABC):
    """A network fitted to throughput relative to the task's best, failures as 0.

    With the loss ``rank`` it minimises the logistic loss of each pair of programs of a task (RankNet, Burges et al.
    2005), weighted by how much the two throughputs differ, so that the order of the fast ones counts most, and that of
    two measurements which differ by noise hardly at all. Trained with Adam, whose rate falls to 0 along a half cosine.

    Args:
        loss: ``rank`` or ``regression``.
        seed: of the first weights and of the order of training.
        threads: of PyTorch, to fit and to predict.
        epochs: how often training sees each program; more often if that makes fewer than ``least_steps``.
        least_steps: of gradient descent, unless a fit starts from weights there are. Of 200 toy programs a graph
            network learnt 79 to 86 % of the order of pairs in 100 steps and 86 to 88 % in 250.
        warm_epochs: the same, where it starts from weights there are.
        hidden: sizes of the hidden layers.
        rate: Adam's first learning rate.
        warm: whether a fit starts from the weights there are and keeps their scaling of the inputs. Otherwise it
            replaces what was learnt before.

    Raises:
        TilewrightError: a loss that does not exist.
    """

    name: ClassVar[str]

    def __init__(
        self,
        loss: Loss = "rank",
        *,
        seed: int = 0,
        threads: int = 1,
        epochs: int = 15,
        least_steps: int = 250,
        warm_epochs: int = 2,
        hidden: tuple[int, ...] = (64, 64),
        rate: float = 1e-2,
        warm: bool = False,
    ) -> None:
        if loss not in _LOSSES:
            raise TilewrightError(f"the loss of a cost model is one of {', '.join(_LOSSES)}, but this is {loss!r}")
        self.loss: Loss = loss
        self.warm = warm
        self._seed = seed
        self._threads = threads
        self._epochs = epochs
        self._least_steps = least_steps
        self._warm_epochs = warm_epochs
        self._hidden = tuple(hidden)
        self._rate = rate
        self._net: Any = None
        self._scaling: State = {}

    @property
    def ready(self) -> bool:
        """Whether it was fitted to something that has an order."""
        return self._net is not None

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        """Learn from measurements.

        Measurements without any difference (none at all, or nothing but failures) leave a model unready, or a warm
        one as it was.

        Args:
            programs: one entry per task, of one kind and width.
            seconds: per task ``(n,)`` latencies in seconds; nan: the candidate failed.

        Raises:
            TilewrightError: programs of different widths, or not one latency per program.
            MissingExtraError: PyTorch, or what else the model needs, is not installed.
        """
        tasks = [(p, relative_throughput(s)) for p, s in zip(programs, seconds, strict=True) if len(s) > 0]
        if any(len(p) != len(labels) for p, labels in tasks):
            shapes = ", ".join(f"{len(p)} with {len(labels)} latencies" for p, labels in tasks)
            raise TilewrightError(f"a cost model is fitted to programs, each with its latency, but these are {shapes}")
        # A task whose programs are all alike has no order to teach.
        tasks = [(p, labels) for p, labels in tasks if len(np.unique(labels)) > 1]
        inputs = [self._inputs(p) for p, _ in tasks]
        if len({self._width(each) for each in inputs}) > 1:
            widths = ", ".join(str(self._width(each)) for each in inputs)
            raise TilewrightError(
                f"a cost model is fitted to programs of one width, but these are {widths}; use a model per template"
            )
        warm = self.warm and self._net is not None
        if not warm:
            self._net = None
        if tasks:
            with torch_threads(self._threads) as torch:
                self._train(torch, inputs, [labels for _, labels in tasks], warm)

    @abstractmethod
    def predict(self, programs: Programs) -> NDArray[np.float64]:
        """``(n,)`` scores, higher is faster, comparable within one task; all 0 before the model is ready."""

    @abstractmethod
    def _inputs(self, programs: Programs) -> Any:
        """What the network sees of the programs of one task, before scaling."""

    @abstractmethod
    def _width(self, inputs: Any) -> tuple[int, ...]:
        """How many numbers a program, and a node of it, has."""

    @abstractmethod
    def _measure(self, inputs: Sequence[Any]) -> State:
        """Mean and scale of the inputs."""

    @abstractmethod
    def _scaled(self, inputs: Any) -> Any:
        """The inputs of one task as the network takes them, by ``self._scaling``."""

    @abstractmethod
    def _make(self, torch: ModuleType) -> Any:
        """A network for inputs of the widths of ``self._scaling``."""

    @abstractmethod
    def _scores(self, torch: ModuleType, inputs: Any, rows: NDArray[np.intp]) -> Any:
        """``(len(rows),)`` the network's scores of some programs of a task."""

    def _train(self, torch: ModuleType, inputs: list[Any], labels: list[NDArray[np.float32]], warm: bool) -> None:
        if not warm:
            self._scaling = {**self._measure(inputs), "label": self._label_scaling(labels)}
            self._net = self._seeded(torch)
        elif any(self._scaling[name].shape != value.shape for name, value in self._measure(inputs[:1]).items()):
            raise TilewrightError("a warm cost model is fitted to programs of one width, and these have another")
        tasks = [self._scaled(each) for each in inputs]
        mean, deviation = self._scaling["label"]
        targets = [torch.from_numpy((each - mean) / deviation) for each in labels]
        rng = np.random.default_rng(self._seed)
        once = sum(-(-len(each) // _BATCH) for each in labels)
        epochs = self._warm_epochs if warm else max(self._epochs, -(-self._least_steps // once))
        steps = epochs * once
        rate = self._rate * (_WARM_RATE if warm else 1.0)
        optimiser = torch.optim.Adam(self._net.parameters(), lr=rate)
        step = 0
        for _ in range(epochs):
            for task, rows in _batches([len(each) for each in labels], rng):
                for group in optimiser.param_groups:
                    group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
                step += 1
                optimiser.zero_grad()
                loss = self._loss(torch, self._scores(torch, tasks[task], rows), targets[task][torch.from_numpy(rows)])
                loss.backward()
                optimiser.step()

    def _label_scaling(self, labels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Mean and deviation of the labels, in which a network learns to predict them; order has no unit."""
        if self.loss == "rank":
            return np.asarray([0.0, 1.0], dtype=np.float32)
        every = np.concatenate(labels)
        return np.asarray([every.mean(), every.std()], dtype=np.float32)

    def _in_units(self, outputs: Any) -> NDArray[np.float64]:
        """Scores from the network's outputs."""
        mean, deviation = self._scaling["label"].astype(np.float64)
        return np.asarray(mean + deviation * outputs.numpy().astype(np.float64))

    def _loss(self, torch: ModuleType, scores: Any, labels: Any) -> Any:
        if self.loss == "regression":
            return ((scores - labels) ** 2).mean()
        better = (labels[:, None] - labels[None, :]).clamp(min=0)
        pairs = torch.nn.functional.softplus(scores[None, :] - scores[:, None])
        return (pairs * better).sum() / better.sum().clamp(min=1e-6)

    def _seeded(self, torch: ModuleType) -> Any:
        """A network with weights of our seed, without a trace in PyTorch's global generator."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._seed)
            return self._make(torch)

    def _arguments(self) -> State:
        """What the constructor needs to make this model again, apart from how it is trained."""
        return {"hidden": np.asarray(self._hidden, dtype=np.int64), "loss": np.asarray(self.loss)}

    @classmethod
    def _constructor(cls, state: State) -> dict[str, Any]:
        return {"hidden": tuple(state["hidden"].tolist()), "loss": str(state["loss"])}

    def state(self) -> State:
        """The model as arrays.

        Raises:
            TilewrightError: it was not fitted.
        """
        if self._net is None:
            raise TilewrightError("a cost model is stored after it was fitted, but this one was not")
        weights = {f"weights.{name}": value.numpy().copy() for name, value in self._net.state_dict().items()}
        scaling = {f"scaling.{name}": value for name, value in self._scaling.items()}
        head = {"version": np.asarray(FEATURE_VERSION), "model": np.asarray(self.name)}
        return {**head, **self._arguments(), **scaling, **weights}

    @classmethod
    def from_state(cls, state: State, **arguments: Any) -> Any:
        """A model from the arrays of :meth:`state`; ``arguments`` say how it is trained further.

        Raises:
            TilewrightError: they are of another model or another version, or damaged.
            KeyError, ValueError, TypeError, RuntimeError: they are damaged.
            MissingExtraError: PyTorch, or what else the model needs, is not installed.
        """
        words = {name: value.item() for name, value in state.items() if "." not in name and value.ndim == 0}
        found = str(words.get("model", "?")), words.get("version")
        if found != (cls.name, FEATURE_VERSION):
            raise TilewrightError(
                f"these weights are of the model {found[0]!r}, version {found[1]!s:.20}, but this is {cls.name!r}, "
                f"version {FEATURE_VERSION}; train it again"
            )
        _check(state, set(words))
        model = cls(**{**cls._constructor(state), **arguments})
        model._scaling = {name[8:]: value for name, value in state.items() if name.startswith("scaling.")}
        with torch_threads(model._threads) as torch:
            # Without memory of its own: a file may declare layers of any size, but holds only what it holds.
            with torch.device("meta"):
                net = model._make(torch)
            weights = {name[8:]: torch.from_numpy(v.copy()) for name, v in state.items() if name.startswith("weights.")}
            net.load_state_dict(weights, assign=True)
        model._net = net
        return model

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Become the model of :meth:`state`, whatever this one was. Raises as :meth:`from_state` does."""
        self.__dict__.update(vars(self.from_state(dict(state))))


def _check(state: State, words: set[str]) -> None:
    """Raise where the arrays are not finite float32 numbers, or the means and scales of inputs do not fit together."""
    hidden = state["hidden"]
    if hidden.dtype != np.int64 or hidden.ndim != 1 or len(hidden) > _MOST_LAYERS or (hidden < 1).any():
        raise ValueError(f"its hidden layers are of {hidden.dtype} {hidden.shape}")
    if other := {name for name in state if "." not in name} - words - {"hidden"}:
        raise ValueError(f"its {min(other)} is no single value")
    for name in [name for name in state if name.endswith("mean")]:
        if name.removesuffix("mean") + "scale" not in state:
            raise ValueError(f"its {name} has no scale")
    for name, value in state.items():
        numbers = name.startswith(("weights.", "scaling."))
        if numbers and (value.dtype != np.float32 or not np.isfinite(value).all()):
            raise ValueError(f"its {name} are not finite numbers of float32")
        if name.endswith("scale") and value.shape != state[name.removesuffix("scale") + "mean"].shape:
            raise ValueError(f"its {name} has another shape than the mean")
    if state["scaling.label"].shape != (2,):
        raise ValueError("its labels have no mean and deviation")


def standardised(values: NDArray[np.float32], mean: NDArray[np.float32], scale: NDArray[np.float32]) -> Any:
    """(x - mean) x scale, cut off at 5 to either side."""
    return np.clip((values - mean) * scale, -_FARTHEST, _FARTHEST)


def inverse(deviation: NDArray[Any]) -> NDArray[np.float32]:
    """1 / x; 0 for columns that were constant, of which nothing can be known."""
    known = deviation > 1e-6
    return np.asarray(np.divide(1.0, deviation, out=np.zeros(deviation.shape), where=known), dtype=np.float32)


def _batches(sizes: list[int], rng: np.random.Generator) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Tasks and rows of theirs: each program once, a batch of one task, all in random order."""
    batches = []
    for task, size in enumerate(sizes):
        parts = np.array_split(rng.permutation(size), -(-size // _BATCH))
        batches += [(task, part) for part in parts]
    for place in rng.permutation(len(batches)).tolist():
        yield batches[place]


@contextmanager
def torch_threads(count: int) -> Iterator[ModuleType]:
    """PyTorch, on so many threads; their number is the whole process's, so it is put back.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as exc:
        raise MissingExtraError("PyTorch", "torch") from exc
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield torch
    finally:
        torch.set_num_threads(before)
