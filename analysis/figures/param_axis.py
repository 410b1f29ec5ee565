"""How the values of one hyperparameter lie on an axis, and the ticks of an axis."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.space import SpaceEntry

DISCRETE = 8  # integers of at most so many values are drawn as categories


@dataclass(frozen=True)
class ParamAxis:
    """How the values of one hyperparameter lie on an axis: by number, or as categories at 0, 1, 2, ..."""

    path: str
    low: float
    high: float
    log: bool = False
    choices: list[Any] = field(default_factory=list)  # empty for an axis of numbers


def entry_of(path: str, space: Mapping[str, SpaceEntry]) -> SpaceEntry | None:
    """The entry of the space that a column was drawn from; a layer's is that of all layers. None if unknown."""
    return space.get(path) or space.get(path.rpartition(".")[0])


def axis_of(path: str, space: Mapping[str, SpaceEntry], values: Sequence[Any]) -> ParamAxis:
    """The axis of a column: the range of its entry, widened to what was drawn; integers of few values are choices."""
    entry, drawn = entry_of(path, space), [value for value in values if is_drawn(value)]
    distribution = None if entry is None else entry.distribution()
    choices: list[Any] = []
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
    elif isinstance(distribution, IntDistribution) and not distribution.log:
        wide = range(distribution.low, distribution.high + 1, distribution.step)
        choices = list(wide) if len(wide) <= DISCRETE else []
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in drawn)
    if choices or not are_numbers or not drawn:
        for value in sorted(drawn, key=str):
            if place_of(value, choices) is None:
                choices.append(value)
        return ParamAxis(path, 0, max(0, len(choices) - 1), choices=choices)
    if isinstance(distribution, IntDistribution | FloatDistribution):
        drawn += [distribution.low, distribution.high]
    is_log = entry is not None and entry.log and min(drawn) > 0
    return ParamAxis(path, float(min(drawn)), float(max(drawn)), is_log)


def is_drawn(value: Any) -> bool:
    """False for what stands in a table if a hyperparameter was inactive."""
    return value is not None and value is not pd.NA and value == value  # NaN is not itself


def place_of(value: Any, choices: Sequence[Any]) -> int | None:
    """The index of a choice; True and 1 are different ones."""
    for index, choice in enumerate(choices):
        if choice == value and isinstance(choice, bool) == isinstance(value, bool):
            return index
    return None


def places(axis: ParamAxis, values: Sequence[Any]) -> NDArray[np.float64]:
    """Values on their axis, (N,): numbers as they are, choices as indices, NaN if inactive."""
    drawn = [value if is_drawn(value) else None for value in values]
    if axis.choices:
        drawn = [value if value is None else place_of(value, axis.choices) for value in drawn]
    return np.array(drawn, dtype=np.float64)  # None becomes NaN


def unit(axis: ParamAxis, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places at these shares of an axis, 0 its low and 1 its high end; an axis of one value is widened by a tenth."""
    low, high = (math.log10(axis.low), math.log10(axis.high)) if axis.log else (axis.low, axis.high)
    if low == high:
        low, high = low - 0.1 * max(abs(low), 1), high + 0.1 * max(abs(high), 1)
    at = low + shares * (high - low)
    return 10**at if axis.log else at


def height_on(axis: ParamAxis, at: ArrayLike) -> NDArray[np.float64]:
    """Places as shares of their axis, in [0, 1]; 0.5 on an axis of one value."""
    scale = np.log10 if axis.log else np.asarray
    low, high, scaled = float(scale(axis.low)), float(scale(axis.high)), np.asarray(scale(at), dtype=np.float64)
    return np.where(np.isnan(scaled), np.nan, 0.5) if low == high else (scaled - low) / (high - low)


def scale_x(axes: Axes, axis: ParamAxis, margin: float, written: Callable[[float], str] | None = None) -> None:
    """x as an axis of numbers, `margin` of its width wider on both sides; ticks in words by `written`, else `tick`."""
    if axis.log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(log_ticks(axis.low, axis.high))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(lambda value, _: (written or tick)(value))
    axes.set_xlim(*unit(axis, np.array([-margin, 1 + margin])))


def spread(at: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Offsets in +-width/2 that tell marks at the same place apart; the same for the same input."""
    rank = pd.Series(at).groupby(at, dropna=False).cumcount().to_numpy()
    golden = (math.sqrt(5) - 1) / 2
    return np.asarray(((rank * golden + 0.5) % 1 - 0.5) * width, dtype=np.float64)


def tick(value: float) -> str:
    """`0.001`, `1e-6`."""
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e")


def log_ticks(low: float, high: float) -> list[float]:
    """At most four round numbers between two positive ones, powers of ten if two lie there; else the two."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ([1], [1, 2, 5], range(1, 10)):
        round_numbers = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        inside = [number for number in round_numbers if low * (1 - 1e-9) <= number <= high * (1 + 1e-9)]
        if len(inside) > 1:
            return inside[:: -(-len(inside) // 4)]
    return sorted({low, high})
