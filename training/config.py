"""What one trial is: validated, frozen configs with a JSON round trip.

Knows neither ray nor optuna. A dotted path such as `model.kernel_size` names a field here and everywhere else.
"""

import difflib
import reprlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

C = TypeVar("C", bound=BaseModel)
PER_LAYER_FIELDS = ("width", "kernel_size", "stride", "padding", "pooling")
LARGEST = 10**9  # of any count or size: what is computed from some of them is finite then
LONGEST_ERROR, LONGEST_VALUE = 1000, 150  # characters


class DataError(Exception):
    """Images that cannot be used: names the file, class or size, and the remedy."""


class ConfigError(ValueError):
    """Everything wrong with a config, at once: `errors` holds a line for each key."""

    def __init__(self, errors: list[str]) -> None:
        self.errors = [shortened(error, LONGEST_ERROR) for error in errors]
        super().__init__("\n".join(self.errors))


class FrozenConfig(BaseModel):
    """Immutable after validation; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


PositiveInt = Annotated[int, Field(ge=1, le=LARGEST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy and scikit-learn take
Fraction = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Padding = Literal["valid", "same"] | NonNegativeInt
Pooling = Literal["none", "max", "avg"]
# YAML and JSON know lists only; strict mode would insist on tuples.
Sequence = Field(strict=False, min_length=1)


class DataConfig(FrozenConfig):
    """Where the images come from and how they are split and augmented."""

    dataset: Annotated[str, Field(pattern=r"^(cifar10|cifar100|digits|folder:.+)$")] = "cifar10"
    data_dir: str = "data"  # downloads, and the cache of decoded folders
    image_size: Annotated[int, Field(ge=4, le=512)] = 32  # pixels a side; folders and digits are resized to it
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25  # of the train split, stratified
    split_seed: Seed = 0  # a search sets it from search.seed
    crop_padding: NonNegativeInt = 4  # pixels by which a random crop may move; 0 turns it off
    flip: bool = True  # random horizontal flips
    cutout: NonNegativeInt = 0  # side of a square hidden from every image, pixels; 0 turns it off

    @model_validator(mode="after")
    def _augmentation_fits_the_image(self) -> "DataConfig":
        too_large = [
            f"{key} < image_size must hold, got {key}={getattr(self, key)}, image_size={self.image_size}"
            for key in ("crop_padding", "cutout")
            if getattr(self, key) >= self.image_size
        ]
        if too_large:
            raise ValueError("; ".join(too_large))
        return self


class ModelConfig(FrozenConfig):
    """A stack of `depth` convolution blocks and a linear classifier.

    width, kernel_size, stride, padding and pooling take one value for all layers or a list with one per layer.
    """

    depth: Annotated[int, Field(ge=1, le=50)] = 3  # number of convolution layers
    width: PositiveInt | Annotated[tuple[PositiveInt, ...], Sequence] = 32  # channels of the first layer, or of each
    width_growth: Annotated[float, Field(ge=1.0, le=4.0)] = 2.0  # factor from layer to layer; 1.0 where width is a list
    kernel_size: PositiveInt | Annotated[tuple[PositiveInt, ...], Sequence] = 3
    stride: PositiveInt | Annotated[tuple[PositiveInt, ...], Sequence] = 1
    padding: Padding | Annotated[tuple[Padding, ...], Sequence] = "same"  # pixels a side; valid = 0, same = K//2
    pooling: Pooling | Annotated[tuple[Pooling, ...], Sequence] = "max"  # 2 x 2 with stride 2, after the convolution
    batch_norm: bool = True
    activation: Literal["relu", "gelu", "silu"] = "relu"
    dropout: Fraction = 0.0  # probability, before the classifier
    head: Literal["average", "flatten"] = "average"  # global average pooling, or every position as a feature

    @model_validator(mode="after")
    def _one_value_per_layer(self) -> "ModelConfig":
        lengths = {field: len(value) for field in PER_LAYER_FIELDS if isinstance(value := getattr(self, field), tuple)}
        wrong = [
            f"{field} must have one value per layer (depth={self.depth}), got {length}"
            for field, length in lengths.items()
            if length != self.depth
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @model_validator(mode="after")
    def _same_padding_needs_odd_kernels(self) -> "ModelConfig":
        for layer in range(self.depth):
            kernel_size = self.at("kernel_size", layer)
            if self.at("padding", layer) == "same" and kernel_size % 2 == 0:
                raise ValueError(
                    f"padding 'same' needs an odd kernel_size, got {kernel_size} in layer {layer}; "
                    "give an odd kernel_size or a number as padding"
                )
        return self

    def at(self, field: str, layer: int) -> Any:
        """Value of a per-layer field in one layer (counted from 0)."""
        value = getattr(self, field)
        return value[layer] if isinstance(value, tuple) else value

    def channels(self, layer: int) -> int:
        """Output channels of one layer: width * width_growth**layer, rounded, unless width is a list."""
        if isinstance(self.width, tuple):
            return self.width[layer]
        return round(self.width * self.width_growth**layer)

    def pixels_padded(self, layer: int) -> int:
        """Zeros added on each side of the input of one layer."""
        padding = self.at("padding", layer)
        if padding == "same":
            return int(self.at("kernel_size", layer) // 2)
        return 0 if padding == "valid" else int(padding)


class OptimizerConfig(FrozenConfig):
    """An optimizer and its learning-rate schedule over all epochs."""

    name: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    learning_rate: PositiveFloat = 0.05  # the highest of the schedule
    momentum: Fraction = 0.9  # of sgd (nesterov) and rmsprop; adam and adamw keep beta_1 = 0.9
    nesterov: bool = True  # sgd only
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 5e-4  # not on norms and biases
    schedule: Literal["constant", "cosine", "one_cycle"] = "one_cycle"


class TrainConfig(FrozenConfig):
    """The budget and the loss."""

    epochs: PositiveInt = 10
    batch_size: Annotated[int, Field(ge=2, le=LARGEST)] = 128  # images; the last, smaller batch of an epoch is used too
    label_smoothing: Fraction = 0.0  # of the training loss; val and test losses are plain cross-entropy
    seed: Seed = 0  # of weights, order, augmentation, dropout; a search derives it for each trial


class TrialConfig(FrozenConfig):
    """Everything that training one network needs. `TrialConfig()` is a sensible one for CIFAR-10."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()

    def override(self, values: Mapping[str, Any]) -> "TrialConfig":
        """A copy with dotted paths replaced, e.g. `{"model.depth": 4, "model.kernel_size.0": 5}`. Raises ConfigError.

        A path that ends in a number sets one layer of a per-layer field; the other layers keep their values, and layers
        beyond the depth are ignored.
        """
        known = list(config_paths(type(self)))
        unknown = [unknown_key(path, known) for path in values if path not in known and not is_layer_path(path)]
        if unknown:
            raise ConfigError(unknown)
        nested = self.model_dump()
        for path, value in values.items():
            if path in known:
                section, _, field = path.partition(".")
                nested[section][field] = value
        model = nested["model"]
        scalars = {key: model[key] for key in ("depth", "width", "width_growth")}
        if isinstance(scalars["width"], list | tuple):
            del scalars["width"]
        try:
            per_layer = validate(ModelConfig, scalars)
        except ConfigError:
            return validate(TrialConfig, nested)  # which says what is wrong, and where
        for path, value in values.items():
            if is_layer_path(path):
                field, layer = path.split(".")[1], int(path.split(".")[2])
                model[field] = _one_per_layer(field, model[field], per_layer)
                if layer < len(model[field]):
                    model[field][layer] = value
        return validate(TrialConfig, nested)


