"""Seconds to score one large case: this project, google-deepmind/surface-distance, and MONAI.

    .venv/bin/python benchmarks/bench_scores.py [--quick] [--rounds 3]

A synthetic liver with tumours in 512 × 512 × 300 voxels of 0.7 × 0.7 × 1 mm, against a prediction that lies two voxels
beside it, misses a wedge and invents a spot far off. Every contestant is a process of its own on one core, the rounds
are interleaved, medians are reported. Ours gives every score of metrics.csv, for liver and tumour, from NIfTI files
("files") or from arrays ("arrays"); the others are given arrays and asked for what they have. MONAI takes part where
`make bench-peers` has made its environment.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import PEERS, finish, medians, run, say

SPACING_MM = (0.7, 0.7, 1.0)
TOLERANCES_MM = (1, 2, 7)
BAR_S = 10


def make_case(folder: Path, size: int, depth: int) -> None:
    """Write reference and prediction as NIfTI and as arrays."""
    import nibabel as nib
    from scipy import ndimage

    from tf_liver.data.phantom import make_phantom

    labels = make_phantom(np.random.default_rng((4, 7)), size, vary=0).labels
    zoom = (1, 1, depth / labels.shape[2])
    liver = ndimage.zoom((labels > 0).astype(np.float32), zoom, order=1) > 0.5
    tumour = ndimage.zoom((labels == 2).astype(np.float32), zoom, order=1) > 0.5
    reference = liver.astype(np.uint8) + (liver & tumour)
    prediction = np.roll(reference, (2, -2, 2), (0, 1, 2))
    prediction[size // 2 : size // 2 + size // 20] = 0
    prediction[-20:-10, -20:-10, -20:-10] = 1
    for name, voxels in (("reference", reference), ("prediction", prediction)):
        (folder / name).mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, np.diag([*SPACING_MM, 1])), folder / name / "case.nii.gz")
        np.save(folder / f"{name}.npy", voxels)


def arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return reference and prediction."""
    return np.load(folder / "reference.npy"), np.load(folder / "prediction.npy")


def files(folder: Path) -> dict[str, float]:
    """All scores, from NIfTI files."""
    from tf_liver.data.cases import Case
    from tf_liver.volume.scoring import score_case

    path = folder / "reference" / "case.nii.gz"
    start = time.perf_counter()
    result = score_case(Case("case", path, path, "case"), folder / "prediction", "whole", None)
    return timed(start, result.rows["liver"].scores)


def ours(folder: Path) -> dict[str, float]:
    """All scores, from arrays."""
    from tf_liver.volume.lesions import match_lesions
    from tf_liver.volume.scores import score_region

    reference, prediction = arrays(folder)
    start = time.perf_counter()
    step_mm, voxels = np.diag(SPACING_MM), reference.size
    row, _ = score_region("case", "liver", reference > 0, prediction > 0, step_mm, voxels)
    score_region("case", "tumour", reference == 2, prediction == 2, step_mm, voxels)
    match_lesions(reference == 2, prediction == 2, step_mm)
    return timed(start, row.scores)


def surface_distance(folder: Path) -> dict[str, float]:
    """NSD and HD95 of the liver."""
    import surface_distance as peer

    reference, prediction = arrays(folder)
    start = time.perf_counter()
    distances = peer.compute_surface_distances(reference > 0, prediction > 0, SPACING_MM)
    found = {f"nsd_{mm}mm": peer.compute_surface_dice_at_tolerance(distances, mm) for mm in TOLERANCES_MM}
    return timed(start, {**found, "hd95_mm": peer.compute_robust_hausdorff(distances, 95)})


def monai(folder: Path) -> dict[str, float]:
    """NSD, HD95 and ASSD of the liver."""
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    torch.set_num_threads(1)
    reference, prediction = (torch.from_numpy(a > 0)[None, None].float() for a in arrays(folder))
    common: dict[str, Any] = {"include_background": True, "spacing": SPACING_MM}
    start = time.perf_counter()
    found = {
        f"nsd_{mm}mm": compute_surface_dice(prediction, reference, [float(mm)], use_subvoxels=True, **common).item()
        for mm in TOLERANCES_MM
    }
    compute_hausdorff_distance(prediction, reference, percentile=95, **common)
    compute_average_surface_distance(prediction, reference, symmetric=True, **common)
    return timed(start, found)


def timed(start: float, found: dict[str, float]) -> dict[str, float]:
    """Return the seconds since `start`, and the scores that all contestants share."""
    return {"seconds": time.perf_counter() - start, **{k: float(v) for k, v in found.items() if k.startswith("nsd_")}}


CONTESTANTS = {"files": files, "arrays": ours, "surface_distance": surface_distance, "monai": monai}


def main() -> None:
    """Run all contestants in turn, or one, in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round over a case of 128 × 128 × 75")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/tf_liver-bench-scores"))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(CONTESTANTS[options.only](options.folder)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    make_case(options.folder, *((128, 75) if options.quick else (512, 300)))
    names = [name for name in CONTESTANTS if name != "monai" or PEERS.exists()]
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    one_core = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for number in range(1 if options.quick else options.rounds):
        for name in names:
            say(f"round {number + 1}: {name}")
            python = str(PEERS) if name == "monai" else sys.executable
            argv = ["taskset", "-c", "0", python, __file__, "--only", name, "--folder", str(options.folder)]
            rounds[name].append(run(argv, one_core))
    figures = {name: medians(results) for name, results in rounds.items()}
    print(f"{'':18} seconds   peak MB   NSD at 1, 2, 7 mm")
    for name, f in figures.items():
        nsd = "  ".join(f"{f[f'nsd_{mm}mm']:.6f}" for mm in TOLERANCES_MM)
        print(f"{name:18} {f['seconds']:7.2f} {f['peak_mb']:9.0f}   {nsd}")
    print(f"bar: all scores from files in {BAR_S} s: {'met' if figures['files']['seconds'] < BAR_S else 'NOT MET'}")
    ours_s = figures["arrays"]["seconds"]
    finish("scores", figures, {f"{n}/arrays": figures[n]["seconds"] / ours_s for n in names if n != "arrays"})


if __name__ == "__main__":
    main()
