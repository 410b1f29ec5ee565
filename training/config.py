"""What one trial is: validated, frozen configs with a JSON round trip.

Knows neither ray nor optuna. A dotted path such as `model.kernel_size` names a field here and everywhere else.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.errors import ConfigError
from training.messages import shown, unknown_key

C = TypeVar("C", bound=BaseModel)
PER_LAYER_FIELDS = ("width", "kernel_size", "stride", "padding", "pooling")
LAYER_PATH = re.compile(rf"model\.({'|'.join(PER_LAYER_FIELDS)})\.(\d{{1,4}})")  # such as model.kernel_size.0
LARGEST = 10**9  # of any count or size: what is computed from some of them is finite then


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
NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "digits": 10}  # of the data sets that have a name
# YAML and JSON know lists only; strict mode would insist on tuples.
Sequence = Field(strict=False, min_length=1)


class DataConfig(FrozenConfig):
    """Where the images come from and how they are split and augmented."""

    dataset: Annotated[str, Field(pattern=rf"^({'|'.join(NUM_CLASSES)}|folder:.+)$")] = "cifar10"
    data_dir: str = "data"  # downloads, and the cache of decoded folders
    image_size: Annotated[int, Field(ge=4, le=512)] = 32  # pixels a side; folders and digits are resized to it
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25  # of the train split, stratified
    split_seed: Seed = 0  # a search sets it from search.seed
    crop_padding: NonNegativeInt = 4  # pixels by which a random crop may move; 0 turns it off
    flip: bool = True  # random horizontal flips
    cutout: NonNegativeInt = 0  # side of a square hidden from every image, pixels; 0 turns it off

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image, once it is loaded."""
        return 3, self.image_size, self.image_size

    def without_augmentation(self) -> "DataConfig":
        """The same images and split, as they are: configs that differ in augmentation alone become equal."""
        return self.model_copy(update=AUGMENTATION_OFF)

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


# The fields of DataConfig that change batches of training, off; all others change what is loaded.
AUGMENTATION_OFF = {"crop_padding": 0, "flip": False, "cutout": 0}


OFF = {"stride": 1, "pooling": "none"}  # in all layers of a stage but its first


class ModelConfig(FrozenConfig):
    """A stack of `depth` convolution blocks in stages, and a linear classifier.

    width, kernel_size, stride, padding and pooling take one value or a list with one per layer. One width grows from
    stage to stage; one stride or pooling acts in the first layer of every stage.
    """

    depth: Annotated[int, Field(ge=1, le=50)] = 3  # number of convolution layers
    layers_per_stage: Annotated[int, Field(ge=1, le=50)] = 1  # the last stage may be shorter
    width: PositiveInt | Annotated[tuple[PositiveInt, ...], Sequence] = 32  # channels of the first layer, or of each
    width_growth: Annotated[float, Field(ge=1.0, le=4.0)] = 2.0  # factor from stage to stage; no effect on a list
    kernel_size: PositiveInt | Annotated[tuple[PositiveInt, ...], Sequence] = 3
    stride: PositiveInt | Annotated[tuple[PositiveInt, ...], Sequence] = 1
    padding: Padding | Annotated[tuple[Padding, ...], Sequence] = "same"  # pixels a side; valid = 0, same = K//2
    pooling: Pooling | Annotated[tuple[Pooling, ...], Sequence] = "max"  # 2 x 2 with stride 2, after the convolution
    residual: bool = False  # x + f(x), f being all layers of a stage after its first
    batch_norm: bool = True
    activation: Literal["relu", "gelu", "silu"] = "relu"
    dropout: Fraction = 0.0  # probability, before the classifier
    head: Literal["average", "max", "flatten"] = "average"  # mean or maximum of a channel, or all positions as features
    init: Literal["default", "dirac"] = "default"  # torch's random filters; dirac: the first ones pass a channel on

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
        """What a per-layer field is in one layer, counted from 0; beyond the end of a list its last value."""
        value = getattr(self, field)
        if isinstance(value, tuple):
            return value[min(layer, len(value) - 1)]
        stage, place = divmod(layer, self.layers_per_stage)
        if field == "width":
            return round(value * self.width_growth**stage)
        return OFF[field] if place and field in OFF else value

    def pixels_padded(self, layer: int) -> int:
        """Zeros added on each side of the input of one layer."""
        padding = self.at("padding", layer)
        if padding == "same":
            return int(self.at("kernel_size", layer) // 2)
        return 0 if padding == "valid" else int(padding)


class OptimizerConfig(FrozenConfig):
    """An optimizer and its learning-rate schedule over all epochs."""

    name: Literal["sgd", "adam", "adamw", "rmsprop", "muon"] = "sgd"
    learning_rate: PositiveFloat = 0.05  # the highest of the schedule; of muon that of convolution filters
    other_learning_rate: PositiveFloat = 0.05  # muon only: of norms, biases and the classifier, which sgd trains
    momentum: Fraction = 0.9  # of sgd, muon and rmsprop; adam and adamw keep beta_1 = 0.9
    nesterov: bool = True  # sgd and muon only
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 5e-4  # not on norms and biases
    schedule: Literal["constant", "cosine", "one_cycle", "linear"] = "one_cycle"


# The fields that act with some optimizers only.
USED_BY = {
    "other_learning_rate": ("muon",),
    "momentum": ("sgd", "muon", "rmsprop"),
    "nesterov": ("sgd", "muon"),
}


class TrainConfig(FrozenConfig):
    """The budget and the loss."""

    epochs: PositiveInt = 10
    batch_size: Annotated[int, Field(ge=2, le=LARGEST)] = 128  # images; the last, smaller batch of an epoch is used too
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"  # what is minimised; mse: of the softmax probabilities
    label_smoothing: Fraction = 0.0  # in training; val and test losses are plain cross-entropy
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
        unknown = [unknown_key(path, known) for path in values if path not in known and not LAYER_PATH.fullmatch(path)]
        if unknown:
            raise ConfigError(unknown)
        nested = self.model_dump()
        for path, value in values.items():
            if path in known:
                section, _, field = path.partition(".")
                nested[section][field] = value
        model = nested["model"]
        scalars = {key: model[key] for key in ("depth", "layers_per_stage", "width", "width_growth")}
        if isinstance(scalars["width"], list | tuple):
            del scalars["width"]
        try:
            per_layer = validate(ModelConfig, scalars)
        except ConfigError:
            return validate(TrialConfig, nested)  # which says what is wrong, and where
        for path, value in values.items():
            if named := LAYER_PATH.fullmatch(path):
                field, layer = named[1], int(named[2])
                model[field] = _one_per_layer(field, model[field], per_layer)
                if layer < len(model[field]):
                    model[field][layer] = value
        return validate(TrialConfig, nested)


def _one_per_layer(field: str, value: Any, config: ModelConfig) -> list[Any]:
    """A field's values for every layer of a config; if a list is too short its last value is repeated."""
    if isinstance(value, list | tuple):
        return [*value, *value[-1:] * config.depth][: config.depth]
    if field != "width":  # which has been validated
        config = config.model_copy(update={field: value})
    return [config.at(field, layer) for layer in range(config.depth)]


def config_paths(config: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted path of a config class, sections excluded."""
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from config_paths(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


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
