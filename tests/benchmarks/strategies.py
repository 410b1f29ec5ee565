"""Search strategies compared without training, on a surrogate of recorded learning curves, in simulated seconds.

    python tests/benchmarks/strategies.py CURVES.jsonl [--tried] [--seeds 100] [--out DIR]

Prints, for every strategy, the true val accuracy of the selected configuration (mean and standard error over seeds),
its regret against the best of a large random pool, the epochs and simulated seconds of a whole search, and the epochs
after which it has reached what random search without early stopping ends with; draws the incumbent over epochs and over
seconds (DIR/strategies.png) and keeps the numbers (DIR/strategies.json). Settings were chosen on seeds from 1000 on;
the comparison uses seeds from 0 on. --tried: what was tried beside the defaults, and did not help or did.
"""

import argparse
import json
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from curves import read_curves
from matplotlib.figure import Figure
from numpy.typing import NDArray
from optuna.samplers import GPSampler, TPESampler
from simulate import NUM_CLASSES, History, OurStack, PromotingASHA, RayStack, simulate
from surrogate import MODELS, Surrogate, fit_surrogate
from threadpoolctl import threadpool_limits

from analysis.figures.style import drawing, grid, save_png, styled
from search.config import SearchConfig, load_config
from search.feasibility import why_unfit
from search.propose.sampler import STARTUP_TRIALS, CurveSampler, Drawing, Encoding
from training.config import TrialConfig
from training.geometry import InfeasibleError
from training.layers import count_costs

SPACE = Path(__file__).parent / "recorded-space.yaml"
WORKERS = 2
POOL = 20_000  # random feasible configurations, the best of which regret is measured against
POOL_SEED = 12345
RANDOM = "random, no early stopping"
RAY = "Ray's OptunaSearch, ASHA"
OURS = "ours"
PALETTE = ("#999999", "#56b4e9", "#e69f00", "#009e73", "#0072b2")  # Okabe and Ito, in the order of the comparison


@dataclass(frozen=True)
class Strategy:
    """How a search is made for a config, whose seed is the search's."""

    name: str
    build: Callable[[SearchConfig], Any]
    overrides: dict[str, Any]


def ours(name: str, trial_0: bool = True, overrides: dict[str, Any] | None = None, **stack: Any) -> Strategy:
    """With trial 0, and with first=True also with search.first, before all others."""
    return Strategy(name, lambda config: OurStack(config, trial_0, WORKERS, **stack), overrides or {})


def compared(trial_0: bool) -> list[Strategy]:
    """What the README compares."""
    random = {"sampler.name": "random"}
    return [
        ours(RANDOM, trial_0, {**random, "scheduler.name": "none"}),
        ours("random, ASHA", trial_0, random),
        Strategy(RAY, lambda config: RayStack(config, trial_0), {}),
        ours("Optuna's TPE, our record", trial_0, {"sampler.name": "tpe"}),
        ours(OURS, trial_0, first=trial_0),
    ]


def tried() -> list[Strategy]:
    """One thing changed at a time, all with trial 0 first."""

    def tpe(**settings: Any) -> Callable[[SearchConfig], TPESampler]:
        return lambda config: TPESampler(seed=config.search.seed, **settings)

    def scheduled(grace: int, factor: float, **more: Any) -> dict[str, Any]:
        return {"scheduler.grace_epochs": grace, "scheduler.reduction_factor": factor, **more}

    return [
        ours(OURS, first=True),
        ours("ours, no first configurations"),
        ours("ours, no early stopping", first=True, overrides={"scheduler.name": "none"}),
        ours("ours, 10 start-up trials", first=True, overrides={"sampler.startup_trials": 10}),
        ours("ours, reduction factor 2", first=True, overrides=scheduled(1, 2)),
        ours("ours, reduction factor 4", first=True, overrides=scheduled(1, 4)),
        ours("ours, grace period 3", first=True, overrides=scheduled(3, 3)),
        ours("ours, promotion at rungs", first=True, scheduler=PromotingASHA),
        ours("ours, expected improvement per multiply-add", first=True, sampler=cost_aware),
        ours("TPE", overrides={"sampler.name": "tpe"}),
        ours("TPE, first configurations", first=True, overrides={"sampler.name": "tpe"}),
        ours("TPE, 20 start-up trials", sampler=tpe(n_startup_trials=20)),
        ours("TPE, univariate", sampler=tpe(multivariate=False)),
        ours("TPE, group", sampler=tpe(multivariate=True, group=True)),
        ours("TPE, promotion at rungs", scheduler=PromotingASHA, overrides={"sampler.name": "tpe"}),
        ours("Optuna's GPSampler", sampler=lambda config: GPSampler(seed=config.search.seed)),
        ours("random, ASHA, first configurations", first=True, overrides={"sampler.name": "random"}),
    ]


