"""Export a run, or several as one, for TF Serving: HU slices or whole scans in, probabilities and label maps out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional  # noqa: UP035  argparse-dataclass 2.0.0 reads List

from tf_liver.command import DONE, check_option, command, debug_option, option, parse, quiet_tensorflow
from tf_liver.data.slices import neighbourhood
from tf_liver.ensemble import RUNS_MEANT, open_runs
from tf_liver.experiment import replace
from tf_liver.runs import RUNS, Run
from tf_liver.serving.wire import require_serving_api


@dataclass
class ExportOptions:
    """What to export, and where to."""

    run: Optional[List[Path]] = option(  # noqa: UP006
        None, RUNS_MEANT, args=["run"], nargs="*", type=Path
    )
    checkpoint: str = option("best", "best by the Dice of the held-out slices, or last", choices=["best", "last"])
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
    """Walk from run folders to a SavedModel."""
    options = parse(ExportOptions, argv, "export", __doc__)
    if options.version is not None:
        check_option("version", options.version, 1)
    folders = options.run or [Run.latest(options.runs).path]
    runs = open_runs(folders, options.checkpoint)

    require_serving_api()

    quiet_tensorflow()
    from tf_liver.model.folding import folded
    from tf_liver.model.predictor import Averaged, ScanPredictor
    from tf_liver.model.unet import load_network
    from tf_liver.serving.bundle import write_bundle
    from tf_liver.serving.card import facts_of, facts_of_several
    from tf_liver.serving.check import slices_to_check
    from tf_liver.serving.variants import apart, beside, export_precision, lean_predictor

    experiments = [run.experiment for run in runs]
    kinds = [export_precision(options.precision, each.precision) for each in experiments]
    precision = "float32" if "float32" in kinds else kinds[0]  # one for all, which is what the model card can say
    name = ", ".join(map(str, folders)) + f" ({len(runs)} runs together)" * (len(runs) > 1)
    print(f"exporting {name}; precision {precision}{', XLA' if options.xla else ''}", flush=True)
    weights = [str(run.require_checkpoint(options.checkpoint)) for run in runs]
    networks = [
        load_network(replace(each, precision="float32"), path) for each, path in zip(experiments, weights, strict=True)
    ]
    predictor = lean_predictor(networks, experiments, precision, options.xla)

    slices, where = slices_to_check(runs[0])
    said = (options.checkpoint, precision, options.xla)
    facts = facts_of(runs[0], *said) if len(runs) == 1 else facts_of_several(folders, runs, *said)
    facts["checked_on"] = where
    around = neighbourhood(0, len(slices), predictor.neighbours, len(slices))
    images = slices[around].astype("float32")
    scans = [ScanPredictor(folded(n, precision), each) for n, each in zip(networks, experiments, strict=True)]
    facts["beside_predict"] = apart(predictor, Averaged(scans), images)
    if options.xla or precision != "float32":
        facts["beside_float32"] = found = beside(predictor, lean_predictor(networks, experiments, "float32"), images)
        print(f"beside float32: {found['speed']:.2f} times as fast, Dice {found['dice']:.5f} between the masks")

    folder = write_bundle(predictor, experiments[0], options.output, slices, options.version, facts, experiments[1:])
    answered = "the run does" if len(runs) == 1 else "the runs together do"
    print(f"{folder}: every signature, through TensorFlow's C++ loader, answered as {answered} on {where}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
