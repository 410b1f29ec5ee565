"""A network's feature maps as a diagram, and the formula behind their sizes."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from analysis.evaluating.evaluation import Evaluation
from analysis.figures.style import GREEN, INK, ORANGE, PURPLE, SKY, WIDTH, YELLOW, Picture, drawing, styled
from analysis.text import compact, percent
from training.checkpoint import read_meta
from training.config import ModelConfig
from training.geometry import Shape
from training.layers import Addition, Convolution, Layer, Pooling, network_layers

FACES = {"conv": SKY, "pool": YELLOW, "add": ORANGE, "input": GREEN}


def layer_table(config: ModelConfig, input_shape: Shape, num_classes: int) -> list[dict[str, Any]]:
    """Each layer with shapes, the formula O = floor((I + 2P - K)/S) + 1 filled in, params and multiply-adds."""
    return [
        {
            "name": layer.name,
            "input_shape": shape_text(layer.input_shape),
            "output_shape": shape_text(layer.output_shape),
            "formula": formula(layer),
            "num_params": layer.num_params,
            "multiply_adds": layer.multiply_adds,
        }
        for layer in network_layers(config, input_shape, num_classes)
    ]


def formula(layer: Layer) -> str:
    """The size formula with a layer's numbers, for its height; of a sum what it adds; empty for other layers."""
    if isinstance(layer, Addition):
        convolutions = "convolution" if layer.num_layers == 1 else f"{layer.num_layers} convolutions"
        return f"x + f(x), f the last {convolutions}"
    if not isinstance(layer, Convolution | Pooling):
        return ""
    size, window = layer.input_shape[1], f"2·{layer.padding} − {layer.kernel_size})/{layer.stride}"
    return f"⌊({size} + {window}⌋ + 1 = {layer.output_shape[1]}"


def shape_text(shape: tuple[int, ...]) -> str:
    """(C, H, W) as `C × H × W`."""
    return " × ".join(map(str, shape))


def feature_maps_data(config: ModelConfig, input_shape: Shape, num_classes: int) -> list[dict[str, Any]]:
    """The input and every layer's output: name, window (`3 × 3 / 1`; of a sum `x + f(x)`), shape (C, H, W) or (C,)."""
    boxes: list[dict[str, Any]] = [{"name": "input", "window": "", "shape": input_shape}]
    for layer in network_layers(config, input_shape, num_classes):
        window = "x + f(x)" if isinstance(layer, Addition) else ""
        if isinstance(layer, Convolution | Pooling):
            window = f"{layer.kernel_size} × {layer.kernel_size} / {layer.stride}"
        boxes.append({"name": layer.name, "window": window, "shape": layer.output_shape})
    return boxes


@styled
def plot_feature_maps(data: list[dict[str, Any]], per_row: int = 8) -> Figure:
    """Each feature map as a box: its face is the map (side = pixels, square-root scale), its depth the channels."""
    rows = -(-len(data) // per_row)
    per_row = max(6, -(-len(data) // rows))  # rows of equal length
    figure = drawing(height=rows * 1.5 * WIDTH / per_row)
    heights = [box["shape"][1] if len(box["shape"]) > 1 else 1 for box in data]
    deepest = max(box["shape"][0] for box in data) ** 0.5
    for row, axes in enumerate(figure.subplots(rows, 1, squeeze=False)[:, 0]):
        axes.set(xlim=(-0.1, per_row + 0.05), ylim=(-0.52, 0.92), aspect="equal")
        axes.set_axis_off()
        shown = slice(row * per_row, (row + 1) * per_row)
        for place, (box, height) in enumerate(zip(data[shown], heights[shown], strict=True)):
            side, depth = 0.62 * height**0.5 / max(heights) ** 0.5, 0.3 * box["shape"][0] ** 0.5 / deepest
            colour = FACES.get(box["name"].rstrip("0123456789"), PURPLE)
            _draw_box(axes, place + 0.02, 0.4 - side / 2, side, depth, colour)
            text = box["name"], shape_text(box["shape"] if height > 1 else box["shape"][:1]), box["window"]
            for line, (words, weight) in enumerate(zip(text, ("bold", "normal", "normal"), strict=True)):
                axes.text(place, -0.05 - 0.15 * line, words, fontsize=7.5, weight=weight, va="top")
    return figure


def _draw_box(axes: Any, x: float, y: float, side: float, depth: float, colour: str) -> None:
    side, slant = max(side, 0.05), max(depth, 0.04) * 0.7
    front = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
    back = [(corner_x + slant, corner_y + slant) for corner_x, corner_y in front]
    top, flank = [front[3], front[2], back[2], back[3]], [front[1], back[1], back[2], front[2]]
    for corners, alpha in ((front, 0.85), (top, 0.45), (flank, 0.6)):
        axes.add_patch(Polygon(corners, facecolor=colour, alpha=alpha, edgecolor="none"))
        axes.add_patch(Polygon(corners, facecolor="none", edgecolor=INK, linewidth=0.7, joinstyle="round"))


def network_sentence(number: int, layers: list[dict[str, Any]]) -> str:
    num_params, multiply_adds = (sum(layer[key] for layer in layers) for key in ("num_params", "multiply_adds"))
    costliest = max(layers, key=lambda layer: layer["multiply_adds"])
    share = costliest["multiply_adds"] / max(1, multiply_adds)
    return (
        f"The network of trial {number} has {num_params:,} parameters and needs {compact(multiply_adds)} multiply-adds "
        f"for an image, {percent(share, 0)} of them in {costliest['name']}."
    )


def picture(evaluation: Evaluation) -> Picture | None:
    if evaluation.winner is None:
        return None
    meta = read_meta(evaluation.winner.checkpoint)
    network = meta["config"].model, meta["image_shape"], len(meta["class_names"])
    sentence = network_sentence(evaluation.winner.number, layer_table(*network))
    return Picture("feature_maps", "Feature maps", plot_feature_maps(feature_maps_data(*network)), sentence)
