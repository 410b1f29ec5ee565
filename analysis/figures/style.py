"""One look for all figures: palette, sizes, and how a figure becomes a file or a part of a page."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from search.record.endings import Ending

WIDTH = 6.6  # inches
INK = "#1b1f24"  # text and axes; becomes the page's own text colour in a figure that is part of a page
MUTED = "#7a828c"
ENDINGS = {
    Ending.COMPLETE: "trained all epochs",
    Ending.ASHA: "stopped at a rung",
    Ending.TIME_BUDGET: "time budget over",
    Ending.DIVERGED: "diverged",
    Ending.FAILED: "failed",
    Ending.RUNNING: "still running",
    Ending.INFEASIBLE: "infeasible",
}
# Okabe and Ito, 2008: told apart by colour-blind readers.
BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
PURPLE, SKY, YELLOW, GREY = "#cc79a7", "#56b4e9", "#f0e442", "#999999"
COLOURS = dict(zip(ENDINGS, (BLUE, ORANGE, PURPLE, RED, SKY, GREEN, GREY), strict=True))
BEST = BLUE
RIGHT, WRONG = GREEN, RED
CYCLE = [BLUE, ORANGE, GREEN, PURPLE, SKY, RED]
MANY = 300  # marks from which on they become pixels, which keeps an SVG small
# Of a class name in a script that the font does not have.
no_glyph_warnings = partial(warnings.catch_warnings, action="ignore", category=UserWarning)
RC = {
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "image.interpolation": "nearest",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.parse_math": False,  # a class may be called $x$
    "svg.fonttype": "path",
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Picture:
    """A figure as the report shows it, with the sentence that says what it shows of this search."""

    name: str  # of its PNG file
    title: str
    figure: Figure
    sentence: str


def drawing(width: float = WIDTH, height: float = 3.4) -> Figure:
    """An empty figure, sizes in inches, that belongs to no window."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def styled(plot: Callable[..., Figure]) -> Callable[..., Figure]:
    """A plot function that draws in the project's style and leaves matplotlib's settings as they were."""

    @wraps(plot)
    def in_style(*args: Any, **options: Any) -> Figure:
        with matplotlib.rc_context(RC):
            return plot(*args, **options)

    return in_style


def message(figure: Figure, text: str) -> Figure:
    """A figure that says why it is empty."""
    figure.subplots().set_axis_off()  # a notebook shows no figure without axes
    figure.text(0.5, 0.5, text, ha="center", va="center", color=MUTED)
    return figure


def grid(axes: Axes, axis: Literal["both", "x", "y"] = "both", whole_x: bool = False) -> None:
    """Lines behind the marks; `whole_x`: ticks of x are integers, as epochs are."""
    axes.grid(True, axis=axis, color=MUTED, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    if whole_x:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def dots(axes: Axes, x: Any, y: Any, n: int, **look: Any) -> None:
    """Dots of a figure that has `n` of them."""
    axes.scatter(x, y, rasterized=n > MANY, **{"linewidths": 0, "zorder": 3, **look})


def mark_trials(axes: Axes, numbers: Any, x: Any, y: Any, best: int | None) -> None:
    """The best trial as a star, trial 0 as a diamond."""
    styles: dict[int | None, dict[str, Any]] = {
        0: {"marker": "D", "s": 26, "facecolors": "none", "label": "trial 0, the defaults"},
        best: {"marker": "*", "s": 90, "facecolors": INK, "label": f"best trial, {best}"},
    }
    for number, style in styles.items():
        mark = (numbers == number) & np.isfinite(y)
        if mark.any():
            axes.scatter(x[mark], y[mark], edgecolors=INK, linewidths=1, zorder=5, **style)


def legend(figure: Figure, ncols: int, **options: Any) -> None:
    """One legend above all panels of what is labelled in any of them."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=ncols, **options)


def save_png(figure: Figure, path: Path) -> None:
    """Write a PNG on white."""
    with matplotlib.rc_context(RC), no_glyph_warnings():
        figure.savefig(path, format="png", dpi=150, facecolor="white")


def to_svg(figure: Figure, name: str) -> str:
    """An <svg> element without a background, its ink the text colour of the page around it."""
    stream = StringIO()
    with matplotlib.rc_context({**RC, "svg.hashsalt": name}), no_glyph_warnings():
        figure.savefig(stream, format="svg", dpi=150, transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = re.sub(r"<!--.*?-->\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    return svg.replace(INK, "currentColor")
