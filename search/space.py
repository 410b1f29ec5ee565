"""The search space: config path -> distribution; what an Optuna trial suggests, and the trial's config made of it."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field, model_validator

from training.config import (
    AUGMENTATION_OFF,
    PER_LAYER_FIELDS,
    USED_BY,
    DataConfig,
    FrozenConfig,
    TrialConfig,
    config_paths,
)
from training.errors import ConfigError
from training.messages import unknown_key

FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Scalar = bool | int | FiniteFloat | str
MOST_STEPS = 10**9  # between the bounds of an entry
# What all trials of a search share: the data are loaded once, and rungs are compared at equal epochs.
# Of `data` a space may draw what changes batches; a new field that changes loading is fixed by itself.
FIXED_PATHS = frozenset(
    {
        *(f"data.{name}" for name in DataConfig.model_fields if name not in AUGMENTATION_OFF),
        "train.epochs",
        "train.seed",
    }
)


class SpaceEntry(FrozenConfig):
    """One line of a space: exactly one of int, float and choice; bounds are inclusive."""

    integer: Annotated[tuple[int, int], Field(strict=False)] | None = Field(None, alias="int")
    real: Annotated[tuple[FiniteFloat, FiniteFloat], Field(strict=False)] | None = Field(None, alias="float")
    choice: Annotated[tuple[Scalar, ...], Field(strict=False, min_length=1)] | None = None
    step: Annotated[FiniteFloat, Field(gt=0)] | None = None
    log: bool = False
    per_layer: bool = False  # suggest one value for each layer of the drawn depth
    when: dict[str, Scalar | Annotated[tuple[Scalar, ...], Field(strict=False)]] | None = None

    @model_validator(mode="after")
    def _is_one_distribution(self) -> "SpaceEntry":
        if sum(kind is not None for kind in (self.integer, self.real, self.choice)) != 1:
            raise ValueError("exactly one of int, float and choice must be given")
        if self.choice is not None and (self.step is not None or self.log):
            raise ValueError("step and log do not go with choice")
        bounds = self.integer or self.real
        if bounds is not None:
            low, high = bounds
            if not low <= high:
                raise ValueError(f"low <= high must hold, got [{low}, {high}]")
            if self.log and low <= 0:
                raise ValueError(f"low > 0 must hold with log: true, got {low}")
            if self.log and self.step is not None:
                raise ValueError("step and log exclude each other")
        if self.integer is not None and self.step is not None and self.step != int(self.step):
            raise ValueError(f"step must be a whole number for int, got {self.step}")
        if bounds is not None and self.step is not None:
            extent, step = Decimal(str(bounds[1])) - Decimal(str(bounds[0])), Decimal(str(self.step))
            if extent / step > MOST_STEPS:
                raise ValueError(f"at most {MOST_STEPS:,} steps must lie between low and high, got step {self.step}")
            if extent % step:
                reached = bounds[0] + type(bounds[0])(extent // step * step)
                raise ValueError(
                    f"high must lie whole steps above low, got [{low}, {high}] with step {self.step}; "
                    f"the nearest below is {reached}"
                )
        return self

    def distribution(self) -> BaseDistribution:
        """The Optuna distribution of one value."""
        if self.integer is not None:
            return IntDistribution(*self.integer, log=self.log, step=int(self.step or 1))
        if self.real is not None:
            return FloatDistribution(*self.real, log=self.log, step=self.step)
        assert self.choice is not None
        return CategoricalDistribution(self.choice)

    def names(self, path: str, depth: int) -> list[str]:
        """What is drawn for an entry's path: itself, or one value a layer, `model.kernel_size.0` and so on."""
        return [f"{path}.{layer}" for layer in range(depth)] if self.per_layer else [path]

    def is_active(self, values: Mapping[str, Any]) -> bool:
        """Whether all conditions of `when` hold for a trial's values by path."""
        for path, wanted in (self.when or {}).items():
            if values[path] not in (wanted if isinstance(wanted, tuple) else (wanted,)):
                return False
        return True


