"""What one image excites in a network."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.evaluating.evaluation import Evaluation
from analysis.figures.feature_maps import shape_text
from analysis.figures.style import Picture, drawing, styled
from training import load_model
from training.checkpoint import CheckpointError
from training.model import ConvNet, Residual

CHANNELS_SHOWN = 8


def activations_data(model: ConvNet, image: NDArray[np.uint8]) -> list[tuple[str, NDArray[np.float32]]]:
    """What one image (H, W, C) excites: after each block its strongest channels as (channels <= 8, H, W) in [0, 1]."""
    seen: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, output: seen.append(output)) for block in model.blocks]
    device = next(model.parameters()).device
    with torch.inference_mode():
        model.eval()(torch.tensor(image, device=device).permute(2, 0, 1)[None])
    for hook in hooks:
        hook.remove()
    names = block_names(model)
    return [(name, _strongest(output[0].float().cpu().numpy())) for name, output in zip(names, seen, strict=True)]


def block_names(model: ConvNet) -> list[str]:
    """The blocks, counted as convolutions are: `block 0`; with a residual sum `blocks 1 to 3, plus their input`."""
    names, first = [], 0
    for block in model.blocks:
        last = first + (len(block) if isinstance(block, Residual) else 1) - 1
        name = f"block {first}" if first == last else f"blocks {first} to {last}"
        whose = "its" if first == last else "their"
        names.append(f"{name}, plus {whose} input" if isinstance(block, Residual) else name)
        first = last + 1
    return names


def _strongest(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    order = np.argsort(-maps.std(axis=(1, 2)), kind="stable")[:CHANNELS_SHOWN]
    chosen = maps[order]
    low, high = chosen.min(axis=(1, 2), keepdims=True), chosen.max(axis=(1, 2), keepdims=True)
    return np.asarray((chosen - low) / np.maximum(high - low, 1e-12), dtype=np.float32)


@styled
def plot_activations(image: NDArray[np.uint8], data: list[tuple[str, NDArray[np.float32]]]) -> Figure:
    """An image (H, W, C), and below it one row of channels for each block, each scaled to its own range."""
    rows = len(data)
    figure = drawing(height=0.25 + 0.72 * rows)
    grids = figure.subplots(rows, CHANNELS_SHOWN + 1, squeeze=False)
    for axes in grids.flat:
        axes.set_axis_off()
    grids[0, 0].imshow(image)
    for row, (name, maps) in enumerate(data):
        for axes, channel in zip(grids[row, 1:], maps, strict=False):
            axes.imshow(channel, cmap="viridis", vmin=0, vmax=1)
        grids[row, 1].set_title(" ", fontsize=8, pad=3)  # room for a line: a title wider than its channel moves others
        line: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "in_layout": False}
        grids[row, 1].annotate(f"{name}: {shape_text(maps.shape[1:])}", (0, 1), (0, 3), fontsize=8, **line)
    return figure


def picture(evaluation: Evaluation) -> Picture | None:
    winner = evaluation.winner
    if winner is None or winner.predictions is None or not len(winner.predictions.sample_images):
        return None
    kept = winner.predictions
    image = kept.sample_images[-1]  # a correct one if there is one
    label = winner.class_names[int(kept.labels[kept.sample_indices[-1]])]
    try:
        data = activations_data(load_model(winner.checkpoint), image)
    except CheckpointError:
        return None
    sentence = (
        f"A test image of class {label} and, after each block, the channels that vary most over it; "
        "every channel is scaled to its own range."
    )
    return Picture("activations", "What one image excites", plot_activations(image, data), sentence)
