"""The command line of run_search.py: flags and --set over a YAML file, the choice of the data set, how to go on."""

import argparse
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from search.config import SearchConfig, contradictions, load_config, parse_config, read_yaml
from search.flags import parse_flags
from search.interruption import NOTHING_BEGUN
from search.propose.warm_start import check_earlier
from search.record.run_directory import CONFIG, KINDS, Kind, SearchError, open_run, refuse_links
from search.record.run_storage import RunStorage
from search.record.storage import child_url, is_url, parent_url
from search.strict_yaml import parse_yaml
from training.config import validate
from training.errors import ConfigError
from training.messages import printable

if TYPE_CHECKING:  # else Ray and torch would be imported, which take seconds, before anything is checked
    from search.workers.retraining import Retraining

CONFIGS = Path(__file__).parent.parent / "configs"
RUNS_DIR = "runs"
DIGITS_NOTICE = (
    "CIFAR-10 is neither in {data_dir} nor reachable, so this search uses scikit-learn's handwritten digits instead. "
    "For CIFAR-10 put cifar-10-python.tar.gz into that directory or connect to the internet, and add --dataset cifar10."
)
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
# A run directory may come from elsewhere, and what reaches a Ray cluster runs code there: its address is given anew.
NOT_KEPT: dict[str, Any] = {"resources.address": None}
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
        help="trials to train (default: 50, or without limit where --time-budget is given)",
    )
    what.add_argument(
        "--time-budget",
        metavar="TIME",
        help="wall clock of the command, instead of --num-samples or beside it, e.g. 90s, 30m, 2h: trials end with the "
        "epoch they are in, so it may end that much later. With --resume it counts anew, beside the number of trials",
    )
    what.add_argument(
        "--dataset",
        metavar="auto|cifar10|cifar100|digits|folder:PATH",
        help="the images; auto takes CIFAR-10, or digits where that cannot be had (default: auto, or the config's)",
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
    how.add_argument("--sampler", metavar="gp|tpe|random", help="what proposes trials (default: gp)")
    how.add_argument("--scheduler", metavar="asha|none", help="what stops trials early (default: asha)")
    how.add_argument(
        "--warm-start",
        action="extend",
        nargs="+",
        metavar="RUN",
        help="run directories of earlier searches, also in another space: their trials inform the sampler where data, "
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


@dataclass(frozen=True)
class Plan:
    """What a command line asks for: a validated config and the run directory it belongs to."""

    config: SearchConfig
    run: RunStorage
    resume: bool
    retraining: "Retraining | None" = None

    @property
    def num_trials(self) -> int | None:
        """How many train at most; None: as many as the time allows."""
        return self.config.search.num_samples if self.retraining is None else sum(self.retraining.wanted.values())

    def announce(self, console: Console) -> None:
        """What the command line decided by itself."""
        if self.config.search.notice:
            console.print(Panel(Text(printable(self.config.search.notice)), title="NOTICE", border_style="bold yellow"))


def plan_search(options: argparse.Namespace) -> Plan:
    """Config and run directory of a command line. Raises ConfigError and SearchError."""
    overrides, errors = _overrides(options)
    if options.name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", options.name):
        errors.append(f"--name: must be letters, digits, '.', '_' and '-' (at most 100), got {options.name!r}")
    errors += _misplaced(options)
    try:
        plan = _planner(options)(options, overrides)
    except ConfigError as error:
        raise ConfigError(errors + error.errors) from None
    if errors:
        raise ConfigError(errors)
    return plan


def _plan_new(options: argparse.Namespace, overrides: dict[str, Any]) -> Plan:
    runs_dir = _place("--runs-dir", options.runs_dir)
    config = _resolve_paths(_load(options, overrides))
    check_earlier(config)
    dataset = config.data.dataset.partition(":")[0]
    name = options.name or f"{dataset}-{datetime.now():%Y%m%d-%H%M%S}"
    run = RunStorage(child_url(runs_dir, name) if isinstance(runs_dir, str) else runs_dir / name)
    if not options.dry_run:
        run.check_free()
    return Plan(config, run, resume=False)


def _planner(options: argparse.Namespace) -> Callable[[argparse.Namespace, dict[str, Any]], Plan]:
    if _kind(options) is not None:
        return _plan_retraining
    return _plan_new if options.resume is None else _plan_resume


def _kind(options: argparse.Namespace) -> Kind | None:
    return next((kind for kind in KINDS if getattr(options, kind) is not None), None)


def _misplaced(options: argparse.Namespace) -> list[str]:
    """What is wrong with the flags around --confirm and --audit, a line for each."""
    kind, errors = _kind(options), []
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


def _plan_retraining(options: argparse.Namespace, overrides: dict[str, Any]) -> Plan:
    from search.workers.retraining import plan_audit, plan_confirmation

    kind = _kind(options)
    assert kind is not None
    run = RunStorage(_place(f"--{kind}", getattr(options, kind)))
    open_run(run.path, str(run))
    config = _resolve_paths(parse_config(read_yaml(run.path / CONFIG), {**NOT_KEPT, **overrides}))
    if kind == "confirm":
        retraining = plan_confirmation(run, options.top or 3, options.seeds or 5)
    else:
        retraining = plan_audit(run, options.trials or 20, config.search.seed)
    refuse_links(retraining.run.path)
    return Plan(config, retraining.run, resume=False, retraining=retraining)


def resume_command(plan: Plan | None) -> str:
    """How to go on with a search; what to say where it had not begun."""
    if plan is None or not (plan.run.path / CONFIG).is_file():
        return NOTHING_BEGUN
    given = plan.config.resources.address
    address = "" if given is None else f" --address {shlex.quote(given)}"
    if plan.retraining is not None:
        kind, source = plan.retraining.kind, shlex.quote(shortest(plan.retraining.source))
        return f"Go on with:\n  python run_search.py --{kind} {source} {plan.retraining.amounts}{address}"
    return f"Go on with:\n  python run_search.py --resume {shlex.quote(shortest(plan.run))}{address}"


def _overrides(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The value of every --set and flag given, by path, flags last; and what is wrong with any --set."""
    values, errors = {}, []
    for assignment in options.set:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            errors.append(f"--set: must be PATH=VALUE, such as model.depth=4, got {assignment!r}")
            continue
        try:
            values[path.strip()] = _number_with_exponent(parse_yaml(text))
        except ValueError as error:
            errors.append(f"--set {path[:60]}: not a YAML value: {text[:60]!r} ({error})")
    if options.time_budget is not None and options.resume is None:
        values.setdefault("search.num_samples", None)  # the time alone ends the search, unless --num-samples is given
    values |= {path: getattr(options, flag) for flag, path in FLAG_PATHS.items() if getattr(options, flag) is not None}
    if options.dataset not in (None, "auto"):
        values["data.dataset"] = options.dataset
    return values, errors


def _number_with_exponent(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; a user means a number."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def _load(options: argparse.Namespace, overrides: dict[str, Any]) -> SearchConfig:
    if options.config is not None:
        return load_config(options.config, overrides)
    dataset = overrides.get("data.dataset")
    if dataset is not None:
        return load_config(CONFIGS / ("digits.yaml" if dataset == "digits" else "cifar10.yaml"), overrides)
    from training.data import cifar_is_available

    config = _resolve_paths(load_config(CONFIGS / "cifar10.yaml", overrides))
    if cifar_is_available(config.data):
        return config
    notice = DIGITS_NOTICE.format(data_dir=config.data.data_dir)
    return load_config(CONFIGS / "digits.yaml", {**overrides, "search.notice": notice})


def _plan_resume(options: argparse.Namespace, overrides: dict[str, Any]) -> Plan:
    place = _place("--resume", options.resume)
    run = RunStorage(place)
    open_run(run.path, str(run))
    if run.name in KINDS:
        parent = RunStorage(parent_url(place) if isinstance(place, str) else place.parent)
        if (parent.path / CONFIG).is_file():
            raise SearchError(f"{run} was made by --{run.name}. Go on with: --{run.name} {parent}")
    values = read_yaml(run.path / CONFIG)
    saved = parse_config(values, {})
    kept = {"search.warm_start": saved.search.warm_start}  # the study holds what was taken over
    if options.config is None:
        kept |= NOT_KEPT
    wanted = parse_config(read_yaml(options.config) if options.config else values, {**kept, **overrides})
    wanted = _resolve_paths(wanted)
    errors = contradictions(saved, wanted)
    if options.warm_start is not None:
        errors = [error for error in errors if not error.startswith("search.warm_start:")]
        errors.append(
            "--warm-start: must not be given with --resume, whose study holds what its search took over at its start. "
            "Leave it out, or start a new search with it."
        )
    if options.name is not None and options.name != run.name:
        errors.append(f"--name: a resumed search keeps its name {run.name!r}, got {options.name!r}")
    if errors:
        raise ConfigError(errors)
    return Plan(wanted, run, resume=True)


def _resolve_paths(config: SearchConfig) -> SearchConfig:
    """Paths made absolute: Ray's workers run in other directories."""
    data = config.data.model_dump()
    data["data_dir"] = str(_absolute("data.data_dir", data["data_dir"]))
    if data["dataset"].startswith("folder:"):
        data["dataset"] = f"folder:{_absolute('data.dataset', data['dataset'].removeprefix('folder:'))}"
    runs = dict.fromkeys(str(_place("search.warm_start", run)) for run in config.search.warm_start)
    search = config.search.model_copy(update={"warm_start": tuple(runs)})
    return config.model_copy(update={"data": validate(type(config.data), data), "search": search})


def _place(key: str, text: str) -> Path | str:
    """A directory, made absolute, or a URL."""
    return text if is_url(text) else _absolute(key, text)


def _absolute(key: str, text: str) -> Path:
    try:
        path = Path(text).expanduser().resolve()
        path.exists()
        str(path).encode()
        return path
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError([f"{key}: {text[:100]!r} is not a usable path ({error}). Give another."]) from None


def shortest(run: RunStorage) -> str:
    """Relative to the working directory where it lies below it."""
    path = run.path
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(run)
