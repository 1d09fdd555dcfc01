"""Write synthetic abdominal CT scans with labels, in the layout of Task03_Liver."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tf_liver.command import DONE, command, debug_option, option, parse
from tf_liver.data.phantom import write_phantoms
from tf_liver.progress import track


@dataclass
class PhantomOptions:
    """How many, how large, and where to."""

    output: Path = option(Path("data/phantoms"), "folder to write to", args=["-o", "--output"])
    cases: int = option(12, "number of cases")
    seed: int = option(0, "the same seed gives the same files")
    size: int = option(128, "width and height in pixels, give or take a tenth")
    debug: bool = debug_option()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the phantoms."""
    options = parse(PhantomOptions, argv, "phantoms", __doc__)
    if options.cases < 1 or options.size < 32:
        raise ValueError(f"cases must be at least 1, size at least 32. Received: {options.cases} and {options.size}")
    phantoms = write_phantoms(options.output, options.cases, options.seed, options.size)
    written = list(track(phantoms, "writing phantoms", options.cases))
    print(f"{options.output}: {len(written)} phantoms")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
