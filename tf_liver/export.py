"""Export a run as a SavedModel for TF Serving: HU slices in, liver probabilities of the same size out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from tf_liver.command import DONE, command, debug_option, option, parse, quiet_tensorflow
from tf_liver.experiment import replace
from tf_liver.runs import RUNS, Run


@dataclass
class ExportOptions:
    """What to export, and where to."""

    run: Optional[Path] = option(None, "run folder; without it the latest one", args=["run"], nargs="?", type=Path)
    output: Path = option(Path("export"), "folder under which tf_liver/<version>/ appears")
    runs: Path = option(RUNS, "where to look for the latest run")
    debug: bool = debug_option()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Walk from a run folder to a SavedModel."""
    options = parse(ExportOptions, argv, "export", __doc__)
    run = Run.open(options.run) if options.run else Run.latest(options.runs)
    weights = run.require_checkpoint("best")
    # Weights are float32; a bfloat16 graph would only suit machines like the one that trained.
    experiment = replace(run.experiment, precision="float32")
    print(f"exporting {run.path}; precision float32", flush=True)

    quiet_tensorflow()
    from tf_liver.model.predictor import SlicePredictor
    from tf_liver.model.unet import load_network
    from tf_liver.serving.bundle import write_bundle

    predictor = SlicePredictor(load_network(experiment, str(weights)), experiment)
    folder = write_bundle(predictor, options.output)
    print(f"{folder}: image (B, H, W) float32 HU -> probability (B, H, W) float32; checked against the run")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