class SearchSpace:
    """The entries of a space in an order in which conditions come after what they depend on. Raises ConfigError."""

    def __init__(self, entries: Mapping[str, SpaceEntry], base: TrialConfig) -> None:
        errors = [error for path, entry in entries.items() for error in _entry_errors(path, entry, entries, base)]
        if errors:
            raise ConfigError(errors)
        self.base = base
        self.entries = _in_order_of_dependence(entries)
        self._base_values = value_by_path(base)
        self._distributions = {path: entry.distribution() for path, entry in self.entries.items()}

    def suggest(self, trial: Any) -> dict[str, Any]:
        """Draw a value for every active path (those of a layer carry its index); stored values come back unchanged."""
        params: dict[str, Any] = {}
        values = dict(self._base_values)
        for path, entry in self.entries.items():
            if entry.is_active(values):
                for name in entry.names(path, values["model.depth"]):
                    values[name] = params[name] = draw_value(trial, name, self._distributions[path])
        return params

    def distributions(self) -> dict[str, BaseDistribution]:
        """The distribution of every path that can be drawn; of a path per layer, for each layer of the deepest."""
        depth = max_depth(self.entries, self.base)
        return {
            name: self._distributions[path] for path, entry in self.entries.items() for name in entry.names(path, depth)
        }

    def base_values(self) -> dict[str, Any]:
        """The base's value at every path that can be drawn; where it lies outside, one that the space can give."""
        values = {}
        for name, distribution in self.distributions().items():
            value = value_at(self.base, name)
            values[name] = value if contains(distribution, value) else lowest(distribution)
        return values

    def apply(self, params: Mapping[str, Any]) -> TrialConfig:
        """The trial config that suggested values stand for. Raises ConfigError where they do not fit together."""
        return self.base.override(params)

    def default_params(self) -> dict[str, Any]:
        """The base config as a point of its own space. Raises ConfigError for defaults outside of it."""
        params, outside = self.nearest(self.base)
        if outside:
            raise ConfigError(
                [
                    f"{name}: the default must lie in its own space, got {value!r} outside "
                    f"{describe(self.entries[self.entry_path(name)])}"
                    for name, value in outside.items()
                ]
            )
        return params

    def nearest(self, config: TrialConfig) -> tuple[dict[str, Any], dict[str, Any]]:
        """(params, outside): any config as a point of the space, with the base's values for those outside of it.

        Params lack what the base does not have either, since it is inactive there. Values that the space does not draw
        are not looked at: `apply` of the params has the base's.
        """
        values = value_by_path(self.base)
        params, outside = {}, {}
        for path, entry in self.entries.items():
            if not entry.is_active(values):
                continue
            distribution = self._distributions[path]
            for name in entry.names(path, values["model.depth"]):
                value = value_at(config, name)
                if not contains(distribution, value):
                    outside[name] = value
                    value = value_at(self.base, name)
                if contains(distribution, value):
                    values[name] = params[name] = value
        return params, outside

    def entry_path(self, name: str) -> str:
        """The path of the entry that a param is drawn from: a layer's is that of all layers."""
        return name if name in self.entries else name.rpartition(".")[0]


def max_depth(entries: Mapping[str, SpaceEntry], base: TrialConfig) -> int:
    """The largest depth that a space can draw."""
    entry = entries.get("model.depth")
    return base.model.depth if entry is None else max(entry.integer or entry.choice)  # type: ignore[arg-type, type-var, return-value]


def value_by_path(config: TrialConfig) -> dict[str, Any]:
    """Every dotted path of a config with its value."""
    return {f"{section}.{field}": value for section, fields in config for field, value in fields}


def value_at(config: TrialConfig, name: str) -> Any:
    """A config's value at a path or in one layer of it; one value where a list with one per layer says no more."""
    section, field, *layer = name.split(".")
    value = getattr(getattr(config, section), field)
    if layer:
        return config.model.at(field, int(layer[0]))
    if isinstance(value, tuple):
        single = config.model.model_copy(update={field: value[0]})
        if all(single.at(field, index) == each for index, each in enumerate(value)):
            return value[0]
    return value


def differences(one: TrialConfig, other: TrialConfig) -> list[str]:
    """The paths in which two configs differ; one value for all layers equals a list that says the same."""
    values, others = value_by_path(one), value_by_path(other)
    effects, other_effects = layer_by_layer(one), layer_by_layer(other)
    return [path for path in values if values[path] != others[path] and effects[path] != other_effects[path]]


