"""Runs a search: data, Ray, study and Tuner put together; the run directory says everything afterwards."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from ray import tune
from rich.console import Console
from rich.text import Text

from search import interruption
from search.config import SearchConfig
from search.estimate import SHUTDOWN_SECONDS
from search.feasibility import check_defaults, first_params
from search.propose.sampler import build_sampler
from search.propose.warm_start import warm_start
from search.record.checkpoints import usable_checkpoint
from search.record.endings import Ending, end_pruned, ending
from search.record.environment import record_environment
from search.record.journal import open_study
from search.record.run_directory import CHECKPOINTS_KEPT, CONFIG, locked, trial_directory, write_atomically
from search.record.run_storage import Keeper, RunStorage
from search.record.storage import StorageError
from search.retraining import Retraining, fixed_config
from search.screen.ending import Outcome
from search.workers.asha import build_scheduler
from search.workers.bridge import LiveTrial, StudySearcher
from search.workers.callback import Progress
from search.workers.cluster import Share, workers
from search.workers.retraining import RetrainingSearcher
from search.workers.trainable import trainable
from training.data import TrainData, load_data
from training.loop import EpochResult
from training.messages import printable


def run_search(config: SearchConfig, storage: RunStorage, resume: bool, console: Console, started: float) -> Outcome:
    """Search until N trials are finished, in a new run directory or going on from what a journal holds.

    A time budget counts from `started`, the command's start by time.monotonic(). Raises ConfigError, DataError and
    SearchError before the first trial, and OSError where storage fails.
    """
    if not resume:
        config = config.model_copy(update={"data": config.base.data})
    data = load_data(config.data)
    num_classes, run = len(data.train.class_names), storage.path
    check_defaults(config, num_classes)
    if not resume:
        storage.create(config)
    verb = "Going on with" if resume else "Searching in"
    announce(f"{verb} {storage}: {config.search.budget} on {config.data.dataset}", storage, console)
    with locked(run), kept(config, storage, console) as keeper, contextlib.ExitStack() as undone:
        if not resume:  # the name is free again where something keeps the search from its first trial
            undone.callback(storage.remove)
        write_atomically(run / CONFIG, config.to_yaml())
        record_environment(run, sys.argv)
        ends_at = end_of_training(config, started)
        with workers(config, data, storage, console, ends_at) as share:
            study = open_study(run, config, keeper.patience, keeper.notice)
            undone.pop_all()
            for line in [*warm_start(study, config, num_classes, resume), *queue_first(study, config, num_classes)]:
                console.print(Text(printable(line)))
            study.sampler = build_sampler(config, num_classes, len(study.get_trials(deepcopy=False)))
            searcher = StudySearcher(study, config, num_classes, storage.for_workers, keeper.save)
            searcher.ends_at = ends_at
            return run_trials(searcher, data, storage, keeper, share, console)


def run_retraining(config: SearchConfig, retraining: Retraining, console: Console) -> Outcome:
    """Train what is missing of a fixed list of trials; `config` is that of the search that they come from.

    Raises as run_search does.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data = load_data(config.data)
    storage = retraining.run
    num_classes, run = len(data.train.class_names), storage.path
    run.mkdir(exist_ok=True)
    with locked(run), kept(config, storage, console) as keeper:
        study = open_study(run, None, keeper.patience, keeper.notice)
        config = fixed_config(config, retraining.queue(study))
        write_atomically(run / CONFIG, config.to_yaml())
        record_environment(run, sys.argv)
        announce(f"Training in {storage}: {config.search.budget} on {config.data.dataset}", storage, console)
        with workers(config, data, storage, console) as share:
            study.sampler = build_sampler(config, num_classes, 0)
            searcher = RetrainingSearcher(study, config, num_classes, retraining, keeper.save)
            return run_trials(searcher, data, storage, keeper, share, console)


def announce(what: str, storage: RunStorage, console: Console) -> None:
    console.print(Text(what))
    console.print(Text(f"Learning curves: tensorboard --logdir {storage.path}", style="dim"))


@contextlib.contextmanager
def kept(config: SearchConfig, storage: RunStorage, console: Console) -> Iterator[Keeper]:
    """What keeps the record safe while a search runs; it does so once more at the end."""
    keeper = Keeper(storage, config.resources.storage_timeout, lambda line: console.print(Text(line, style="yellow")))
    try:
        yield keeper
    finally:
        if keeper.lost is None and storage.path.exists():
            keeper.save()


