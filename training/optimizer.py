"""Optimizers and learning-rate schedules by name."""

from typing import assert_never

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from training.config import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The optimizer of a config; weight decay acts on convolution and linear weights, not on norms and biases."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    match config.name:
        case "sgd":
            nesterov = config.nesterov and config.momentum > 0
            return SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov, fused=True)
        case "adam":
            return Adam(groups, lr=config.learning_rate, fused=True)
        case "adamw":
            return AdamW(groups, lr=config.learning_rate, fused=True)
        case "rmsprop":
            return RMSprop(groups, lr=config.learning_rate, momentum=config.momentum)
        case _:
            assert_never(config.name)


def averages_kept(config: OptimizerConfig) -> int:
    """How many averages, each as large as the weights, the optimizer of a config keeps."""
    has_momentum = config.momentum > 0
    match config.name:
        case "sgd":
            return int(has_momentum)
        case "adam" | "adamw":
            return 2
        case "rmsprop":
            return 1 + has_momentum
        case _:
            assert_never(config.name)


def build_schedule(optimizer: Optimizer, config: OptimizerConfig, total_steps: int) -> LRScheduler:
    """A schedule stepped after every batch, spanning `total_steps`; each group's own rate is its highest value."""
    match config.schedule:
        case "constant":
            return ConstantLR(optimizer, factor=1.0)
        case "cosine":
            return CosineAnnealingLR(optimizer, T_max=total_steps)
        case "one_cycle":  # rises over the first 30 %; the momentum stays what the config says
            highest = [group["lr"] for group in optimizer.param_groups]
            return OneCycleLR(optimizer, highest, total_steps=total_steps, cycle_momentum=False)
        case _:
            assert_never(config.schedule)
