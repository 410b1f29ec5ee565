"""A surrogate fitted to recorded learning curves: the curve that a configuration would have, without training it."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import KFold, cross_val_predict

from search.propose.sampler import Encoding

Array = NDArray[np.float64]
FOLDS = 5
NEIGHBOURS = 30  # recorded configurations of similar accuracy, of which one lends its residuals
CHANCE = 0.1


def gaussian_process(dimensions: int) -> GaussianProcessRegressor:
    kernel = ConstantKernel() * RBF(np.full(dimensions, 2.0), (0.1, 100.0)) + WhiteKernel(0.1)
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)


def trees(dimensions: int) -> ExtraTreesRegressor:
    return ExtraTreesRegressor(100, random_state=0)


MODELS = {"gp": gaussian_process, "trees": trees}


@dataclass(frozen=True)
class Surrogate:
    """Accuracies of every epoch and seconds an epoch, as functions of a configuration."""

    encoding: Encoding
    accuracy: Any  # fitted model: encoded configurations (n, d) -> val_accuracy of every epoch (n, epochs)
    log_seconds: Any  # fitted model: (n, d) -> natural logarithm of seconds an epoch (n,)
    predicted: Array  # (n,) cross-validated val_accuracy at the last epoch, sorted
    residuals: Array  # (n, epochs) observed minus cross-validated, in the same order
    rank_correlation: float  # of the cross-validated prediction at the last epoch

    @property
    def epochs(self) -> int:
        return int(self.residuals.shape[1])

    @property
    def noise(self) -> float:
        """Standard deviation of the residuals at the last epoch among the better half."""
        return float(self.residuals[len(self.predicted) // 2 :, -1].std())

    def curves(self, params: Sequence[Mapping[str, Any]]) -> Array:
        """True val_accuracy (n, epochs) of configurations."""
        return np.clip(self.accuracy.predict(self.encoding.encode(params)), 0.0, 1.0)

    def seconds(self, params: Mapping[str, Any]) -> float:
        """Seconds an epoch."""
        return float(np.exp(self.log_seconds.predict(self.encoding.encode([params]))[0]))

    def observe(self, curve: Array, rng: np.random.Generator, noise: float = 1.0) -> Array:
        """A true curve (epochs,) with the residuals, times `noise`, of a recorded one of similar accuracy."""
        place = int(np.searchsorted(self.predicted, curve[-1]))
        low = min(max(0, place - NEIGHBOURS // 2), len(self.predicted) - NEIGHBOURS)
        lender = rng.integers(max(0, low), min(low + NEIGHBOURS, len(self.predicted)))
        return np.clip(curve + noise * self.residuals[lender], CHANCE / 2, 1.0)


def fit_surrogate(curves: Sequence[Mapping[str, Any]], encoding: Encoding, model: str) -> Surrogate:
    """Fit to the recorded curves that reach the last epoch; the others are too few to model."""
    epochs = max(len(line.get("curve", ())) for line in curves)
    whole = [line for line in curves if len(line.get("curve", ())) == epochs]
    inputs = encoding.encode([active(line["config"]) for line in whole])
    accuracies = np.array([[entry["val_accuracy"] for entry in line["curve"]] for line in whole])
    log_seconds = np.log([np.median([entry["epoch_seconds"] for entry in line["curve"]]) for line in whole])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound: an input without effect
        fitted = MODELS[model](inputs.shape[1]).fit(inputs, accuracies)
        predicted = cross_val_predict(fitted, inputs, accuracies, cv=KFold(FOLDS, shuffle=True, random_state=0))
        seconds = trees(inputs.shape[1]).fit(inputs, log_seconds)
    order = np.argsort(predicted[:, -1])
    correlation = spearmanr(predicted[:, -1], accuracies[:, -1]).statistic
    residuals = (accuracies - predicted)[order]
    return Surrogate(encoding, fitted, seconds, predicted[order, -1], residuals, float(correlation))


def active(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration without the paths that were inactive."""
    return {path: value for path, value in config.items() if value is not None}
