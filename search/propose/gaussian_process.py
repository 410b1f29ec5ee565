"""A Gaussian process regression with a length scale for each input, made for few points in many dimensions.

Matern 5/2 and noise, fitted by maximum a posteriori; the prior of the length scales grows with the square root of the
number of inputs (Hvarfner et al., "Vanilla Bayesian optimization performs great in high dimensions", 2024).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

# Priors of logarithms (mean, standard deviation), for values of unit variance and inputs in the unit cube.
LENGTH_SCALE = (np.log(0.5), 1.0)  # of sqrt(d), for d inputs
AMPLITUDE = (0.0, 1.0)
NOISE = (np.log(0.05), 1.0)
SMALLEST_NOISE = 1e-4  # keeps the covariance invertible
ITERATIONS = 30  # of the optimiser; each fit starts from the last one


class GaussianProcess:
    """Fit as often as wanted: every fit starts from the last one's hyperparameters."""

    def __init__(self, dimensions: int) -> None:
        scale = LENGTH_SCALE[0] + 0.5 * np.log(dimensions)
        self.prior_mean = np.array([scale] * dimensions + [AMPLITUDE[0], NOISE[0]])
        self.prior_sd = np.array([LENGTH_SCALE[1]] * dimensions + [AMPLITUDE[1], NOISE[1]])
        self.logs = self.prior_mean.copy()  # of length scales (d), amplitude, noise variance

    def fit(self, inputs: Array, values: Array) -> None:
        """Hyperparameters and weights for inputs (n, d) and values (n,)."""
        squares = (inputs[:, None, :] - inputs[None, :, :]) ** 2  # (n, n, d)
        targets = (values - values.mean()) / (values.std() or 1.0)
        reach = [(mean - 4 * sd, mean + 4 * sd) for mean, sd in zip(self.prior_mean, self.prior_sd, strict=True)]
        reach[-1] = (np.log(SMALLEST_NOISE), reach[-1][1])
        found = minimize(
            self._negative_log_posterior,
            self.logs,
            (squares, targets),
            jac=True,
            method="L-BFGS-B",
            bounds=reach,
            options={"maxiter": ITERATIONS},
        )
        self.logs = found.x
        self.condition(inputs, values)

    def condition(self, inputs: Array, values: Array) -> None:
        """Weights for inputs (n, d) and values (n,) under the hyperparameters as they are."""
        self.inputs, self.mean, self.sd = inputs, values.mean(), values.std() or 1.0
        noise = np.exp(self.logs[-1]) * np.eye(len(inputs))
        self.factor = cholesky(self._covariance(inputs, inputs) + noise, lower=True)
        self.weights = cho_solve((self.factor, True), (values - self.mean) / self.sd)

    def predict(self, inputs: Array) -> tuple[Array, Array]:
        """(mean, standard deviation without noise), both (n,), for inputs (n, d)."""
        cross = self._covariance(inputs, self.inputs)
        solved = solve_triangular(self.factor, cross.T, lower=True)
        variance = np.maximum(np.exp(self.logs[-2]) - (solved**2).sum(0), 1e-12)
        return self.mean + self.sd * cross @ self.weights, self.sd * np.sqrt(variance)

    def _covariance(self, a: Array, b: Array) -> Array:
        a, b = a / np.exp(self.logs[:-2]), b / np.exp(self.logs[:-2])
        distances = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0.0)
        return np.exp(self.logs[-2]) * matern(distances)

    def _negative_log_posterior(self, logs: Array, squares: Array, targets: Array) -> tuple[float, Array]:
        """Value and gradient; Rasmussen and Williams, "Gaussian processes for machine learning", 2006, 5.9."""
        inverse_squares, amplitude, noise = np.exp(-2 * logs[:-2]), np.exp(logs[-2]), np.exp(logs[-1])
        distances = squares @ inverse_squares  # (n, n)
        covariance = amplitude * matern(distances)
        factor = cholesky(covariance + noise * np.eye(len(targets)), lower=True)
        inverse = cho_solve((factor, True), np.eye(len(targets)))
        weights = inverse @ targets
        deviations = (logs - self.prior_mean) / self.prior_sd
        value = 0.5 * targets @ weights + np.log(np.diag(factor)).sum() + 0.5 * deviations @ deviations
        outer = np.outer(weights, weights) - inverse
        root = np.sqrt(5 * distances)
        slope = outer * (amplitude * 5 / 3 * (1 + root) * np.exp(-root))
        lengths = np.tensordot(slope, squares, 2) * inverse_squares
        gradient = -0.5 * np.array([*lengths, (outer * covariance).sum(), noise * np.trace(outer)])
        return float(value), gradient + deviations / self.prior_sd


def matern(squared_distances: Array) -> Array:
    """The Matern 5/2 correlation of squared distances."""
    root = np.sqrt(5 * squared_distances)
    return (1 + root + root**2 / 3) * np.exp(-root)
