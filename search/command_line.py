"""The command line of run_search.py: its flags, and what they set in a config."""

import argparse
from typing import Any, get_args

from search.config import SamplerConfig
from search.flags import parse_flags
from search.record.run_directory import KINDS, Kind
from search.strict_yaml import parse_yaml
from training.config import NUM_CLASSES

RUNS_DIR = "runs"
FLAG_PATHS = {  # flags that set one config path
    "num_samples": "search.num_samples",
    "seed": "search.seed",
    "time_budget": "search.time_budget",
    "data_dir": "data.data_dir",
    "warm_start": "search.warm_start",
    "sampler": "sampler.name",
    "scheduler": "scheduler.name",
    "cpus_per_trial": "resources.cpus_per_trial",
    "gpus_per_trial": "resources.gpus_per_trial",
    "max_concurrent": "resources.max_concurrent",
    "address": "resources.address",
}
AMOUNTS = {"top": "confirm", "seeds": "confirm", "trials": "audit"}  # flags, and the one that each belongs to
LARGEST_AMOUNT = 100_000  # of trainings
EPILOG = """\
examples
  python run_search.py --num-samples 50                     search on CIFAR-10, downloaded on first use
  python run_search.py --time-budget 30m                    as many trials as half an hour allows
  python run_search.py --dry-run                            show the space, measure what the search would cost
  python run_search.py --dataset folder:~/photos            on your images: photos/train/CLASS/*, photos/test/CLASS/*
  python run_search.py --set train.epochs=20 --set model.depth=5
  python run_search.py --set 'space.model.kernel_size={choice: [3, 5], per_layer: true}'
  python run_search.py --sampler random --scheduler none    a baseline to compare with
  python run_search.py --resume runs/NAME                   after Ctrl-C or a crash: no finished epoch is lost
  python run_search.py --resume runs/NAME --num-samples 100 search further
  python run_search.py --warm-start runs/NAME               a new search, with what an earlier one knows
  python run_search.py --confirm runs/NAME                  train the best configurations again, with fresh seeds
  python run_search.py --audit runs/NAME                    train on what was stopped early: was that right?
  python -m analysis runs/NAME                              what the best model is worth

exit codes
  0 the search ended by itself   1 no trial succeeded, or storage failed   2 bad input   130 interrupted; can be resumed
  Ctrl-C ends a search in good order, and a second one at once.
"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of a command line; exits with 2 and a message for bad ones."""
    parser = argparse.ArgumentParser(
        prog="run_search.py",
        description="Search over convolutional networks and training recipes: a sampler proposes trials, Ray runs "
        "them, ASHA stops the hopeless ones. Results go to RUNS_DIR/NAME.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to search")
    what.add_argument("--config", metavar="FILE", help="the search as YAML (default: configs/cifar10.yaml)")
    what.add_argument(
        "--num-samples",
        type=int,
        metavar="N",
        help="trials to train (default: 50, or without limit if --time-budget is given)",
    )
    what.add_argument(
        "--time-budget",
        metavar="TIME",
        help="wall clock of the command, instead of --num-samples or beside it, e.g. 90s, 30m, 2h: trials end with the "
        "epoch they are in, so it may end that much later. With --resume it counts anew, beside the number of trials",
    )
    what.add_argument(
        "--dataset",
        metavar=f"auto|{'|'.join(NUM_CLASSES)}|folder:PATH",
        help="the images; auto takes CIFAR-10, or digits if that cannot be had (default: auto, or the config's)",
    )
    what.add_argument("--data-dir", metavar="DIR", help="downloads and decoded folders (default: data)")
    what.add_argument("--seed", type=int, metavar="N", help="of split, sampler and trials (default: 0)")
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="set any path of the config, e.g. model.depth=4; repeatable; space.PATH=null fixes a path at its default",
    )
    how = parser.add_argument_group("how to search")
    how.add_argument(
        "--sampler",
        metavar="|".join(get_args(SamplerConfig.model_fields["name"].annotation)),
        help="what proposes trials (default: gp)",
    )
    how.add_argument("--scheduler", metavar="asha|none", help="what stops trials early (default: asha)")
    how.add_argument(
        "--warm-start",
        action="extend",
        nargs="+",
        metavar="RUN",
        help="run directories of earlier searches, also in another space: their trials inform the sampler if data, "
        "--seed (which images are val) and train.epochs are the same, and their 3 best configurations come first in "
        "any case. What cannot be used is counted, with reasons",
    )
    where = parser.add_argument_group("where it runs, and where results go")
    where.add_argument("--name", help="of the run directory (default: DATASET-YYYYMMDD-HHMMSS)")
    where.add_argument(
        "--runs-dir",
        "--storage-path",
        default=RUNS_DIR,
        metavar="DIR",
        help="holds run directories: a directory, shared by all nodes of a cluster, or a URL, s3://BUCKET/PATH or "
        "gs://BUCKET/PATH (default: runs)",
    )
    where.add_argument("--cpus-per-trial", type=float, metavar="X", help="cores, and threads, of a trial (default: 1)")
    where.add_argument(
        "--gpus-per-trial", type=float, metavar="X", help="may be a fraction (default: a share of each GPU)"
    )
    where.add_argument(
        "--max-concurrent", type=int, metavar="N", help="trials at a time (default: what the resources hold)"
    )
    where.add_argument(
        "--address", metavar="ADDR", help="of a Ray cluster, or auto (default: start Ray on this machine)"
    )
    other = parser.add_argument_group("other ways to run")
    other.add_argument("--resume", metavar="RUN", help="go on with a run directory")
    other.add_argument(
        "--dry-run", action="store_true", help="show what would be searched, and measure what it would cost; no run"
    )
    after = parser.add_argument_group("after a search: is its winner what it seems?")
    after.add_argument(
        "--confirm",
        metavar="RUN",
        help="train the best configurations of a search and trial 0 again with fresh seeds, in RUN/confirm",
    )
    after.add_argument(
        "--top", type=int, metavar="K", help="with --confirm: configurations beside trial 0 (default: 3)"
    )
    after.add_argument("--seeds", type=int, metavar="S", help="with --confirm: trainings of each (default: 5)")
    after.add_argument(
        "--audit",
        metavar="RUN",
        help="train trials that were stopped at a rung, drawn at random, on to their last epoch, in RUN/audit",
    )
    after.add_argument("--trials", type=int, metavar="K", help="with --audit: how many (default: 20)")
    return parse_flags(parser, arguments)