def _one_per_layer(field: str, value: Any, config: ModelConfig) -> list[Any]:
    """A field's values for every layer of a config; where a list is too short its last value is repeated."""
    if isinstance(value, list | tuple):
        return [*value, *value[-1:] * config.depth][: config.depth]
    if field == "width":
        return [config.channels(layer) for layer in range(config.depth)]
    return [value] * config.depth


def is_layer_path(path: str) -> bool:
    """Whether a path names one layer of a per-layer field, such as `model.kernel_size.0`."""
    section, *rest = path.split(".")
    return (
        section == "model"
        and len(rest) == 2
        and rest[0] in PER_LAYER_FIELDS
        and rest[1].isdecimal()
        and len(rest[1]) < 5
    )


def config_paths(config: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted path of a config class, sections excluded."""
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from config_paths(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def unknown_key(path: str, known: Iterator[str] | list[str]) -> str:
    """The message for a key that does not exist, with the nearest one that does."""
    nearest = difflib.get_close_matches(path, list(known), n=1, cutoff=0.5)
    return f"{path}: unknown key" + (f"; did you mean {nearest[0]}?" if nearest else "")


def validate(config: type[C], values: Any) -> C:
    """A validated config, or a ConfigError that lists every error with key, constraint and value."""
    try:
        return config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(list(dict.fromkeys(_describe(error, config)))) from None


def _describe(error: ValidationError, config: type[BaseModel]) -> Iterator[str]:
    known = list(config_paths(config))
    sections = list(config.model_fields)
    problems: dict[str, tuple[list[str], Any]] = {}
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            yield unknown_key(path, known + sections)
        elif item["type"] == "value_error":
            message = item["msg"].removeprefix("Value error, ")
            yield f"{path}: {message}" if path else message
        else:
            # Of a union, pydantic reports every branch, named behind the key ("int", "tuple[...]"): one line for all.
            key = next((k for k in known if "." in k and f"{path}.".startswith(f"{k}.")), path)
            problems.setdefault(key, ([], item["input"]))[0].append(item["msg"].removeprefix("Input "))
    for key, (constraints, got) in problems.items():
        yield f"{key}: {' or '.join(dict.fromkeys(constraints))}, got {shown(got)}"


def shown(value: Any) -> str:
    """repr of any value, of which only the beginning is written out where it is long."""
    brief = reprlib.Repr()
    brief.maxlevel = 3
    brief.maxlist = brief.maxtuple = brief.maxdict = brief.maxset = 20
    brief.maxstring = brief.maxother = brief.maxlong = LONGEST_VALUE
    return shortened(brief.repr(value), LONGEST_VALUE)


def printable(words: object) -> str:
    """A text on one line: line breaks, escape codes and the like are written as Python writes them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(words))


