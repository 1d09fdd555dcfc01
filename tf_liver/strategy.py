"""Which devices train together, and how their batches and decisions become one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tf_liver.data.pipeline import dealt

STRATEGIES = ("auto", "none", "mirrored", "multiworker")
# Steps between two looks on a GPU, which each look keeps waiting. A CPU loses nothing, and Ctrl-C waits for its steps.
STEPS_PER_LOOK = 16


@dataclass(frozen=True)
class Cluster:
    """The devices that train together: of this process, or of several workers.

    worker, workers: this process' number, and how many there are.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run folder."""
        return self.worker == 0

    @property
    def steps_per_look(self) -> int:
        """Steps between two looks at loss, clock and signals."""
        return STEPS_PER_LOOK if tf.config.list_logical_devices("GPU") else 1

    @property
    def shard(self) -> tuple[int, int]:
        """This worker's position among those that share a global batch, and their number."""
        return self.worker, self.workers

    def distributed(self, batches: tf.data.Dataset) -> Any:
        """Return this worker's batches, each dealt out to its replicas by position."""
        parts = dealt(batches, (0, 1), self.strategy.num_replicas_in_sync // self.workers)
        return self.strategy.distribute_datasets_from_function(lambda _: parts)

    def anybody(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether any worker raised it; all must ask together."""
        if self.workers == 1:
            return list(flags)
        return [bool(total) for total in self._total(tf.constant(flags, tf.float32)).numpy()]

    @tf.function
    def _total(self, numbers: tf.Tensor) -> tf.Tensor:
        def over_replicas() -> tf.Tensor:
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, numbers)

        return self.strategy.experimental_local_results(self.strategy.run(over_replicas))[0]


def choose_cluster(strategy: str) -> Cluster:
    """Return the cluster for `--strategy`."""
    return Cluster(tf.distribute.get_strategy())
