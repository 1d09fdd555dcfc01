"""Export a run for TF Serving: HU slices or whole scans in, probabilities and label maps of the same size out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from tf_liver.command import DONE, check_option, command, debug_option, option, parse, quiet_tensorflow
from tf_liver.experiment import replace
from tf_liver.runs import RUNS, Run
from tf_liver.serving.wire import require_serving_api


@dataclass
class ExportOptions:
    """What to export, and where to."""

    run: Optional[Path] = option(None, "run folder; without it the latest one", args=["run"], nargs="?", type=Path)
    output: Path = option(Path("export"), "folder under which tf_liver/<version>/ appears")
    version: Optional[int] = option(None, "number of the version; without it one above the newest")
    precision: str = option(
        "auto",
        "auto: what predict uses on this machine; float32 is at home on every server",
        choices=["auto", "float32", "bfloat16"],
    )
    xla: bool = option(False, "compile the network with XLA; the model card says what it brings on this machine")
    runs: Path = option(RUNS, "where to look for the latest run")
    debug: bool = debug_option()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Walk from a run folder to a SavedModel."""
    options = parse(ExportOptions, argv, "export", __doc__)
    if options.version is not None:
        check_option("version", options.version, 1)
    run = Run.open(options.run) if options.run else Run.latest(options.runs)
    weights = str(run.require_checkpoint("best"))

    require_serving_api()

    quiet_tensorflow()
    from tf_liver.model.folding import folded
    from tf_liver.model.predictor import ScanPredictor, SlicePredictor
    from tf_liver.model.unet import load_network
    from tf_liver.serving.bundle import write_bundle
    from tf_liver.serving.card import facts_of
    from tf_liver.serving.check import slices_to_check
    from tf_liver.serving.variants import LeanNetwork, apart, beside, export_precision

    experiment = run.experiment
    precision = export_precision(options.precision, experiment.precision)
    print(f"exporting {run.path}; precision {precision}{', XLA' if options.xla else ''}", flush=True)
    network = load_network(replace(experiment, precision="float32"), weights)
    predictor = SlicePredictor(LeanNetwork(network, precision, options.xla), experiment)

    slices, where = slices_to_check(run)
    facts = facts_of(run, "best", precision, options.xla) | {"checked_on": where}
    images = slices.astype("float32")
    facts["beside_predict"] = apart(predictor, ScanPredictor(folded(network, precision), experiment), images)
    if options.xla or precision != "float32":
        reference = SlicePredictor(LeanNetwork(network, "float32"), experiment)
        facts["beside_float32"] = found = beside(predictor, reference, images)
        print(f"beside float32: {found['speed']:.2f} times as fast, Dice {found['dice']:.5f} between the masks")

    folder = write_bundle(predictor, experiment, options.output, slices, options.version, facts)
    print(f"{folder}: every signature, through TensorFlow's C++ loader, answered as the run does on {where}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
