"""Reads the network in each bucket, and gives each bucket its share of the tuning and its sample inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tilewright.errors import ShapeError
from tilewright.executable.inputs import to_array
from tilewright.frontend.load import load_buckets
from tilewright.frontend.network import Network
from tilewright.frontend.shapes import ShapeRequest
from tilewright.tensor import Array
from tilewright.wording import counted

__all__ = ["ReadBuckets", "assign_samples", "read_buckets"]


@dataclass(frozen=True)
class ReadBuckets:
    """The buckets of a network.

    Attributes:
        networks: the network in each bucket.
        shares: the share of the tuning that each gets; None: equal ones.
        samples: by the number of a bucket, its sample inputs.
    """

    networks: tuple[Network, ...]
    shares: tuple[float, ...] | None
    samples: Mapping[int, Sequence[Sequence[Array]]]

    @property
    def weight_bytes(self) -> int:
        """The size of the weights in bytes; buckets have the same."""
        return max(network.weight_bytes for network in self.networks)


def read_buckets(model: object, request: ShapeRequest) -> ReadBuckets:
    """Read a model in all buckets.

    Args:
        model: what :func:`tilewright.frontend.load.load_buckets` takes.
        request: what is asked of the inputs.

    Raises:
        ShapeError: the shares or the samples do not fit the buckets.
        TilewrightError: as ``load_buckets`` does.
    """
    networks = load_buckets(model, request)
    if request.shares and len(request.shares) != len(networks):
        raise ShapeError(
            f"--weight has a number for each bucket, but {counted(len(request.shares), 'number')} "
            f"came for {counted(len(networks), 'bucket')}; correct it"
        )
    samples = assign_samples(request.samples, networks)
    return ReadBuckets(networks, request.shares or None, samples)


def assign_samples(samples: Sequence[Mapping[str, Array]], networks: Sequence[Network]) -> dict[int, list[list[Array]]]:
    """By the number of a bucket, its samples: an array for each input, of its dtype.

    Args:
        samples: arrays by the names of inputs. The name of a single input may be empty.
        networks: the network in each bucket.

    Raises:
        ShapeError: a sample lacks an input, or a number in it is none of the input's dtype.
    """
    found: dict[int, list[list[Array]]] = {}
    for sample in samples:
        for bucket, network in enumerate(networks):
            names = [spec.name for spec in network.inputs]
            arrays = {names[0]: sample[""]} if "" in sample and len(names) == 1 else sample
            missing = [name for name in names if name not in arrays]
            if missing:
                raise ShapeError(
                    f"a sample has an array for each input, but this has none for {missing[0]!r}; it needs: "
                    f"{', '.join(names)}"
                )
            if all(arrays[spec.name].shape == spec.shape for spec in network.inputs):
                values = [to_array(arrays[spec.name], spec) for spec in network.inputs]
                found.setdefault(bucket, []).append(values)
                break
    return found
