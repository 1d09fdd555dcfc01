"""Mixed precision: which policy this machine's hardware speaks, and on what device."""

from pathlib import Path
from typing import Any

import tensorflow as tf

# What the kernel calls the instructions that make bfloat16 pay. AVX512-BF16 alone does not: it trains 0.62 times as
# fast as float32 and predicts 0.75 times as fast (benchmarks/README.md).
_CPU_BFLOAT16 = "amx_bf16"


def choose_policy(precision: str) -> str:
    """Return the Keras policy for an experiment's `precision`.

    auto: bfloat16 on GPUs of compute capability 8 or more and on CPUs with AMX; float16 (with loss scaling,
    which Keras adds) on capability 7; otherwise float32. With several GPUs the weakest decides.
    """
    if precision != "auto":
        return precision
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "mixed_bfloat16" if _CPU_BFLOAT16 in cpu_flags() else "float32"
    major = min(_capability(gpu)[0] for gpu in gpus)
    if major >= 8:
        return "mixed_bfloat16"
    return "mixed_float16" if major == 7 else "float32"


def cpu_flags() -> set[str]:
    """Return the CPU's feature flags; empty where Linux's /proc/cpuinfo is not to be had."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return set()
    for line in path.read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()


def device_line() -> str:
    """Return one line that says what will do the work: the first GPU alone, as no distribution strategy is used."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU: no GPU visible to TensorFlow"
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name)


def _capability(gpu: Any) -> tuple[int, int]:
    """Return a GPU's compute capability; (0, 0) where TensorFlow does not know it."""
    details = tf.config.experimental.get_device_details(gpu)
    return details.get("compute_capability", (0, 0))
