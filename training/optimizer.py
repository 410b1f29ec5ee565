"""Optimizers and learning-rate schedules by name."""

import math
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from training.config import OptimizerConfig

LINEAR_RISE = 0.1  # share of all steps in which the linear schedule rises
NEWTON_SCHULZ_STEPS = 3


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
        case "muon":
            return Muon(model, config)
        case _:
            assert_never(config.name)


class Muon(SGD):
    """Orthogonalised momentum for convolution filters, and SGD for everything else.

    Every step changes the filters of a layer, as a matrix (O, C*K*K), by `learning_rate` times a matrix whose singular
    values are about 1. Where norms follow, so that the filters' size means nothing, they are kept at a norm of 1 on
    average, and the rate is the share by which they turn; weight decay acts on the others only. Source: Jordan et al.,
    "Muon: An optimizer for hidden layers in neural networks", 2024, and cifar10-airbench.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        filters = [parameter for parameter in model.parameters() if parameter.ndim == 4]
        weights = [parameter for parameter in model.parameters() if 1 < parameter.ndim < 4]
        others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
        self.unit_norm = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        nesterov = config.nesterov and config.momentum > 0
        rest = {"lr": config.other_learning_rate, "momentum": config.momentum, "nesterov": nesterov}
        super().__init__(
            [
                {"params": filters, "weight_decay": 0.0 if self.unit_norm else config.weight_decay},
                {"params": weights, "weight_decay": config.weight_decay, **rest},
                {"params": others, "weight_decay": 0.0, **rest},
            ],
            lr=config.learning_rate,
            fused=True,
        )
        self.filter_momentum, self.filter_nesterov = config.momentum, nesterov

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for filters in self.param_groups[0]["params"]:
            if filters.grad is None:
                continue
            gradient = filters.grad
            if self.filter_momentum > 0:
                state = self.state[filters]
                if "average" not in state:
                    state["average"] = torch.zeros_like(filters)
                average = state["average"].mul_(self.filter_momentum).add_(gradient)
                gradient = gradient.add(average, alpha=self.filter_momentum) if self.filter_nesterov else average
            if self.unit_norm:
                filters.mul_(len(filters) ** 0.5 / filters.norm().clamp_min(1e-12))
            filters.grad.copy_(orthogonalised(gradient.flatten(1)).view_as(filters))
        super().step()  # also decays the filters, if they are not kept at a norm
        return loss


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix with about the same singular vectors, and singular values near 1: Newton-Schulz steps in float32.

    The coefficients of Jordan et al., 2024, raise small singular values fast and let none settle at 1 exactly.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    turned = len(matrix) > matrix.shape[1]
    found = (matrix.T if turned else matrix).float()
    found = found / found.norm().clamp_min(1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return (found.T if turned else found).to(matrix.dtype)


def averages_kept(config: OptimizerConfig) -> int:
    """How many averages, each as large as the weights, the optimizer of a config keeps."""
    has_momentum = config.momentum > 0
    match config.name:
        case "sgd" | "muon":
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
        case "linear":
            rise = math.ceil(LINEAR_RISE * total_steps)
            return LambdaLR(
                optimizer,
                lambda step: min((step + 1) / rise, (total_steps - step) / max(1, total_steps - rise)),
            )
        case _:
            assert_never(config.schedule)
