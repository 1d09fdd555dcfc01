"""Which devices train together, and how their batches and decisions become one."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tf_liver.data.pipeline import dealt

# Steps between two looks on a GPU, which each look keeps waiting. A CPU loses nothing, and Ctrl-C waits for its steps.
STEPS_PER_LOOK = 16


@dataclass(frozen=True)
class Cluster:
    """The devices that train together: of this process, or of several workers.

    worker, workers: this process' number, and how many there are. Worker 0 is the chief.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run folder."""
        return self.worker == 0

    @property
    def replicas(self) -> int:
        """Devices of all workers together."""
        return self.strategy.num_replicas_in_sync

    @property
    def shard(self) -> tuple[int, int]:
        """This worker's position among those that share a global batch, and their number."""
        return self.worker, self.workers

    @property
    def steps_per_look(self) -> int:
        """Steps between two looks at loss, clock and signals."""
        return STEPS_PER_LOOK if tf.config.list_logical_devices("GPU") else 1

    def distributed(self, batches: tf.data.Dataset) -> Any:
        """Return this worker's batches, each dealt out to its replicas by position."""
        parts = dealt(batches, (0, 1), self.replicas // self.workers)
        return self.strategy.distribute_datasets_from_function(lambda _: parts)

    def anybody(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether any worker raised it; all must ask together."""
        return [total > 0 for total in self.total(flags)]

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Return the sum of each number over all workers; all must ask together."""
        if self.workers == 1:
            return list(numbers)
        share = tf.constant(numbers, tf.float64) * (self.workers / self.replicas)

        @tf.function
        def summed() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, share)

        return self.strategy.experimental_local_results(self.strategy.run(summed))[0].numpy().tolist()


def choose_cluster(name: str) -> Cluster:
    """Return the cluster for `--strategy`; with several workers, once all have joined.

    auto: several workers where TF_CONFIG names them, else all visible GPUs if there are two or more.
    multiworker: as TF_CONFIG says, else as SLURM's environment does.

    Raises:
        ValueError: neither says who the workers are.
    """
    gpus = len(tf.config.list_physical_devices("GPU"))
    if name == "auto":
        name = "multiworker" if "TF_CONFIG" in os.environ else "mirrored" if gpus > 1 else "none"
    if name == "none":
        return Cluster(tf.distribute.get_strategy())
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return Cluster(tf.distribute.MirroredStrategy([device.name for device in devices]))
    resolver = _resolver()
    workers = resolver.cluster_spec().num_tasks("worker")  # SLURM's resolver learns its own number by this
    print(f"worker {resolver.task_id} of {workers}: waiting for the others", flush=True)
    return Cluster(tf.distribute.MultiWorkerMirroredStrategy(resolver), resolver.task_id, workers)


def _resolver() -> Any:
    """Return who the workers are, and which of them this process is."""
    resolvers = tf.distribute.cluster_resolver
    if "TF_CONFIG" in os.environ:
        resolver = resolvers.TFConfigClusterResolver()
        if resolver.cluster_spec().jobs != ["worker"]:
            raise ValueError(f"TF_CONFIG: must name workers only. Received: {resolver.cluster_spec().jobs}")
        return resolver
    if "SLURM_PROCID" not in os.environ:
        raise ValueError("--strategy multiworker: needs TF_CONFIG, or SLURM's environment (srun). Received: neither")
    # The GPUs of a task are what SLURM lets it see: the resolver is only to count tasks, one "GPU" each.
    tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
    return resolvers.SlurmClusterResolver(gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False)
