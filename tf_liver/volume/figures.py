"""The charts of a report, as SVG that takes its colours and its font from the page around it."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tf_liver.volume.planes import Profile

# Colours that stand for names in the page's style sheet, where light and dark are told apart.
INK, FAINT, REFERENCE, PREDICTION, FIRST, SECOND = (f"#01020{n}" for n in range(6))
_IN_PAGE = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    REFERENCE: "var(--reference)",
    PREDICTION: "var(--prediction)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "tf_liver",  # the same figures give the same bytes
    "svg.fonttype": "none",  # text stays text: selectable, and in the page's font
    "text.parse_math": False,  # a case may be called a$b$c
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.5,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "boxplot.boxprops.color": INK,
    "boxplot.whiskerprops.color": INK,
    "boxplot.capprops.color": INK,
    "boxplot.medianprops.color": SECOND,
    "boxplot.medianprops.linewidth": 1.8,
    "boxplot.showfliers": False,
}
WIDTH = 4.4  # inches
LABELLED = 3  # points that say their case
BOX_FROM = 5  # cases, below which a box would be made of fewer points than it has lines
LIMITS_FROM = 3


def box_plots(name: str, scores: Mapping[str, Mapping[str, float]], label: str, worst: str) -> str:
    """Return a box a score over the cases, with every case as a point and the worst one by its name.

    scores: score → case_id → value. worst: "low" or "high". Whiskers end at the last case within 1.5 interquartile
    ranges (Tukey 1977).
    """
    with _figure(name, height=0.7 + 0.48 * len(scores)) as ((axes,), svg):
        drawn = [value for by_case in scores.values() for value in by_case.values()]
        middle = (min(drawn) + max(drawn)) / 2
        for row, by_case in enumerate(scores.values()):
            values = np.array(list(by_case.values()))
            if len(values) >= BOX_FROM:
                axes.boxplot(values, positions=[row], orientation="horizontal", widths=0.45)
            spread = row + 0.13 * (np.arange(len(values)) % 3 - 1)
            axes.plot(values, spread, "o", color=FIRST, markersize=3.5, alpha=0.75, markeredgewidth=0)
            if len(values) > 1:
                found = int(values.argmin() if worst == "low" else values.argmax())
                side = "left" if values[found] < middle else "right"
                _say(axes, list(by_case)[found], (values[found], row - 0.4), side)
        axes.set_yticks(range(len(scores)), list(scores))
        axes.set_ylim(len(scores) - 0.5, -0.65)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(label)
    return svg[0]


def bland_altman(name: str, case_ids: Sequence[str], reference_ml: np.ndarray, prediction_ml: np.ndarray) -> str:
    """Return volumes as mean against difference, with bias and limits of agreement, bias ± 1.96 SD.

    From three cases on; below that there is no spread to speak of. Source: Bland and Altman, Lancet 1986.
    """
    mean, difference = (reference_ml + prediction_ml) / 2, prediction_ml - reference_ml
    bias, low, high = agreement(reference_ml, prediction_ml)
    with _figure(name) as ((axes,), svg):
        axes.axhline(0, color=FAINT, linewidth=0.8)
        for value, style, said in ((bias, "-", "bias"), (low, "--", "−1.96 SD"), (high, "--", "+1.96 SD")):
            if np.isfinite(value):
                axes.axhline(value, color=SECOND, linestyle=style, linewidth=1.1)
                text = f"{said}\n{value:+,.0f}".replace("-", "−")
                axes.annotate(text, (1.02, value), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        axes.plot(mean, difference, "o", color=FIRST, markersize=5, markeredgewidth=0, alpha=0.85)
        middle = (mean.min() + mean.max()) / 2
        for i in np.argsort(-np.abs(difference))[:LABELLED]:
            if not low <= difference[i] <= high:
                _say(axes, case_ids[i], (mean[i], difference[i]), "left" if mean[i] <= middle else "right", rise=5)
        axes.margins(0.12, 0.2)
        axes.set_xlabel("mean of reference and prediction, ml")
        axes.set_ylabel("prediction − reference, ml")
    return svg[0]


def agreement(reference_ml: np.ndarray, prediction_ml: np.ndarray) -> tuple[float, float, float]:
    """Return bias and both limits of agreement in ml; the limits are NaN below LIMITS_FROM cases."""
    difference = prediction_ml - reference_ml
    spread = 1.96 * float(difference.std(ddof=1)) if len(difference) >= LIMITS_FROM else np.nan
    bias = float(difference.mean())
    return bias, bias - spread, bias + spread


def learning_curves(name: str, log: Mapping[str, np.ndarray]) -> str:
    """Return loss and Dice over the epochs of a run, of training and of validation.

    log: columns of log.csv, with `epoch` from 0; a column that is missing is not drawn.
    """
    epochs = log["epoch"] + 1
    with _figure(name, rows=2, height=3.6) as (both, svg):
        for axes, score in zip(both, ("loss", "dice"), strict=True):
            drawn = [(column, log[column]) for column in (score, f"val_{score}") if column in log]
            for column, values in drawn:
                held_out = column.startswith("val_")
                label, line, colour = ("validation", "--", SECOND) if held_out else ("training", "-", FIRST)
                axes.plot(epochs, values, line, color=colour, label=label)
            positive = np.concatenate([v[np.isfinite(v) & (v > 0)] for _, v in drawn] or [np.ones(1)])
            if score == "loss" and positive.size and positive.max() > 20 * positive.min():
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
            axes.set_ylabel({"loss": "loss", "dice": "Dice"}[score])
        if "val_dice" in log and np.isfinite(log["val_dice"]).any():
            best = int(np.nanargmax(log["val_dice"]))
            said = f"best {log['val_dice'][best]:.3f}, epoch {epochs[best]:.0f}"
            both[1].plot(epochs[best], log["val_dice"][best], "D", color=SECOND, markersize=6, label=said)
            both[1].legend(*[drawn[-1:] for drawn in both[1].get_legend_handles_labels()], loc="lower right")
        both[0].legend(loc="upper right")
        both[1].set_xlabel("epoch")
    return svg[0]


def dice_along(name: str, profiles: Mapping[str, Profile], shown: Sequence[int]) -> str:
    """Return Dice of each axial slice, and below it the areas of both masks; `shown` slices (from 1) are marked.

    A slice in which both masks are empty has no Dice: the line has a gap there.
    """
    with _figure(name, rows=2, height=3.2) as (both, svg):
        styles = ((FIRST, "-", "o"), (SECOND, "--", "s"))
        for (region, profile), (colour, line, marker) in zip(profiles.items(), styles, strict=False):
            number = np.arange(1, len(profile.dice) + 1)
            both[0].plot(
                number, profile.dice, line, marker=marker, color=colour, markersize=2.2, linewidth=1.2, label=region
            )
        area = next(iter(profiles.values()))
        both[1].plot(number, area.reference_cm2, "-", color=REFERENCE, label="reference")
        both[1].plot(number, area.prediction_cm2, "--", color=PREDICTION, label="prediction")
        both[0].plot(shown, np.full(len(shown), -0.04), "^", color=INK, markersize=4.5, clip_on=False)
        both[0].set_ylim(-0.04, 1.04)
        both[0].set_ylabel("Dice")
        both[1].set_ylabel(f"{next(iter(profiles))}, cm²")
        both[1].set_ylim(bottom=0)
        both[1].set_xlabel("axial slice, from the feet up; ▲ shown")
        if len(profiles) > 1:
            both[0].legend(ncols=2, loc="lower center")
        both[1].legend(loc="upper left")
    return svg[0]


def _say(axes: Axes, text: str, where: tuple[float, float], side: str, rise: float = 0) -> None:
    """Write a case's name beside its point; `side` is where the text begins or ends."""
    shift = 3 if side == "left" else -3
    text = text.encode(errors="replace").decode()  # FreeType refuses what is left of names that are no UTF-8
    axes.annotate(text, where, (shift, rise), textcoords="offset points", ha=side, va="center", fontsize=7.5)


@contextmanager
def _figure(name: str, rows: int = 1, height: float = 2.9) -> Iterator[tuple[list[Axes], list[str]]]:
    """Give axes one below the other, and a list that holds their SVG in the end; `name` is in all its ids."""
    svg: list[str] = []
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
        yield list(axes), svg
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg.append(_for_page(out.getvalue(), name))


def _for_page(svg: str, name: str) -> str:
    """Return the <svg> element alone, with names instead of colours, the page's font, and ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'^<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg)
    svg = re.sub(r'\bd="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), svg)
    for colour, variable in _IN_PAGE.items():
        svg = svg.replace(colour, variable)
    return re.sub(r"\n\s*", "\n", svg)
