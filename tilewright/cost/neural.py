"""What neural cost models share: labels, losses, training, and the arrays of a stored model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeAlias, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.model import Programs
from tilewright.cost.xgb import relative_throughput
from tilewright.errors import MissingExtraError, TilewrightError
from tilewright.tensor import Array

if TYPE_CHECKING:
    import torch

__all__ = ["FEATURE_VERSION", "Loss", "NeuralModel", "Scaling", "State", "Tensors", "Training", "torch_threads"]

#: The version of features, graphs and layers. Every change of these raises it, so that older weights are refused.
FEATURE_VERSION = 1
#: What training minimises: misordered pairs within a task, or the squared error of the relative throughput.
Loss: TypeAlias = Literal["rank", "regression"]
#: A model as arrays by name: how it was made, the means and scales of its inputs, and its weights.
State: TypeAlias = Mapping[str, Array]
#: The means and scales of a model's inputs and labels, by name.
Scaling: TypeAlias = dict[str, NDArray[np.float32]]
#: The scaled inputs of one task, as the network takes them.
Tensors: TypeAlias = "tuple[torch.Tensor, ...]"

#: The programs of one task, as a kind of network sees them before scaling.
Inputs = TypeVar("Inputs")
Model = TypeVar("Model", bound="NeuralModel")  # type: ignore[type-arg]

#: The programs in one step of training. With the loss ``rank`` all pairs of them count.
_BATCH = 32
#: The learning rate of a warm fit, relative to that of a cold one: trained weights are close to good ones.
_WARM_RATE = 0.3
#: The most hidden layers of a stored model, far above those of any model here.
_MOST_LAYERS = 64
#: The bound of standardised inputs, in standard deviations. A new task can lie far from those that were learnt from.
_FARTHEST = 5.0


@dataclass(frozen=True)
class Training:
    """The hyperparameters of training with Adam (Kingma and Ba, arXiv 1412.6980).

    Attributes:
        epochs: how often a cold fit sees each program.
        least_steps: the fewest steps of a cold fit; more epochs are added up to them. Of 200 toy programs a graph
            network ordered 79 to 86 % of the pairs rightly after 100 steps, and 86 to 88 % after 250.
        warm_epochs: how often a warm fit sees each program.
        rate: Adam's learning rate in the first step. It falls to 0 along half a cosine.
    """

    epochs: int = 15
    least_steps: int = 250
    warm_epochs: int = 2
    rate: float = 1e-2


class NeuralModel(ABC, Generic[Inputs]):
    """A network that is fitted to throughput relative to the task's best program, where failures count as 0.

    The loss ``rank`` is the logistic loss of each pair of programs of a task (RankNet, Burges et al. 2005). Pairs are
    weighted by the difference of their throughputs. So the order of fast programs counts most, and that of two
    measurements that differ by noise counts little.

    Args:
        loss: ``rank`` or ``regression``.
        hidden: the sizes of the hidden layers.
        training: the hyperparameters of training.
        seed: of the first weights and of the order of training.
        threads: of PyTorch, to fit and to predict.
        warm: whether a fit starts from the present weights and keeps their scaling of the inputs. A cold fit forgets
            what was learnt before.

    Raises:
        TilewrightError: the loss does not exist.
    """

    name: ClassVar[str]

    def __init__(
        self,
        loss: Loss = "rank",
        *,
        hidden: tuple[int, ...] = (64, 64),
        training: Training | None = None,
        seed: int = 0,
        threads: int = 1,
        warm: bool = False,
    ) -> None:
        if loss not in get_args(Loss):
            raise TilewrightError(
                f"the loss of a cost model is one of {', '.join(get_args(Loss))}, but this is {loss!r}"
            )
        self.loss: Loss = loss
        self.warm = warm
        self._seed = seed
        self._threads = threads
        self._training = Training() if training is None else training
        self._hidden = tuple(hidden)
        self._net: torch.nn.Module | None = None
        self._scaling: Scaling = {}

    @property
    def ready(self) -> bool:
        """Whether the model was fitted to programs of different speed."""
        return self._net is not None

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        """Learn from measurements.

        Measurements without any difference (none at all, or failures only) leave a cold model unready, and a warm one
        as it was.

        Args:
            programs: the measured programs of each task, all of one kind and width.
            seconds: the ``(n,)`` latencies of each task in seconds; nan if a program failed.

        Raises:
            TilewrightError: programs differ in width, or have not one latency each.
            MissingExtraError: PyTorch, or another library that the model needs, is not installed.
        """
        tasks = [(p, relative_throughput(s)) for p, s in zip(programs, seconds, strict=True) if len(s) > 0]
        if any(len(p) != len(labels) for p, labels in tasks):
            shapes = ", ".join(f"{len(p)} with {len(labels)} latencies" for p, labels in tasks)
            raise TilewrightError(f"a cost model is fitted to programs, each with its latency, but these are {shapes}")
        # A task whose programs are all equally fast has no order to teach.
        tasks = [(p, labels) for p, labels in tasks if len(np.unique(labels)) > 1]
        inputs = [self._inputs(p) for p, _ in tasks]
        if len({self._width(each) for each in inputs}) > 1:
            widths = ", ".join(str(self._width(each)) for each in inputs)
            raise TilewrightError(
                f"a cost model is fitted to programs of one width, but these are {widths}; use a model per template"
            )
        if not self.warm:
            self._net = None
        if tasks:
            with torch_threads(self._threads) as torch:
                self._train(torch, inputs, [labels for _, labels in tasks])

    @abstractmethod
    def predict(self, programs: Programs) -> NDArray[np.float64]:
        """The ``(n,)`` scores, where higher is faster within one task; all 0 before the model is ready."""

    @abstractmethod
    def _inputs(self, programs: Programs) -> Inputs:
        """The programs of one task as the network sees them, before scaling."""

    @abstractmethod
    def _width(self, inputs: Inputs) -> tuple[int, ...]:
        """The number of features of a program, or of each of its nodes."""

    @abstractmethod
    def _measure(self, inputs: Sequence[Inputs]) -> Scaling:
        """The means and scales of the inputs."""

    @abstractmethod
    def _scaled(self, inputs: Inputs) -> Tensors:
        """The inputs of one task, scaled by ``self._scaling``."""

    @abstractmethod
    def _make(self, torch: ModuleType) -> torch.nn.Module:
        """A network for inputs of the widths of ``self._scaling``."""

    @abstractmethod
    def _scores(self, net: torch.nn.Module, inputs: Tensors, rows: torch.Tensor) -> torch.Tensor:
        """The network's ``(len(rows),)`` scores of some programs of a task."""

    @classmethod
    @abstractmethod
    def _from_arguments(cls: type[Model], state: State) -> Model:
        """An unfitted model with the arguments that ``state`` holds."""

    def _train(self, torch: ModuleType, inputs: list[Inputs], labels: list[NDArray[np.float32]]) -> None:
        net, settings = self._net, self._training
        warm = net is not None
        if net is None:
            self._scaling = {**self._measure(inputs), "label": self._label_scaling(labels)}
            self._net = net = self._make_seeded(torch)
        elif any(self._scaling[name].shape != value.shape for name, value in self._measure(inputs[:1]).items()):
            raise TilewrightError("a warm cost model is fitted to programs of one width, and these have another")
        tasks = [self._scaled(each) for each in inputs]
        mean, deviation = self._scaling["label"]
        targets = [torch.from_numpy((each - mean) / deviation) for each in labels]
        rng = np.random.default_rng(self._seed)
        once = sum(-(-len(each) // _BATCH) for each in labels)
        epochs = settings.warm_epochs if warm else max(settings.epochs, -(-settings.least_steps // once))
        steps = epochs * once
        rate = settings.rate * (_WARM_RATE if warm else 1.0)
        optimiser = torch.optim.Adam(net.parameters(), lr=rate)
        step = 0
        for _ in range(epochs):
            for task, rows in _draw_batches([len(each) for each in labels], rng):
                for group in optimiser.param_groups:
                    group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
                step += 1
                optimiser.zero_grad()
                chosen = torch.from_numpy(rows)
                loss = self._loss(torch, self._scores(net, tasks[task], chosen), targets[task][chosen])
                loss.backward()
                optimiser.step()

    def _label_scaling(self, labels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The mean and deviation of the labels that a network predicts; an order has no unit, hence 0 and 1."""
        if self.loss == "rank":
            return np.asarray([0.0, 1.0], dtype=np.float32)
        every = np.concatenate(labels)
        return np.asarray([every.mean(), every.std()], dtype=np.float32)

    def _in_units(self, outputs: torch.Tensor) -> NDArray[np.float64]:
        """The scores in the unit of the labels, from the network's outputs."""
        mean, deviation = self._scaling["label"].astype(np.float64)
        return np.asarray(mean + deviation * outputs.numpy().astype(np.float64))

    def _loss(self, torch: ModuleType, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.loss == "regression":
            return ((scores - labels) ** 2).mean()
        better = (labels[:, None] - labels[None, :]).clamp(min=0)
        pairs = torch.nn.functional.softplus(scores[None, :] - scores[:, None])
        return (pairs * better).sum() / better.sum().clamp(min=1e-6)

    def _make_seeded(self, torch: ModuleType) -> torch.nn.Module:
        """A network with weights of the model's seed. PyTorch's global generator stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._seed)
            return self._make(torch)

    def _arguments(self) -> dict[str, Array]:
        """The arguments of the constructor that decide what the model computes, as arrays."""
        return {"hidden": np.asarray(self._hidden, dtype=np.int64), "loss": np.asarray(self.loss)}

    def state(self) -> dict[str, Array]:
        """The model as arrays.

        Raises:
            TilewrightError: the model was not fitted.
        """
        if self._net is None:
            raise TilewrightError("a cost model is stored after it was fitted, but this one was not")
        weights = {f"weights.{name}": value.numpy().copy() for name, value in self._net.state_dict().items()}
        scaling = {f"scaling.{name}": value for name, value in self._scaling.items()}
        head = {"version": np.asarray(FEATURE_VERSION), "model": np.asarray(self.name)}
        return {**head, **self._arguments(), **scaling, **weights}

    @classmethod
    def from_state(
        cls: type[Model],
        state: State,
        *,
        training: Training | None = None,
        seed: int = 0,
        threads: int = 1,
        warm: bool = False,
    ) -> Model:
        """The model that :meth:`state` has stored. The further arguments are those of the constructor.

        Raises:
            TilewrightError: the arrays are of another model or another version.
            KeyError, ValueError, TypeError, RuntimeError: the arrays are damaged.
            MissingExtraError: PyTorch, or another library that the model needs, is not installed.
        """
        words = {name: value.item() for name, value in state.items() if "." not in name and value.ndim == 0}
        found = str(words.get("model", "?")), words.get("version")
        if found != (cls.name, FEATURE_VERSION):
            raise TilewrightError(
                f"these weights are of the model {found[0]!r}, version {found[1]!s:.20}, but this is {cls.name!r}, "
                f"version {FEATURE_VERSION}; train it again"
            )
        _check(state, set(words))
        model = cls._from_arguments(state)
        model._training = Training() if training is None else training
        model._seed, model._threads, model.warm = seed, threads, warm
        model._scaling = {name[8:]: v.astype(np.float32) for name, v in state.items() if name.startswith("scaling.")}
        with torch_threads(threads) as torch:
            # The meta device allocates nothing: a file may declare layers of any size, but holds only its own weights.
            with torch.device("meta"):
                net = model._make(torch)
            weights = {name[8:]: torch.from_numpy(v.copy()) for name, v in state.items() if name.startswith("weights.")}
            net.load_state_dict(weights, assign=True)
        model._net = net
        return model

    def restore(self, state: State) -> None:
        """Become the model of :meth:`state`, with the default training. Raises as :meth:`from_state` does."""
        self.__dict__.update(vars(self.from_state(state)))


def _check(state: State, words: set[str]) -> None:
    """Raise unless the weights are finite float32 numbers, and the means and scales fit together."""
    hidden = state["hidden"]
    whole = hidden.dtype == np.int64 and hidden.ndim == 1 and len(hidden) <= _MOST_LAYERS
    if not whole or (hidden.astype(np.int64) < 1).any():
        raise ValueError(f"its hidden layers are of {hidden.dtype} {hidden.shape}")
    if other := {name for name in state if "." not in name} - words - {"hidden"}:
        raise ValueError(f"its {min(other)} is no single value")
    for name in [name for name in state if name.endswith("mean")]:
        if name.removesuffix("mean") + "scale" not in state:
            raise ValueError(f"its {name} has no scale")
    for name, value in state.items():
        numbers = name.startswith(("weights.", "scaling."))
        if numbers and (value.dtype != np.float32 or not np.isfinite(value.astype(np.float32)).all()):
            raise ValueError(f"its {name} are not finite numbers of float32")
        if name.endswith("scale") and value.shape != state[name.removesuffix("scale") + "mean"].shape:
            raise ValueError(f"its {name} has another shape than the mean")
    if state["scaling.label"].shape != (2,):
        raise ValueError("its labels have no mean and deviation")


def standardise(
    values: NDArray[np.float32], mean: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """``(values - mean) * scale``, cut off at 5 standard deviations to either side."""
    clipped: NDArray[np.float32] = np.clip((values - mean) * scale, -_FARTHEST, _FARTHEST)
    return clipped


def invert(deviation: NDArray[np.float64]) -> NDArray[np.float32]:
    """``1 / deviation``; 0 for columns that were constant, from which nothing can be learnt."""
    known = deviation > 1e-6
    return np.asarray(np.divide(1.0, deviation, out=np.zeros(deviation.shape), where=known), dtype=np.float32)


def _draw_batches(sizes: list[int], rng: np.random.Generator) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Batches in random order, each the number of a task and rows of it. All batches have each program once."""
    batches = []
    for task, size in enumerate(sizes):
        parts = np.array_split(rng.permutation(size), -(-size // _BATCH))
        batches += [(task, part) for part in parts]
    for place in rng.permutation(len(batches)).tolist():
        yield batches[place]


@contextmanager
def torch_threads(count: int) -> Iterator[ModuleType]:
    """PyTorch on ``count`` threads. The number belongs to the whole process, so it is restored at the end.

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
