"""What processes that train together add up: the one place where a step asks whether it is alone.

Split by data, a process has its part of the tokens and all features; split by latents, all tokens and its part of the
features. Sums over tokens and sums over features therefore cross processes in one of
the two, and alone in none. Letters in shapes: B tokens, F features.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from saedsl.training.engine import Parallel


class Joint:
    """Sums over the tokens or the features of all processes; alone, the identity."""

    def __init__(self, parallel: Parallel | None) -> None:
        self.parallel = parallel
        self.rank = parallel.rank if parallel else 0
        self.size = parallel.size if parallel else 1
        self.by_data = parallel is not None and parallel.split == "data"
        self.by_latents = parallel is not None and parallel.split == "latents"

    def tokens(self, mine: int) -> int:
        """Tokens of the whole batch, of which this process has `mine`."""
        return mine * self.size if self.by_data else mine

    def features(self, mine: int) -> range:
        """The numbers, over all processes, of the `mine` features of this one."""
        first = mine * self.rank if self.by_latents else 0
        return range(first, first + mine)

    def over_tokens(self, values: mx.array) -> mx.array:
        """The sum over processes of what each summed over its tokens."""
        return self._sum(values) if self.by_data else values

    def over_features(self, values: mx.array) -> mx.array:
        """The sum over processes of what each summed over its features."""
        return self._sum(values) if self.by_latents else values

    def over_both(self, values: mx.array) -> mx.array:
        """The sum over processes of what each summed over its tokens and features."""
        return self.over_tokens(self.over_features(values))

    def gather(self, values: mx.array) -> np.ndarray:
        """[size, ...]: every process's `values`."""
        mine = np.array(values)
        return mine[None] if self.parallel is None else self.parallel.gather(mine)

    def totals(self, values: np.ndarray) -> np.ndarray:
        """The sum of `values` over processes, however they are split."""
        return values if self.parallel is None else self.parallel.sum(values)

    def _sum(self, values: mx.array) -> mx.array:
        assert self.parallel is not None
        return mx.array(self.parallel.sum(np.array(values)))
