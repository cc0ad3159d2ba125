"""What moves the weights: the optimizer, and its rate at each step."""

from __future__ import annotations

import math
from typing import Any

import torch

from alignclip_core.algorithms import Algorithm
from alignclip_core.config import FinetuneConfig
from alignclip_core.encoder import TrainedTower


def make_optimizer(tower: TrainedTower, algorithm: Algorithm, config: FinetuneConfig) -> torch.optim.Optimizer:
    """The config's, over the tower's trained weights and what the algorithm learns beside them."""
    rates = {1.0: list(tower.parameters.values())}
    rates.setdefault(algorithm.learned_rate, []).extend(algorithm.learned_parameters.values())
    groups = [{"params": values, "rate": rate} for rate, values in rates.items() if values]
    values: Any = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, **values)
    return torch.optim.AdamW(groups, **values)


def learning_rate_at(num_updates: int, config: FinetuneConfig) -> float:
    """Rate of the update after `num_updates` others: linear warm-up, then half a cosine down to zero."""
    if num_updates < config.warmup_steps:
        return config.learning_rate * (num_updates + 1) / config.warmup_steps
    share = (num_updates - config.warmup_steps) / max(config.num_steps - config.warmup_steps, 1)
    return config.learning_rate * (1 + math.cos(math.pi * share)) / 2
