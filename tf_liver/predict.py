"""Segment scans: NIfTI in, a label map on the scan's own grid out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional  # noqa: UP035  argparse-dataclass 2.0.0 reads List

from tf_liver.command import DONE, command, debug_option, option, parse, quiet_tensorflow
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
    print(f"predicting with {run.path}", flush=True)

    quiet_tensorflow()
    from tf_liver.model.predictor import SlicePredictor
    from tf_liver.model.unet import load_network
    from tf_liver.progress import track
    from tf_liver.volume.inference import segment_volume

    predictor = SlicePredictor(load_network(run.experiment, str(weights)), run.experiment)
    for scan in track(options.scans, "segmenting scans", len(options.scans)):
        volume = read_volume(scan)
        label_map = segment_volume(predictor, volume.slices).transpose(2, 1, 0)
        out = options.output / f"{case_id_of(scan)}.nii.gz"
        write_label_map(out, label_map, volume.header)
        print(f"{out}: liver {label_map.sum() * volume.voxel_ml:.1f} ml")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
