"""How many trials share a GPU where the user does not say: as many as its memory holds, by a measurement."""

from math import prod

import ray
import torch
from ray.exceptions import RayError
from rich.console import Console
from rich.text import Text

from search.config import SearchConfig
from search.feasibility import feasible_networks
from training.config import TrialConfig
from training.data import TrainData
from training.layers import network_layers
from training.timing import peak_gpu_bytes

MOST_TRIALS = 4  # processes take turns on a GPU; the first few fill the gaps in which it would wait for a CPU
TRIES = 200  # random points of the space among which the hungriest network is looked for
SECONDS_TO_MEASURE = 120.0
LEFT_FREE = 0.05  # of the memory


def trials_that_fit(config: SearchConfig, data: TrainData, console: Console) -> int:
    """How many trials the memory of a GPU of this cluster holds at a time, one at least, and MOST_TRIALS at most."""
    network = hungriest(config, len(data.train.class_names))
    measure = ray.remote(num_gpus=1, max_calls=1, max_retries=0)(measure_on_gpu)  # max_calls: the process ends after it
    try:
        answer = ray.get(measure.remote(network.model_dump_json(), data), timeout=SECONDS_TO_MEASURE)
    except RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        console.print(Text(f"A GPU's memory could not be measured ({reason}): one trial at a time on each."))
        return 1
    return count_fitting(*answer)


def count_fitting(trial_bytes: int, gpu_bytes: int) -> int:
    """How many trials of a size fit into a GPU, one at least, and MOST_TRIALS at most."""
    return max(1, min(MOST_TRIALS, int((1 - LEFT_FREE) * gpu_bytes / trial_bytes)))


def measure_on_gpu(config: str, data: TrainData) -> tuple[int, int]:
    """Run by a worker with a GPU: see `peak_gpu_bytes`; the trial's config is JSON."""
    return peak_gpu_bytes(TrialConfig.model_validate_json(config), data, torch.device("cuda"))


def hungriest(config: SearchConfig, num_classes: int) -> TrialConfig:
    """The network that takes most memory in training, of trial 0 and random ones of the space."""
    networks = [config.base, *(network for _, network in feasible_networks(config, num_classes, TRIES))]
    return max(networks, key=lambda network: activations(network, num_classes))


def activations(config: TrialConfig, num_classes: int) -> int:
    """Numbers that the layers of a network put out for one batch: what training keeps grows with them."""
    layers = network_layers(config.model, config.data.image_shape, num_classes)
    return config.train.batch_size * sum(prod(layer.output_shape) for layer in layers)