def overrides_of(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The value of every --set and flag given, by path, flags last; and what is wrong with any --set."""
    values, errors = {}, []
    for assignment in options.set:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            errors.append(f"--set: must be PATH=VALUE, such as model.depth=4, got {assignment!r}")
            continue
        try:
            values[path.strip()] = parse_yaml(text)
        except ValueError as error:
            errors.append(f"--set {path[:60]}: not a YAML value: {text[:60]!r} ({error})")
    if options.time_budget is not None and options.resume is None:
        values.setdefault("search.num_samples", None)  # the time alone ends the search, unless --num-samples is given
    values |= {path: getattr(options, flag) for flag, path in FLAG_PATHS.items() if getattr(options, flag) is not None}
    if options.dataset not in (None, "auto"):
        values["data.dataset"] = options.dataset
    return values, errors


def kind_of(options: argparse.Namespace) -> Kind | None:
    """Which kind of training again is asked for; None: a search."""
    return next((kind for kind in KINDS if getattr(options, kind) is not None), None)


def misplaced(options: argparse.Namespace) -> list[str]:
    """What is wrong with the flags around --confirm and --audit, a line for each."""
    kind, errors = kind_of(options), []
    for flag, owner in AMOUNTS.items():
        amount = getattr(options, flag)
        if amount is not None and getattr(options, owner) is None:
            errors.append(f"--{flag}: goes with --{owner} RUN only, got {amount} without it. Add --{owner} RUN.")
        elif amount is not None and amount < 1:
            errors.append(f"--{flag}: must be at least 1, got {amount}")
        elif amount is not None and amount > LARGEST_AMOUNT:
            errors.append(f"--{flag}: must be at most {LARGEST_AMOUNT:,}, got {amount}")
    if kind is not None:
        resources = (flag for flag, path in FLAG_PATHS.items() if path.startswith("resources."))
        allowed = {kind, *AMOUNTS, "data_dir", *resources}
        given = [flag for flag, value in vars(options).items() if value not in (None, [], False, RUNS_DIR)]
        errors += [
            f"--{flag.replace('_', '-')}: does not go with --{kind}, which trains trials of RUN as RUN's search did. "
            "Leave it out."
            for flag in given
            if flag not in allowed
        ]
    return errors
