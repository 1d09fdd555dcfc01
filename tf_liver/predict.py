"""Segment scans: NIfTI in, a label map on the scan's own grid out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional  # noqa: UP035  argparse-dataclass 2.0.0 reads List

from tf_liver.command import (
    DONE,
    FAILED,
    REFUSED,
    command,
    debug_option,
    one_line,
    option,
    parse,
    quiet_tensorflow,
)
from tf_liver.data.cases import case_id_of
from tf_liver.data.nifti import read_volume, write_label_map
from tf_liver.runs import RUNS, Run


@dataclass
class PredictOptions:
    """Which scans, and with what."""

    scans: List[Path] = option(None, "NIfTI files", args=["scans"], nargs="+", type=Path)  # noqa: UP006
    output: Path = option(Path("predictions"), "folder of the label maps", args=["-o", "--output"])
    run: Optional[Path] = option(None, "run folder; without it the latest one")
    runs: Path = option(RUNS, "where to look for the latest run")
    debug: bool = debug_option()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Walk from scans to label maps."""
    options = parse(PredictOptions, argv, "predict", __doc__)
    run = Run.open(options.run) if options.run else Run.latest(options.runs)
    weights = run.require_checkpoint("best")
    outputs = label_map_paths(options.scans, options.output)
    experiment = run.trained_experiment
    print(f"predicting with {run.path}; precision {experiment.precision}", flush=True)

    quiet_tensorflow()
    from tf_liver.model.predictor import SlicePredictor
    from tf_liver.model.unet import load_network
    from tf_liver.progress import track
    from tf_liver.volume.inference import segment_volume

    predictor = SlicePredictor(load_network(experiment, str(weights)), experiment)
    done, total = 0, len(outputs)
    for scan, out in track(zip(options.scans, outputs, strict=True), "segmenting scans", total):
        try:
            volume = read_volume(scan)
            label_map = segment_volume(predictor, volume.slices).transpose(2, 1, 0)
            write_label_map(out, label_map, volume.header)
        except (ValueError, OSError) as error:
            if total == 1:
                raise
            print(f"error: {one_line(error)}", file=sys.stderr)
            continue
        done += 1
        print(f"{out}: liver {label_map.sum() * volume.voxel_ml:.1f} ml")
    print(f"{done} of {total} scans done")
    return DONE if done == total else FAILED if done else REFUSED


def label_map_paths(scans: Sequence[Path], folder: Path) -> list[Path]:
    """Return where the label map of each scan goes.

    Raises:
        ValueError: a label map would replace one of the scans, or the label map of another one.
    """
    inputs, taken = {scan.resolve() for scan in scans}, dict[Path, Path]()
    for scan in scans:
        out = folder / f"{case_id_of(scan)}.nii.gz"
        if out.resolve() in inputs:
            raise ValueError(f"{scan}: its label map would replace the scan {out}; choose another --output")
        if out in taken:
            raise ValueError(f"{scan}: its label map {out} would replace that of {taken[out]}; predict one at a time")
        taken[out] = scan
    return list(taken)


if __name__ == "__main__":
    sys.exit(main())
