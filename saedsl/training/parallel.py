"""Processes that train or harvest together, on MLX's own engine: `mlx.launch` starts them, `mx.distributed` connects.

mlx.launch -n 2 --backend ring -- saedsl train config.toml
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import mlx.core as mx
import numpy as np

from saedsl.errors import TrainingError
from saedsl.training.watch import PATIENCE, Watch, open_sockets

Split = Literal["data", "latents"]


class Processes:
    """All processes of one `mlx.launch`; the `Parallel` of `saedsl.training.engine`."""

    def __init__(
        self, split: Split, group: mx.distributed.Group, connections: Sequence[int] = (), patience: float = PATIENCE
    ) -> None:
        """
        Args:
            split: what each process has a part of.
            group: MLX's.
            connections: the numbers of the sockets to others, which are watched while this process waits.
            patience: seconds that it waits at most.
        """
        self.split: Split = split
        """data: each has its part of every batch; latents: each has its part of the features."""
        self.rank: int = group.rank()
        """This process's number, from 0."""
        self.size: int = group.size()
        """How many there are."""
        self._group = group
        self._watch = Watch(
            connections,
            f"process {self.rank} of {self.size}",
            "the last checkpoint is whole: start all of them again to go on from it",
            patience,
        )

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The element-wise sum over processes, in the type of `values`; the same bits in all of them.

        float64 values are added as float64, in the order of ranks.

        Raises:
            TrainingError: if a process is gone.
        """
        if values.dtype == np.float64:  # which MLX does not have everywhere
            return np.asarray(self.gather(values).sum(axis=0))
        return self._wait(mx.distributed.all_sum(mx.array(values), group=self._group, stream=mx.cpu)).reshape(
            values.shape
        )

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Every process's `values`, all of one shape and type, in the order of ranks: [size, ...].

        Raises:
            TrainingError: if a process is gone.
        """
        raw = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)[None]
        found = self._wait(mx.distributed.all_gather(mx.array(raw), group=self._group, stream=mx.cpu))
        return np.frombuffer(found.tobytes(), values.dtype).reshape(self.size, *values.shape)

    def agree(self, text: str, what: str) -> None:
        """See that all processes hold the same `text`.

        Raises:
            TrainingError: if they do not: `what` differs.
        """
        import hashlib

        mine = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
        others = self.gather(mine)
        different = [r for r in range(self.size) if not np.array_equal(others[r], others[0])]
        if different:
            raise TrainingError(f"{what} of process {different[0]} is another than process 0's; give all the same")

    def _wait(self, value: mx.array) -> np.ndarray:
        try:
            with self._watch.waiting():
                mx.eval(value)  # numpy would swallow its error and ask again, which never returns
            return np.array(value)
        except RuntimeError as error:
            raise TrainingError(self._watch.lost(str(error))) from None


def launched() -> bool:
    """Whether `mlx.launch` started this process as one of several."""
    return "MLX_RANK" in os.environ


def join(split: Split = "data", patience: float = PATIENCE) -> Processes | None:
    """The processes that `mlx.launch` started, once they are connected; None if there is only this one.

    When a process is gone, the others end within seconds: by a TrainingError, or, where MLX never returns from its
    wait, by exit code 1 after the same message on stderr. They also end after a wait of `patience` seconds.

    Args:
        split: what each process has a part of: of every batch, or of the features.
        patience: seconds; more than the longest time that one of them works alone, as at writing a checkpoint.

    Raises:
        TrainingError: if they cannot reach one another.
    """
    if not launched():
        return None
    before = open_sockets()
    try:
        group = mx.distributed.init(strict=True)
    except RuntimeError as error:
        raise TrainingError(f"the processes cannot reach one another ({error}); see `mlx.launch --verbose`") from None
    if group.size() == 1:
        return None
    return Processes(split, group, sorted(open_sockets() - before), patience)