class CostAware(CurveSampler):
    """Expected improvement over the square root of the multiply-adds, which time follows. Was tried, is not used."""

    def expected_improvement(self, candidates: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
        costs = [multiply_adds(self.space.apply(params)) for params in candidates]
        return super().expected_improvement(candidates) / np.sqrt(costs)


def multiply_adds(config: TrialConfig) -> int:
    try:
        return count_costs(config.model, config.data.image_shape, NUM_CLASSES)[1]
    except InfeasibleError:
        return 1


def cost_aware(config: SearchConfig) -> CurveSampler:
    space = config.search_space

    def is_feasible(params: dict[str, Any]) -> bool:
        return why_unfit(params, space, config.search, NUM_CLASSES) is None

    return CostAware(space, is_feasible, config.train.epochs, STARTUP_TRIALS["gp"], config.search.seed)


SURROGATES: dict[str, Surrogate] = {}  # filled before the processes are forked


def one_search(strategy: Strategy, model: str, seed: int, noise: float) -> History:
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    config = load_config(SPACE, {"search.seed": seed, **strategy.overrides})
    with threadpool_limits(1):  # one search a process
        return simulate(strategy.build(config), SURROGATES[model], seed, WORKERS, noise)


JOBS: list[tuple[Strategy, str, int, float]] = []  # closures do not pickle; a forked process inherits them


def job(index: int) -> History:
    return one_search(*JOBS[index])


def run_all(strategies: Sequence[Strategy], model: str, seeds: Sequence[int], noise: float) -> dict[str, list[History]]:
    """Every strategy with every seed, in as many processes as there are cores."""
    JOBS[:] = [(strategy, model, seed, noise) for strategy in strategies for seed in seeds]
    with ProcessPoolExecutor(os.cpu_count(), get_context("fork")) as pool:
        histories = list(pool.map(job, range(len(JOBS))))
    return {
        strategy.name: histories[index * len(seeds) : (index + 1) * len(seeds)]
        for index, strategy in enumerate(strategies)
    }


def best_of_pool(surrogate: Surrogate, config: SearchConfig) -> float:
    """The highest true value among many random feasible configurations."""
    space, drawing = config.search_space, Drawing(np.random.default_rng(POOL_SEED))
    pool: list[dict[str, Any]] = []
    while len(pool) < POOL:
        params = space.suggest(drawing)  # type: ignore[arg-type]
        if why_unfit(params, space, config.search, NUM_CLASSES) is None:
            pool.append(params)
    return float(surrogate.curves(pool)[:, -1].max())


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """(mean, standard error)."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


def incumbents(histories: Sequence[History], grid: NDArray[np.float64], by_seconds: bool) -> NDArray[np.float64]:
    """(searches, grid): true value of the selected configuration after so many epochs or seconds; NaN before any."""
    curves = []
    for history in histories:
        moments = history.seconds if by_seconds else np.arange(1, len(history.selected) + 1)
        places = np.searchsorted(moments, grid, side="right")
        curves.append(np.array([np.nan, *history.selected])[places])
    return np.array(curves)


def epochs_until(histories: Sequence[History], value: float) -> int | None:
    """The first number of epochs from which on the mean over searches stays at or above a value."""
    longest = max(len(history.selected) for history in histories)
    means = incumbents(histories, np.arange(1.0, longest + 1), by_seconds=False).mean(0)
    below = np.flatnonzero(~(means >= value))
    if not len(below):
        return 1
    return None if below[-1] + 1 == longest else int(below[-1]) + 2


def summary(results: dict[str, list[History]], pool: float, random_value: float) -> list[dict[str, Any]]:
    """A row for each strategy."""
    rows = []
    for name, histories in results.items():
        value, error = mean_and_error([history.selected[-1] for history in histories])
        rows.append(
            {
                "strategy": name,
                "value": value,
                "standard_error": error,
                "regret": pool - value,
                "epochs": float(np.mean([len(history.selected) for history in histories])),
                "seconds": float(np.mean([history.seconds[-1] for history in histories])),
                "complete": float(np.mean([history.num_complete for history in histories])),
                "epochs_until_random": epochs_until(histories, random_value),
            }
        )
    return rows


def print_table(rows: Sequence[dict[str, Any]], title: str) -> None:
    print(f"\n{title}\n")
    print("| strategy | true value of the selected | regret | epochs | seconds | complete | epochs to random's value |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        until = row["epochs_until_random"] or "never"
        print(
            f"| {row['strategy']} | {row['value']:.4f} ± {row['standard_error']:.4f} | {row['regret']:.4f} "
            f"| {row['epochs']:.0f} | {row['seconds']:.0f} | {row['complete']:.1f} | {until} |",
            flush=True,
        )


@styled
def plot_incumbents(results: dict[str, list[History]], title: str) -> Figure:
    """The incumbent's true value over epochs and over seconds: mean and standard error over searches."""
    figure = drawing(9.0, 3.8)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, by_seconds in zip(axes, (False, True), strict=True):
        for (name, histories), colour in zip(results.items(), PALETTE, strict=False):
            ends = [history.seconds[-1] if by_seconds else len(history.selected) for history in histories]
            points = np.linspace(0, np.mean(ends), 200)
            curves = incumbents(histories, points, by_seconds)
            known = ~np.isnan(curves).any(0)
            mean, error = curves[:, known].mean(0), curves[:, known].std(0, ddof=1) / np.sqrt(len(curves))
            axis.plot(points[known], mean, label=name, color=colour)
            axis.fill_between(points[known], mean - error, mean + error, alpha=0.2, color=colour, linewidth=0)
        axis.set_xlabel("simulated seconds with 2 workers" if by_seconds else "epochs trained")
        grid(axis)
    axes[0].set_ylabel("true val accuracy of the selected")
    axes[0].legend(loc="lower right")
    figure.suptitle(title)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path, help="recorded learning curves; see curves.py")
    parser.add_argument("--tried", action="store_true", help="what was tried, instead of the comparison")
    parser.add_argument("--only", nargs="*", help="strategies by name")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--surrogate", choices=list(MODELS), nargs="*", default=list(MODELS))
    parser.add_argument("--noise", type=float, default=1.0, help="of the residuals, as a factor (default: 1)")
    parser.add_argument("--out", type=Path, help="for the picture and the numbers")
    options = parser.parse_args()
    config = load_config(SPACE)
    encoding = Encoding(config.search_space)
    curves = read_curves(options.curves)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    records = []
    for model in options.surrogate:
        surrogate = SURROGATES[model] = fit_surrogate(curves, encoding, model)
        pool = best_of_pool(surrogate, config)
        print(
            f"\nSurrogate {model}: rank correlation at the last epoch {surrogate.rank_correlation:.3f} "
            f"({len(surrogate.predicted)} curves, 5-fold); residual noise {surrogate.noise:.3f} among the better half; "
            f"best of {POOL:,} random configurations {pool:.4f}",
            flush=True,
        )
        for trial_0 in (True,) if options.tried else (True, False):
            strategies = tried() if options.tried else compared(trial_0)
            strategies = [s for s in strategies if not options.only or s.name in options.only]
            results = run_all(strategies, model, seeds, options.noise)
            reference = np.mean([history.selected[-1] for history in results[RANDOM]]) if RANDOM in results else np.inf
            rows = summary(results, pool, float(reference))
            title = f"Surrogate {model}, trial 0 {'first' if trial_0 else 'not'}, n = {len(seeds)} seeds"
            title += f", noise x {options.noise:g}" if options.noise != 1 else ""
            print_table(rows, title)
            records.append({"surrogate": model, "trial_0": trial_0, "pool": pool, "rows": rows})
            if options.out:
                options.out.mkdir(parents=True, exist_ok=True)
                stem = f"strategies-{model}{'' if trial_0 else '-without-trial-0'}"
                save_png(plot_incumbents(results, title), options.out / f"{stem}.png")
    if options.out:
        (options.out / "strategies.json").write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
