"""What the benchmarks share: interleaved rounds in processes of their own, their memory, one table, one JSON line."""

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"


def machine() -> str:
    """Return processor, cores and memory in one line."""
    model = platform.processor() or platform.machine()
    flags = ""
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text()
        model = next(
            (line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), model
        )
        flags = " with AMX" if " amx_bf16" in text else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}{flags}, {os.cpu_count()} cores, {memory:.0f} GiB"


def run(command: Sequence[str], env: Mapping[str, str] | None = None, watch: bool = True) -> dict[str, Any]:
    """Run a command whose last line of output is JSON; add the peak memory of its process tree in MB if asked."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **(env or {})}
    ) as process:
        peak = [0.0]
        if watch:
            threading.Thread(target=_watch, args=(process, peak), daemon=True).start()
        out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{err[-3000:]}")
    return {**json.loads(out.strip().splitlines()[-1]), "peak_mb": peak[0]}


def _watch(process: subprocess.Popen[str], peak: list[float]) -> None:
    """Note the largest sum of proportional set sizes over a process and all its descendants."""
    while process.poll() is None:
        peak[0] = max(peak[0], sum(_pss_mb(pid) for pid in _tree(process.pid)))
        time.sleep(0.1)


def _tree(pid: int) -> list[int]:
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):  # it ended in between
        return []
    return [pid, *(p for child in children for p in _tree(child))]


def _pss_mb(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def medians(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the median of each number over rounds."""
    return {key: statistics.median(float(r[key]) for r in rounds) for key in rounds[0]}


def finish(bench: str, figures: Mapping[str, Any], ratios: Mapping[str, float]) -> None:
    """Print the last line of a benchmark: one JSON object."""
    rounded = {name: round(value, 3) for name, value in ratios.items()}
    print(json.dumps({"bench": bench, "machine": machine(), "figures": figures, "ratios": rounded}))


def say(text: str) -> None:
    """Print progress to the terminal, not into the table."""
    print(text, file=sys.stderr, flush=True)