def run_trials(
    searcher: StudySearcher,
    data: TrainData,
    storage: RunStorage,
    keeper: Keeper,
    share: Share,
    console: Console,
) -> Outcome:
    """Train a searcher's trials, those that an earlier command left unfinished first, and settle the study."""
    searcher.pending = list(unfinished_trials(searcher, storage))
    searcher.slots = share.slots
    try:
        with keeper.watching(give_up=interruption.end_tune):
            interrupted = fit(searcher, data, storage, share.resources, console)
    except Exception:
        if keeper.lost is None:
            raise
    if keeper.lost is not None:  # also where Ray has words of its own for it
        raise StorageError(keeper.lost)
    if not interrupted:
        settle(searcher)
    trials = searcher.study.get_trials(deepcopy=False)
    enough = searcher.is_enough(searcher.num_finished)
    ended = enough or searcher.closed or searcher.infeasible_reason
    running = any(trial.state == TrialState.RUNNING for trial in trials)
    out_of_time = searcher.closed and not enough
    return Outcome(trials, running or not ended, searcher.infeasible_reason, out_of_time)


def queue_first(study: optuna.Study, config: SearchConfig, num_classes: int) -> list[str]:
    """Queue search.first behind trial 0, unless an earlier search had better; gives lines that say what is left out."""
    if any("configuration_of" in trial.user_attrs for trial in study.get_trials(deepcopy=False)):
        return []
    params, left_out = first_params(config, num_classes)
    for each in params:
        study.enqueue_trial(each, skip_if_exists=True)
    return left_out


def fit(
    searcher: StudySearcher, data: TrainData, storage: RunStorage, resources: dict[str, float], console: Console
) -> bool:
    """Let Ray run the searcher's trials; True where a signal ended it."""
    config = searcher.config
    # Let all workers start at once. A worker whose trial ends takes the trial of one that is still starting, and Ray
    # ends that one: with short trials, and workers started one after the other, the second core would never be used.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(searcher.slots)
    interruption.raise_if_requested()
    with Progress(searcher, storage.path, console) as progress, deadline(searcher):
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(trainable, data=data), resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=build_scheduler(searcher),
                num_samples=-1,  # the searcher counts
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial_directory(trial.config["number"], trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name=storage.name,
                **storage.ray_location,
                callbacks=[progress],
                checkpoint_config=tune.CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
                failure_config=tune.FailureConfig(max_failures=config.resources.max_failures),
                stop=lambda trial_id, result: searcher.is_out_of_time(trial_id),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except tune.TuneError as error:
            raise StorageError(str(error)) from error
    return interruption.requested()


def unfinished_trials(searcher: StudySearcher, storage: RunStorage) -> Iterator[LiveTrial]:
    """The trials that the journal shows RUNNING, under their own number, each with its newest readable checkpoint.

    Epochs that only a checkpoint knows are added to the journal; a trial that had trained its last epoch is ended.
    """
    study = searcher.study
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        live = searcher.prepare(Trial(study, frozen.number))  # its id, as the journal has one study
        if not isinstance(live, LiveTrial):
            continue  # infeasible, and told so
        live.reported |= set(frozen.intermediate_values)
        storage.pull_trial(live.number)
        results = live.go_on_from(usable_checkpoint(storage.path, live.number) or live.start_from)
        if not tell_ending(study, live, frozen, results[-1] if results else None):
            yield live
        else:
            searcher.num_finished += 1


def tell_ending(study: optuna.Study, live: LiveTrial, frozen: FrozenTrial, last: EpochResult | None) -> bool:
    """End a trial that had ended when the driver died before it told the study; False: there is more to train."""
    if last is not None and last.diverged:
        end_pruned(study, live.trial, Ending.DIVERGED, f"the loss was not finite in epoch {last.epoch}")
    elif last is not None and last.epoch >= live.config.train.epochs:
        study.tell(live.trial, last.val_accuracy)
    elif "stopped_by" in frozen.user_attrs:
        end_pruned(study, live.trial, ending("PRUNED", frozen.user_attrs["stopped_by"]))
    elif "reason" in frozen.user_attrs:
        study.tell(live.trial, state=TrialState.FAIL)
    else:
        return False
    return True


def settle(searcher: StudySearcher) -> None:
    """Nothing stays RUNNING once a search has ended by itself: what is left was cut off by the time budget."""
    if searcher.closed:
        for live in [*searcher.live.values(), *searcher.pending]:
            reason = None if live.reported else "the time was over before its first epoch"
            end_pruned(searcher.study, live.trial, Ending.TIME_BUDGET, reason)
            if not live.reported:  # a search that is resumed begins with it, whoever gave or proposed it
                searcher.study.enqueue_trial(live.trial.params)


def end_of_training(config: SearchConfig, started: float) -> float | None:
    """The time.monotonic() after which no epoch may begin, for the command to end within its time budget.

    What is added to the budget is the rest of one epoch. None: no time budget.
    """
    budget = config.search.time_budget_seconds
    return None if budget is None else started + budget - SHUTDOWN_SECONDS


@contextlib.contextmanager
def deadline(searcher: StudySearcher) -> Iterator[None]:
    """Close the searcher when its time is over."""
    if searcher.ends_at is None:
        yield
        return
    seconds_left = searcher.ends_at - time.monotonic()
    searcher.closed = seconds_left <= 0
    timer = threading.Timer(max(0.0, seconds_left), lambda: setattr(searcher, "closed", True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
