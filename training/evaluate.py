"""Loss and accuracy over a split: sums, divided once. And a network that looks at every image twice."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from training.config import TrialConfig
from training.model import ConvNet

EVALUATION_BATCH = 256  # images


def evaluation_batch(config: TrialConfig) -> int:
    """Images in a batch of validation, whenever it is repeated: equal batches give equal bits."""
    return max(config.train.batch_size, EVALUATION_BATCH)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on CUDA, plain float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


class Mirrored(nn.Module):
    """A network that sees every image and its mirror image: the mean of both logits, as in cifar10-airbench.

    Takes and returns what the network does, (N, C, H, W) -> (N, num_classes). Only of use if training flipped images.
    """

    def __init__(self, network: ConvNet) -> None:
        super().__init__()
        self.network = network
        self.input_shape = network.input_shape

    def forward(self, images: Tensor) -> Tensor:
        return (self.network(images).float() + self.network(images.flip(3)).float()) / 2


class Sums:
    """Running sums of loss and hits on the device; read once, so that a GPU is never waited for in between."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.count = 0

    def add(self, mean_loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.loss += mean_loss.detach().double() * len(labels)
        self.correct += (logits.argmax(1) == labels).sum()
        self.count += len(labels)

    def averages(self) -> tuple[float, float]:
        """(mean loss, accuracy in [0, 1])."""
        return float(self.loss) / self.count, int(self.correct) / self.count


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """(mean cross-entropy in nats, accuracy in [0, 1]) of a model over all images of some batches."""
    device = next(model.parameters()).device
    sums = Sums(device)
    model.eval()
    with torch.inference_mode(), autocast(device):
        for images, labels in batches:
            logits = model(images).float()
            sums.add(cross_entropy(logits, labels), logits, labels)
    return sums.averages()


def predict(model: nn.Module, loader: DataLoader[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(logits (N, num_classes) float32, labels (N,)) on the CPU, in the loader's order."""
    device = next(model.parameters()).device
    logits, labels = [], []
    model.eval()
    with torch.inference_mode(), autocast(device):
        for images, batch_labels in loader:
            logits.append(model(images).float().cpu())
            labels.append(batch_labels.cpu())
    return torch.cat(logits), torch.cat(labels)
