"""Score a run on its held-out cases: every slice, on the scans' own grids."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from tf_liver import files
from tf_liver.command import DONE, command, debug_option, option, parse, quiet_tensorflow
from tf_liver.data.cases import find_cases, held_out_of
from tf_liver.runs import RUNS, Run


@dataclass
class EvaluateOptions:
    """What to score."""

    run: Optional[Path] = option(None, "run folder; without it the latest one", args=["run"], nargs="?", type=Path)
    data: Optional[Path] = option(
        None, "another Task03_Liver folder: all its cases but the run's training cases are scored"
    )
    checkpoint: str = option(
        "best", "best was chosen by the Dice of the held-out slices, last was not", choices=["best", "last"]
    )
    output: Optional[Path] = option(
        None, "folder of the results; without it <run>/evaluation, -last and -<name of the data> added"
    )
    runs: Path = option(RUNS, "where to look for the latest run")
    debug: bool = debug_option()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Walk from a run folder to its scores."""
    options = parse(EvaluateOptions, argv, "evaluate", __doc__)
    run = Run.open(options.run) if options.run else Run.latest(options.runs)
    weights = run.require_checkpoint(options.checkpoint)
    data = options.data or Path(run.read_json("run.json")["data"])
    split = run.read_json("split.json")
    cases = held_out_of(find_cases(data), split, other_data=options.data is not None)
    experiment = run.trained_experiment
    print(f"evaluating {run.path}, {options.checkpoint} checkpoint, on {len(cases)} cases of {data}", end="")
    print(f"; precision {experiment.precision}", flush=True)

    tf = quiet_tensorflow()
    from tf_liver.model.predictor import SlicePredictor
    from tf_liver.model.unet import load_network
    from tf_liver.progress import track
    from tf_liver.volume import tables
    from tf_liver.volume.inference import evaluate_case
    from tf_liver.volume.overlay import side_by_side
    from tf_liver.volume.scores import Counts, score_case

    predictor = SlicePredictor(load_network(experiment, str(weights)), experiment)
    rows, pictures, pooled = [], [], Counts(0, 0, 0, 0)
    for case in track(cases, "segmenting cases", len(cases)):
        counts, voxel_ml, picture = evaluate_case(case, predictor)
        rows.append(score_case(case.case_id, counts, voxel_ml))
        pictures.append(picture)
        pooled += counts

    summary = {"run": str(run.path), "checkpoint": options.checkpoint, "data": str(data)}
    summary |= tables.summarise(rows, pooled)
    output = options.output or run.path / results_name(options.checkpoint, options.data)
    files.write_atomic(output / "metrics.csv", tables.metrics_csv(rows))
    files.write_atomic(output / "summary.json", tables.to_json(summary))
    files.write_atomic(output / "overlay.png", tf.io.encode_png(side_by_side(pictures[:4])).numpy())
    print(tables.table(rows))
    print(tables.summary_line(summary))
    print(f"written to {output}: metrics.csv, summary.json, overlay.png")
    return DONE


def results_name(checkpoint: str, other_data: Path | None) -> str:
    """Return the folder's name in the run: evaluation, with -last and the name of other data where they apply."""
    parts = ["last"] * (checkpoint == "last") + ([other_data.resolve().name] if other_data else [])
    return "-".join(["evaluation", *parts])


if __name__ == "__main__":
    sys.exit(main())
