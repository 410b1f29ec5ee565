"""What a search will cost: epochs from its scheduler, time from measured epochs, disk from the networks' sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

import numpy as np

from search.config import SearchConfig
from search.feasibility import Params, feasible_networks
from search.record.run_directory import CHECKPOINTS_KEPT
from search.record.rungs import Rungs
from training.checkpoint import checkpoint_bytes
from training.config import TrialConfig
from training.layers import count_costs

SHUTDOWN_SECONDS = 5.0  # from the end of the last epoch to the end of the command: workers, Ray, the leaderboard

# A search lies between one that learns nothing, in which ASHA meets its trials in random order, and one in which every
# trial trains all epochs: the better the sampler's proposals become, the fewer of them ASHA stops.
LEARNED_SHARE = 0.3  # 0.31 and 0.46 in searches with tpe on digits and CIFAR-10, 0.15 in simulated ones with gp
TRIALS_BEFORE_LEARNING = 10  # about what a sampler draws at random first
DEFAULTS_QUALITY = 0.9  # trial 0, made by hand, is better than this share of random trials
SIMULATIONS = 10  # of a search; their mean is taken
SIMULATED_TOTALS = 200  # of the checkpoints on disk
SIMULATED_TRIALS = 300  # at most; more trials behave like these
EPOCH_OVERHEAD_SECONDS = 0.02  # checkpoint, report and Ray's answer
TRIAL_OVERHEAD_SECONDS = 0.1  # proposal, and a worker's change to the next trial
TRIAL_OVERHEAD_BYTES = 40_000  # TensorBoard events, journal, Ray's files
TRIES = 1000  # proposals
SIZED = 100  # networks that are only counted


@dataclass(frozen=True)
class Measurement:
    """What a dry run measured on the workers that a search would have."""

    resources: dict[str, float]  # of one trial, by kind
    slots: int  # trials at a time
    start_up_seconds: float  # from the start of the command until the workers are ready
    defaults_seconds: float  # an epoch of trial 0
    sampled_seconds: tuple[float, ...]  # an epoch of each sampled network
    failures: tuple[str, ...] = ()  # why others could not be trained


@dataclass(frozen=True)
class Epochs:
    """Epochs of all trials together, and the checkpoints that they leave."""

    lowest: float  # nothing is learned
    expected: float
    highest: float  # no trial is stopped
    checkpoints: float


def expected_epochs(config: SearchConfig, num_trials: int, slots: int) -> Epochs:
    """The epochs that a number of trials, one at least, trains."""
    highest = float(num_trials * config.train.epochs)
    most_kept = float(num_trials * _kept(config.train.epochs))
    if config.scheduler.name == "none":
        return Epochs(highest, highest, highest, most_kept)
    simulated = min(num_trials, SIMULATED_TRIALS)
    trials = [epochs for seed in range(SIMULATIONS) for epochs in simulate_epochs(config, simulated, slots, seed)]
    lowest, least_kept = num_trials * fmean(trials), num_trials * fmean(map(_kept, trials))
    learned = LEARNED_SHARE * max(0.0, 1 - TRIALS_BEFORE_LEARNING / num_trials)
    if not config.sampler.learns:
        learned = 0.0
    return Epochs(
        lowest,
        lowest + learned * (highest - lowest),
        highest,
        least_kept + learned * (most_kept - least_kept),
    )


def _kept(epochs: int) -> int:
    return min(epochs, CHECKPOINTS_KEPT)


def simulate_epochs(config: SearchConfig, num_trials: int, slots: int, seed: int) -> list[int]:
    """Epochs that ASHA lets each of some trials of random, unchanging quality train, `slots` at a time in step."""
    quality = np.random.default_rng(seed).random(num_trials)
    quality[0] = DEFAULTS_QUALITY
    scheduler, epochs = config.scheduler, [0] * num_trials
    rungs = Rungs(scheduler.grace_epochs, scheduler.reduction_factor, config.train.epochs)
    waiting, running = iter(range(num_trials)), list[int]()
    while True:
        running += islice(waiting, slots - len(running))
        if not running:
            return epochs
        for number in running.copy():
            epochs[number] += 1
            is_last = epochs[number] == config.train.epochs
            stopped = rungs.stops(number, epochs[number], float(quality[number])) and number != 0
            if is_last or stopped:
                running.remove(number)


def expected_seconds(config: SearchConfig, num_trials: int, num_epochs: float, measured: Measurement) -> float:
    """Wall time of the whole command. Trial 0 trains all its epochs; others take what the samples did on average."""
    defaults, others = config.train.epochs, max(0.0, num_epochs - config.train.epochs)
    mean_seconds = fmean(measured.sampled_seconds or [measured.defaults_seconds])
    training = defaults * measured.defaults_seconds + others * mean_seconds
    overhead = num_epochs * EPOCH_OVERHEAD_SECONDS + num_trials * TRIAL_OVERHEAD_SECONDS
    return measured.start_up_seconds + (training + overhead) / min(measured.slots, num_trials) + SHUTDOWN_SECONDS


def affordable_trials(config: SearchConfig, measured: Measurement) -> int:
    """About how many trials end within the time budget. Epochs are not proportional to trials: a few steps there."""
    fixed = measured.start_up_seconds + SHUTDOWN_SECONDS
    seconds_for_training = (config.search.time_budget_seconds or 0.0) - fixed
    num_trials = 50
    for _ in range(4):
        num_epochs = expected_epochs(config, num_trials, measured.slots).expected
        seconds = expected_seconds(config, num_trials, num_epochs, measured) - fixed
        num_trials = max(1, int(num_trials * seconds_for_training / seconds))
    return num_trials if seconds_for_training > 0 else 0


def expected_bytes(num_trials: int, checkpoints: float, defaults_bytes: int, sampled_bytes: Sequence[int]) -> float:
    """What a run directory takes, from the size of a checkpoint of trial 0 and of sampled networks.

    Few networks are large: a short search hardly meets them, and takes less than the mean says. So the others' total
    is the median of totals drawn from the samples.
    """
    of_defaults = min(CHECKPOINTS_KEPT, checkpoints)
    others, generator = checkpoints - of_defaults, np.random.default_rng(0)
    drawn = min(max(1, round(others)), 1000)
    totals = generator.choice(np.asarray(sampled_bytes or [defaults_bytes]), (SIMULATED_TOTALS, drawn)).sum(axis=1)
    small_files = num_trials * TRIAL_OVERHEAD_BYTES
    return of_defaults * defaults_bytes + others / drawn * float(np.median(totals)) + small_files


def sample_networks(config: SearchConfig, num_classes: int, count: int) -> list[tuple[Params, TrialConfig]]:
    """Up to `count` random feasible points of the space, the same at every call: (params, config)."""
    return list(islice(feasible_networks(config, num_classes, TRIES), count))


def feasible_share(config: SearchConfig, num_classes: int, proposals: int) -> float:
    """The share in [0, 1] of random points of the space that can be trained."""
    return sum(1 for _ in feasible_networks(config, num_classes, proposals)) / proposals


def sizes_of_checkpoints(config: SearchConfig, num_classes: int) -> tuple[int, list[int]]:
    """Bytes of a checkpoint of trial 0, and of random networks."""
    networks = [config.base, *(network for _, network in sample_networks(config, num_classes, SIZED))]
    defaults, *sampled = (
        checkpoint_bytes(network.optimizer, count_costs(network.model, network.data.image_shape, num_classes)[0])
        for network in networks
    )
    return defaults, sampled
