"""SearchConfig: one YAML file and the overrides of a command line, validated as a whole. Knows no Ray."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, assert_never

from pydantic import Field, field_validator, model_validator

from search.feasibility import check_defaults
from search.record.storage import STORAGE_ERRORS, is_url, open_url
from search.space import Scalar, SearchSpace, SpaceEntry
from search.strict_yaml import dump_yaml, parse_yaml
from training.config import (
    NUM_CLASSES,
    DataConfig,
    FrozenConfig,
    ModelConfig,
    NonNegativeInt,
    OptimizerConfig,
    PositiveInt,
    Seed,
    TrainConfig,
    TrialConfig,
    config_paths,
    validate,
)
from training.errors import ConfigError
from training.messages import printable, shown, unknown_key

DERIVED_PATHS = {"data.split_seed": "search.seed", "train.seed": "search.seed"}
# What --resume may change: the budget, and where and on what the search runs.
RESUMABLE_PATHS = frozenset({"search.num_samples", "search.time_budget", "data.data_dir"})
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LARGEST_FILE = 1_000_000  # bytes of a config
LONGEST_TIME_BUDGET = 366 * SECONDS["d"]


CostBound = Annotated[int, Field(ge=1, le=10**18)]


def _seconds(duration: str) -> float:
    return float(duration[:-1]) * SECONDS[duration[-1]]


class SearchSection(FrozenConfig):
    """The budget, and what no network may cost."""

    num_samples: PositiveInt | None = 50  # trials; null: as many as time_budget allows
    seed: Seed = 0  # of the split, the sampler and, with their numbers, of the trials
    time_budget: str | None = None  # wall clock of the command, e.g. 90s, 30m, 2h; then trials end with their epoch
    max_params: CostBound | None = None  # larger networks are infeasible
    max_multiply_adds: CostBound | None = None  # for one image; costlier networks are infeasible
    first: Annotated[tuple[dict[str, Scalar], ...], Field(strict=False)] = ()  # changes to trial 0, trained after it
    warm_start: Annotated[tuple[str, ...], Field(strict=False)] = ()  # run directories of earlier searches
    notice: str | None = None  # what the command line decided and every report has to repeat

    @field_validator("time_budget")
    @classmethod
    def _is_a_duration(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d+(\.\d+)?[smhd]", value):
            raise ValueError(f"must be a number and a unit, such as 90s, 30m or 2h, got {value!r}")
        if value is not None and _seconds(value) > LONGEST_TIME_BUDGET:
            raise ValueError(f"must be at most a year, got {value!r}")
        return value

    @model_validator(mode="after")
    def _ends(self) -> "SearchSection":
        if self.num_samples is None and self.time_budget is None:
            raise ValueError("num_samples and time_budget must not both be null: the search would never end")
        return self

    @property
    def time_budget_seconds(self) -> float | None:
        return None if self.time_budget is None else _seconds(self.time_budget)

    @property
    def budget(self) -> str:
        """`50 trials`, `trials for 30m`, `50 trials or 30m`."""
        if self.num_samples is None:
            return f"trials for {self.time_budget}"
        return f"{self.num_samples} trials" + (f" or {self.time_budget}" if self.time_budget else "")


class SamplerConfig(FrozenConfig):
    """What proposes."""

    name: Literal["gp", "tpe", "random"] = "gp"
    # Trials before any is modelled, given ones too (of tpe also infeasible ones). null: 5 for gp, 10 for tpe
    startup_trials: NonNegativeInt | None = None

    @property
    def learns(self) -> bool:
        """Whether proposals depend on how earlier trials ended."""
        match self.name:
            case "random":
                return False
            case "gp" | "tpe":
                return True
        assert_never(self.name)


class SchedulerConfig(FrozenConfig):
    """What stops early. Rungs are at grace_epochs * reduction_factor**k, up to train.epochs."""

    name: Literal["asha", "none"] = "asha"
    grace_epochs: PositiveInt = 1  # no trial is stopped before
    reduction_factor: Annotated[float, Field(ge=1.1, le=100.0)] = 3.0  # the best 1/factor of a rung go on


class ResourcesConfig(FrozenConfig):
    """What a trial gets, and how many run at a time; null means: from what the machine or cluster has."""

    cpus_per_trial: Annotated[float, Field(ge=0.01, allow_inf_nan=False)] = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None  # fractions share a GPU
    max_concurrent: PositiveInt | None = None  # trials at a time
    max_failures: NonNegativeInt = 2  # restarts of a trial whose worker or node died
    storage_timeout: Annotated[float, Field(ge=0.0, le=86400.0)] = 180.0  # seconds to wait for it
    address: str | None = None  # of a Ray cluster; null starts Ray on this machine

    @field_validator("gpus_per_trial")
    @classmethod
    def _is_a_share_or_whole(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError(f"must be a fraction below 1 or a whole number of GPUs, got {value}")
        return value


class SearchConfig(FrozenConfig):
    """A whole search: the config of trial 0, the space around it, and how it is searched."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    search: SearchSection = SearchSection()
    sampler: SamplerConfig = SamplerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    resources: ResourcesConfig = ResourcesConfig()
    space: dict[str, SpaceEntry] = Field(default_factory=dict)

    @property
    def base(self) -> TrialConfig:
        """The config of trial 0 but for its seed; the split's seed is the search's."""
        data = self.data.model_copy(update={"split_seed": self.search.seed})
        return TrialConfig(data=data, model=self.model, optimizer=self.optimizer, train=self.train)

    @property
    def search_space(self) -> SearchSpace:
        return SearchSpace(self.space, self.base)

    def to_yaml(self) -> str:
        values = self.model_dump(mode="json")
        values["space"] = {
            path: entry.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            for path, entry in self.space.items()
        }
        del values["train"]["seed"]
        return dump_yaml(values)