def layer_by_layer(config: TrialConfig) -> dict[str, Any]:
    """Every path with what it does; None for what the optimizer does not use.

    Per-layer fields are written out, width_growth and layers_per_stage are what they lead to.
    """
    values, model = value_by_path(config), config.model
    for field in PER_LAYER_FIELDS:
        values[f"model.{field}"] = tuple(model.at(field, layer) for layer in range(model.depth))
    values["model.width_growth"] = values["model.width"]
    in_a_stage = min(model.layers_per_stage, model.depth)
    values["model.residual"] = has_sums = model.residual and in_a_stage > 1
    grouped = in_a_stage if has_sums else 1
    values["model.layers_per_stage"] = grouped, *(values[f"model.{field}"] for field in PER_LAYER_FIELDS)
    unused = [field for field, names in USED_BY.items() if config.optimizer.name not in names]
    return values | {f"optimizer.{field}": None for field in unused}


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution can give a value; True and 1 are different values."""
    if isinstance(distribution, CategoricalDistribution):
        return any(
            choice == value and isinstance(choice, bool) == isinstance(value, bool) for choice in distribution.choices
        )
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or (getattr(distribution, "log", False) and value <= 0):  # which Optuna answers with an exception
        return False
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    steps = 0.0 if distribution.step is None else (value - distribution.low) / distribution.step
    return distribution.low <= value <= distribution.high and abs(steps - round(steps)) < 1e-8


def lowest(distribution: BaseDistribution) -> Any:
    """The first value that a distribution can give."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution.low


def describe(entry: SpaceEntry) -> str:
    """An entry as a user would write it."""
    fields = entry.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return "{" + ", ".join(f"{key}: {value}" for key, value in fields.items()) + "}"


def draw_value(trial: Any, name: str, distribution: BaseDistribution) -> Any:
    """A value of a distribution, from an Optuna trial or what draws like one."""
    match distribution:
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise TypeError(distribution)


def _entry_errors(path: str, entry: SpaceEntry, entries: Mapping[str, SpaceEntry], base: TrialConfig) -> Iterator[str]:
    known = list(config_paths(TrialConfig))
    if path not in known:
        yield "space." + unknown_key(path, [p for p in known if p not in FIXED_PATHS])
        return
    if path in FIXED_PATHS:
        yield f"space.{path}: all trials of a search share this value; set it as {path}"
        return
    if entry.per_layer and path.partition(".")[2] not in PER_LAYER_FIELDS:
        yield f"space.{path}: per_layer must be one of {', '.join(PER_LAYER_FIELDS)} of model"
        return
    for condition, wanted in (entry.when or {}).items():
        if condition not in known:
            yield f"space.{path}.when: " + unknown_key(condition, known)
        elif condition in entries and entries[condition].per_layer:
            yield f"space.{path}.when: {condition} has a value per layer and cannot be a condition"
        elif condition in entries:
            distribution = entries[condition].distribution()
            for value in wanted if isinstance(wanted, tuple) else (wanted,):
                if not contains(distribution, value):
                    yield f"space.{path}.when: {condition} is never {value!r} in {describe(entries[condition])}"
    if any(condition == path for condition in entry.when or {}):
        yield f"space.{path}.when: must not depend on itself"
    for value in entry.choice or entry.integer or entry.real or ():
        name = f"{path}.0" if entry.per_layer else path
        try:
            base.override({name: value})
        except ConfigError as error:
            # Errors of two fields together belong to a proposal, which is then infeasible; here only the value itself.
            yield from (f"space.{message}" for message in error.errors if message.startswith(f"{path}:"))


def _in_order_of_dependence(entries: Mapping[str, SpaceEntry]) -> dict[str, SpaceEntry]:
    """Every entry after those that it depends on (`when`; depth for per-layer values), else as written.

    Raises ConfigError for a circle.
    """
    ordered: dict[str, SpaceEntry] = {}
    waiting = dict(entries)
    while waiting:
        ready = {path: entry for path, entry in waiting.items() if not _needs(entry) & waiting.keys()}
        if not ready:
            raise ConfigError([f"space: the conditions of {', '.join(waiting)} depend on each other in a circle"])
        ordered |= ready
        waiting = {path: entry for path, entry in waiting.items() if path not in ready}
    return ordered


def _needs(entry: SpaceEntry) -> set[str]:
    return {*(entry.when or {}), *(["model.depth"] if entry.per_layer else [])}
