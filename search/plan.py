"""What a command line asks for, checked: the config, with the choice of the data set, and the run directory."""

import argparse
import re
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from search.command_line import kind_of, misplaced, overrides_of
from search.config import SearchConfig, contradictions, load_config, parse_config, read_yaml
from search.interruption import NOTHING_BEGUN
from search.propose.warm_start import check_earlier
from search.record.run_directory import CONFIG, KINDS, SearchError, open_run, refuse_links
from search.record.run_storage import RunStorage
from search.record.storage import child_of, is_url, parent_url
from search.retraining import Retraining, plan_audit, plan_confirmation
from training.config import NUM_CLASSES, validate
from training.errors import ConfigError
from training.messages import printable

CONFIGS = Path(__file__).parent.parent / "configs"
DIGITS_NOTICE = (
    "CIFAR-10 is neither in {data_dir} nor reachable, so this search uses scikit-learn's handwritten digits instead. "
    "For CIFAR-10 put cifar-10-python.tar.gz into that directory or connect to the internet, and add --dataset cifar10."
)
# A run directory may come from elsewhere, and what reaches a Ray cluster runs code there: its address is given anew.
NOT_KEPT: dict[str, Any] = {"resources.address": None}


@dataclass(frozen=True)
class Plan:
    """What a command line asks for: a validated config and the run directory it belongs to."""

    config: SearchConfig
    run: RunStorage
    resume: bool
    retraining: Retraining | None = None

    def announce(self, console: Console) -> None:
        """What the command line decided by itself."""
        if self.config.search.notice:
            console.print(Panel(Text(printable(self.config.search.notice)), title="NOTICE", border_style="bold yellow"))


def plan_search(options: argparse.Namespace) -> Plan:
    """Config and run directory of a command line. Raises ConfigError and SearchError."""
    overrides, errors = overrides_of(options)
    if options.name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", options.name):
        errors.append(f"--name: must be letters, digits, '.', '_' and '-' (at most 100), got {options.name!r}")
    errors += misplaced(options)
    planner = _plan_new if options.resume is None else _plan_resume
    try:
        plan = (planner if kind_of(options) is None else _plan_retraining)(options, overrides)
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
    run = RunStorage(child_of(runs_dir, name))
    if not options.dry_run:
        run.check_free()
    return Plan(config, run, resume=False)


def _plan_retraining(options: argparse.Namespace, overrides: dict[str, Any]) -> Plan:
    kind = kind_of(options)
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


def _load(options: argparse.Namespace, overrides: dict[str, Any]) -> SearchConfig:
    if options.config is not None:
        return load_config(options.config, overrides)
    dataset = overrides.get("data.dataset")
    if dataset is not None:
        own = CONFIGS / f"{dataset}.yaml"
        return load_config(own if dataset in NUM_CLASSES and own.is_file() else CONFIGS / "cifar10.yaml", overrides)
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
        parent = RunStorage(parent_url(place) if is_url(place) else Path(place).parent)
        if (parent.path / CONFIG).is_file():
            raise SearchError(f"{run} was made by --{run.name}. Go on with: --{run.name} {parent}")
    values = read_yaml(run.path / CONFIG)
    saved = parse_config(values, {})
    kept = {"search.warm_start": saved.search.warm_start}  # the study holds what was taken over
    if options.config is None:
        kept |= NOT_KEPT
    wanted = parse_config(read_yaml(options.config) if options.config else values, {**kept, **overrides})
    wanted = _resolve_paths(wanted)
    data = wanted.data.model_copy(update={"split_seed": saved.data.split_seed})  # what val was cut by
    wanted = wanted.model_copy(update={"data": data})
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
    data["data_dir"] = _absolute("data.data_dir", data["data_dir"])
    if data["dataset"].startswith("folder:"):
        data["dataset"] = f"folder:{_absolute('data.dataset', data['dataset'].removeprefix('folder:'))}"
    runs = dict.fromkeys(_place("search.warm_start", run) for run in config.search.warm_start)
    search = config.search.model_copy(update={"warm_start": tuple(runs)})
    return config.model_copy(update={"data": validate(type(config.data), data), "search": search})


def _place(key: str, text: str) -> str:
    """A directory, made absolute, or a URL."""
    return text if is_url(text) else _absolute(key, text)


def _absolute(key: str, text: str) -> str:
    try:
        path = Path(text).expanduser().resolve()
        path.exists()
        str(path).encode()
        return str(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError([f"{key}: {text[:100]!r} is not a usable path ({error}). Give another."]) from None


def shortest(run: RunStorage) -> str:
    """Relative to the working directory where it lies below it."""
    path = run.path
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(run)
