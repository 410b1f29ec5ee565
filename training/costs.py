"""What a network costs: parameters and multiply-adds, counted without allocating it, nor importing torch."""

from dataclasses import dataclass
from math import prod

from training.config import ModelConfig
from training.geometry import LayerShape, Shape, network_layers


@dataclass(frozen=True)
class LayerCost:
    """A layer with what it costs for one image; the batch norm counts with its convolution."""

    layer: LayerShape
    num_params: int
    multiply_adds: int  # of convolutions and the classifier; norms, pooling and activations are left out


def network_costs(config: ModelConfig, input_shape: Shape, num_classes: int) -> list[LayerCost]:
    """Trainable parameters and multiply-adds layer by layer. Raises InfeasibleError."""
    costs = []
    for layer in network_layers(config, input_shape, num_classes):
        num_params = multiply_adds = 0
        if layer.name.startswith("conv"):
            out_channels, height, width = layer.output_shape
            weights = layer.input_shape[0] * out_channels * layer.kernel_size**2
            num_params = weights + out_channels * (2 if config.batch_norm else 1)
            multiply_adds = weights * height * width
        elif layer.name == "classifier":
            multiply_adds = prod((*layer.input_shape, *layer.output_shape))
            num_params = multiply_adds + layer.output_shape[0]
        costs.append(LayerCost(layer, num_params, multiply_adds))
    return costs


def count_costs(config: ModelConfig, input_shape: Shape, num_classes: int) -> tuple[int, int]:
    """(num_params, multiply_adds for one image) of a network. Raises InfeasibleError."""
    costs = network_costs(config, input_shape, num_classes)
    return sum(cost.num_params for cost in costs), sum(cost.multiply_adds for cost in costs)