def shortened(text: str, length: int) -> str:
    """A text without its middle where it has more characters."""
    half = length // 2 - 2
    return text if len(text) <= length else f"{text[:half]}...{text[-half:]}"


def parse_flags(parser: ArgumentParser, arguments: Iterable[str] | None) -> Namespace:
    """What parser.parse_args gives, but for `--flag=--`, which argparse takes for an empty list: an error."""
    for word in sys.argv[1:] if arguments is None else arguments:
        if word.startswith("--") and word.endswith("=--"):
            parser.error(f"argument {word.removesuffix('=--')}: expected a value, got '--'")
    return parser.parse_args(None if arguments is None else list(arguments))


def parse_yaml(text: str | bytes) -> Any:
    """The value of a YAML text. Raises ValueError, whatever is wrong with it."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ValueError(shortened(" ".join(str(error).split()), LONGEST_ERROR // 2)) from None
    except Exception as error:  # PyYAML raises half a dozen kinds, without a place
        raise ValueError(f"a value does not fit its tag, or it is nested too deeply: {shown(error)}") from None


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is eight times as fast


class _StrictLoader(_SafeLoader):
    """Plain YAML, in which no key comes twice and integers fit into 64 bits."""

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self._flat: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Called before a mapping is made; the first time its keys are still those of the text."""
        if node in self._flat:
            return
        self._flat.add(node)
        names: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in names:
                raise yaml.MarkedYAMLError(None, None, f"{shown(key.value)} is given twice", key.start_mark)
            names.add((key.tag, key.value))
        super().flatten_mapping(node)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value: int = super().construct_yaml_int(node)
        if not -(2**63) <= value < 2**63:
            raise yaml.MarkedYAMLError(None, None, "an integer beyond 64 bits", node.start_mark)
        return value


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)
