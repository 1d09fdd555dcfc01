"""Decode all scans of a Task03_Liver folder once, into slices that training reads in a fraction of a millisecond."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tf_liver.command import DONE, check_option, command, debug_option, option, parse
from tf_liver.data.build import PREPARED, default_folder, prepare
from tf_liver.data.cases import DEFAULT_DATA, find_cases


@dataclass
class PrepareOptions:
    """What to prepare, and where to keep it."""

    data: Path = option(DEFAULT_DATA, "Task03_Liver folder", args=["data"], nargs="?", type=Path)
    prepared: Path = option(PREPARED, "folder under which prepared slices are kept")
    workers: int = option(os.cpu_count() or 1, "processes that decode, each with one scan in memory")
    check: bool = option(False, "also read every scan and every prepared slice and compare their checksums")
    debug: bool = debug_option()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Bring the prepared slices of a data folder up to date."""
    options = parse(PrepareOptions, argv, "prepare", __doc__)
    check_option("workers", options.workers, 1)
    cases = find_cases(options.data)
    folder = default_folder(options.data, options.prepared)
    start = time.perf_counter()
    built = prepare(cases, folder, options.workers, full=options.check)
    seconds = time.perf_counter() - start
    print(f"{folder}: {len(cases)} cases ready, {len(built)} of them prepared now, {seconds:.1f} s")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