def load_config(file: Path | str, overrides: Mapping[str, Any] | None = None) -> SearchConfig:
    """Read a search's YAML, apply overrides by dotted path, validate. Raises ConfigError with every error found."""
    return parse_config(read_yaml(file), overrides or {})


def read_yaml(file: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file, by path or URL; {} where it is empty. Raises ConfigError."""
    try:
        content = _read(file, LARGEST_FILE + 1)
        values = parse_yaml(content) if len(content) <= LARGEST_FILE else None
    except STORAGE_ERRORS as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError([f"{file}: cannot be read ({reason}). Name a YAML file."]) from None
    except ValueError as error:
        raise ConfigError([f"{file}: cannot be read as YAML: {error}"]) from None
    if len(content) > LARGEST_FILE:
        raise ConfigError([f"{file}: must have at most {LARGEST_FILE:,} bytes. Name the YAML file of a search."])
    if values is None:
        return {}
    strange = [key for key in values if not isinstance(key, str)] if isinstance(values, dict) else [values]
    if strange:
        raise ConfigError([f"{file}: must be a mapping of sections such as `model:`, got {shown(strange[0])}"])
    return dict(values)


def _read(file: Path | str, most: int) -> bytes:
    """Up to so many bytes of a file."""
    if not is_url(file):
        with Path(file).open("rb") as stream:
            return stream.read(most)
    system, path = open_url(str(file))
    with system.open_input_stream(path) as remote:
        return bytes(remote.read(most))


def parse_config(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> SearchConfig:
    """Validate a config and its space. Raises ConfigError with every error found."""
    nested = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    errors = []
    known = [*config_paths(SearchConfig), "space"]
    for path, value in overrides.items():
        section, _, field = path.partition(".")
        target = nested.setdefault(section, {}) if section in SearchConfig.model_fields else None
        if path == "space":
            nested["space"] = value
        elif section == "space" and field and isinstance(target, dict):
            if value is None:
                target.pop(field, None)  # --set space.PATH=null takes a path out of the space
            else:
                target[field] = value
        elif path not in known or not isinstance(target, dict):
            errors.append(unknown_key(path, known))
        else:
            target[field] = value
    for path, source in DERIVED_PATHS.items():
        section, _, field = path.partition(".")
        if (
            isinstance(nested.get(section), dict)
            and field in nested[section]
            and not _is_written(path, values, overrides)
        ):
            errors.append(f"{path}: follows from {source}; set that instead")
            nested[section] = {key: value for key, value in nested[section].items() if key != field}
    nested = {key: {} if value is None else value for key, value in nested.items()}  # an empty section
    try:
        config = validate(SearchConfig, nested)
    except ConfigError as error:
        raise ConfigError(errors + [_name_entry_fields(line) for line in error.errors]) from None
    try:
        config.search_space.default_params()
        if config.scheduler.grace_epochs > config.train.epochs:
            limits = f"got {config.scheduler.grace_epochs} > {config.train.epochs}"
            errors.append(f"scheduler.grace_epochs: must be at most train.epochs, {limits}")
    except ConfigError as error:
        errors += error.errors
    for index, changes in enumerate(config.search.first):
        try:
            config.base.override(changes)
        except ConfigError as error:
            errors += [f"search.first.{index}: {line}" for line in error.errors]
    try:
        check_defaults(config, NUM_CLASSES.get(config.data.dataset, 2))  # again when the data are there
    except ConfigError as error:
        errors += error.errors
    if errors:
        raise ConfigError(errors)
    return config


def written_config(values: Mapping[str, Any]) -> tuple[SearchConfig, list[str]]:
    """(config, warnings) of what a search has written down, maybe one of another version: for readers.

    What is not known of how it was searched is left out, and said; what trains a network must be known.
    Raises ConfigError.
    """
    written = {name: values.get(name) or {} for name in SearchConfig.model_fields}
    wrong = [
        f"{name}: must be a mapping, got {shown(part)}" for name, part in written.items() if not isinstance(part, dict)
    ]
    if wrong:
        raise ConfigError(wrong)
    trial = validate(TrialConfig, {name: written[name] for name in TrialConfig.model_fields})
    sections, warnings = {}, []
    for name in ("search", "sampler", "scheduler", "resources"):
        kind: Any = SearchConfig.model_fields[name].annotation
        known = {key: value for key, value in written[name].items() if key in kind.model_fields}
        warnings += [f"{name}.{key} is not known to this version" for key in written[name] if key not in known]
        try:
            sections[name] = validate(kind, known)
        except ConfigError as error:
            raise ConfigError([f"{name}.{line}" for line in error.errors]) from None
    space = {}
    for path, entry in written["space"].items():
        try:
            space[str(path)] = validate(SpaceEntry, entry)
        except ConfigError as error:
            warnings.append(f"space.{printable(path)} cannot be read ({'; '.join(error.errors)})")
    return SearchConfig(**dict(trial), **sections, space=space), warnings


def _is_written(path: str, values: Mapping[str, Any], overrides: Mapping[str, Any]) -> bool:
    """Whether a search.yaml says by which seed val was cut. Versions that did not write it cut by 0, the default."""
    data, search = values.get("data"), values.get("search")
    if path != "data.split_seed" or path in overrides or not isinstance(data, dict) or not isinstance(search, dict):
        return False
    return data.get("split_seed") in (search.get("seed"), 0)


def _name_entry_fields(error: str) -> str:
    """The nearest config path is no help where a field of a space entry is misspelt."""
    path, unknown, _ = error.partition(": unknown key")
    if not unknown or not path.startswith("space."):
        return error
    fields = (field.alias or name for name, field in SpaceEntry.model_fields.items())
    return f"{path}: unknown key; an entry takes {', '.join(fields)}"


def contradictions(saved: SearchConfig, wanted: SearchConfig) -> list[str]:
    """What --resume is asked to change and may not, one line for each path."""
    before, after = saved.model_dump(), wanted.model_dump()
    errors = []
    for path in [*config_paths(SearchConfig), *(f"space.{path}" for path in {**saved.space, **wanted.space})]:
        section, _, field = path.partition(".")
        old, new = before[section].get(field), after[section].get(field)
        changeable = (
            path in RESUMABLE_PATHS
            or path in DERIVED_PATHS
            or section == "resources"
            or path in ("space", "search.notice")
        )
        if field and old != new and not changeable:
            errors.append(
                f"{path}: this search was started with {old!r}; --resume cannot make it {new!r}. Start a new search."
            )
    return errors
