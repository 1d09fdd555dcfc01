"""The fingerprint of a data set: HU in the liver, sizes, spacings, tumour burden, and the HU window they suggest."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_liver.data.verification import CaseFacts, percentile

PERCENTILES = (0.5, 5, 50, 95, 99.5)
# Fat lies 150 to 200 HU below an enhanced liver and vessels and kidneys up to 100 above it: a margin of 100 on
# either side of what the liver itself holds (its own fat and vessels at the edges included) keeps both in sight.
MARGIN_HU = 100
WINDOW_RULE = f"percentiles 0.5 and 99.5 of HU in the liver, {MARGIN_HU} HU wider on either side, rounded to 10"


def fingerprint(cases: Sequence[CaseFacts]) -> dict[str, Any]:
    """Return what experiments may want to know of a data set, ready for JSON.

    Liver means liver and tumours. A case without liver counts in `cases` and shapes only; a placeholder spacing
    counts in no millimetre and no millilitre. What no case can tell is None.
    """
    livers = [c for c in cases if c.liver_hu]
    measured = [c for c in cases if c.real_spacing]
    shares = [c.tumour_ml / c.liver_ml for c in livers if c.liver_ml and c.tumour_ml is not None]
    counts = sum((c.liver_hu for c in livers if c.liver_hu), Counter[int]())
    return {
        "cases": len(cases),
        "cases_with_liver": len(livers),
        "cases_with_tumour": sum(share > 0 for share in shares),
        "cases_with_real_spacing": len(measured),
        "liver_voxels": counts.total(),
        "liver_hu_percentiles": {f"{p:g}": percentile(counts, p) for p in PERCENTILES} if counts else None,
        "suggested_window_hu": suggest_window(counts) if counts else None,
        "window_rule": WINDOW_RULE,
        "shape": _spread([c.shape for c in cases if c.shape]),
        "spacing_mm": _spread([c.spacing_mm for c in measured]),
        "liver_ml": _spread([c.liver_ml for c in measured if c.liver_ml]),
        "tumour_share_of_liver": _spread(shares),
    }


def suggest_window(counts: Counter[int]) -> list[float]:
    """Return (low, high) HU by `WINDOW_RULE`, rounded outwards.

    counts: how often each HU occurs in the liver, of one or of many scans.
    """
    low, high = percentile(counts, 0.5) - MARGIN_HU, percentile(counts, 99.5) + MARGIN_HU
    return [10.0 * math.floor(low / 10), 10.0 * math.ceil(high / 10)]


def _spread(values: Sequence[Any]) -> dict[str, Any] | None:
    """Return minimum, median and maximum; axis by axis where the values are triples."""
    if not values:
        return None
    table = np.array(values, float)
    rows = {"min": table.min(axis=0), "median": np.median(table, axis=0), "max": table.max(axis=0)}
    return {name: np.round(row, 4).tolist() for name, row in rows.items()}
