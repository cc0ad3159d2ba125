"""An AlignCLIP step against plain fine-tune steps: ViT-B/16 at 224, random weights, time and peak memory.

All sides have the same tower, fused AdamW and beta moving average; the only difference is the losses and what they
read. `finetune` is the honest baseline: cross entropy over open_clip's own forward pass. `shortcut` is this project's
own `finetune`, which computes the class token alone in the last block; AlignCLIP cannot, it reads the patches there.
Steps alternate, so that whatever else the machine does hits all; a ratio is the median over the rounds.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from torch import nn
from torch.nn import functional as F

from alignclip_core.algorithms import make_algorithm
from alignclip_core.base_models import BaseModel
from alignclip_core.config import make_config
from alignclip_core.encoder import ImageEncoder, TrainedTower
from alignclip_core.images import Preprocessing
from alignclip_core.method.averaging import BetaMovingAverage
from alignclip_core.run_dir import ClassSimilarity
from benchmarks.rows import Row, machine, peak_bytes

NUM_CLASSES = 65  # as many as Office-Home
CONDITIONS = (("bf16", 8, 9), ("fp32", 8, 5), ("bf16", 36, 3))  # precision, batch, rounds
SIDES = ("finetune", "shortcut", "alignclip")
MEMORY_STEPS = 2


class OpenClipFinetune(nn.Module):
    """Cross entropy of eq 1 over open_clip's own image tower, unchanged."""

    def __init__(self, encoder: ImageEncoder, class_embeddings: torch.Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.class_embeddings = class_embeddings

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss."""
        features = F.normalize(self.encoder.visual(images).float(), dim=-1)
        return F.cross_entropy(self.encoder.logit_scale * features @ self.class_embeddings.T, labels)


def measure() -> list[Row]:
    """Time ratios for each condition, and the ratio of peak memory at batch 8."""
    rows = [row for condition in CONDITIONS for row in _time_ratios(*condition)]
    peaks = {side: _peak_in_own_process(side, "bf16", 8) for side in ("finetune", "alignclip")}
    detail = f"batch 8, bf16, {peaks['alignclip'] / 2**30:.2f} over {peaks['finetune'] / 2**30:.2f} GiB resident; "
    ratio = peaks["alignclip"] / peaks["finetune"]
    return [*rows, Row("peak_memory_ratio_alignclip_over_finetune", ratio, "ratio", detail + machine())]


def make_step(side: str, precision: str, batch: int, **fields: Any) -> Callable[[], None]:
    """One whole update of a fresh ViT-B/16: forward, backward, AdamW, average; `fields` of the config besides."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vision = CLIPVisionCfg(layers=12, width=768, patch_size=16, image_size=224)
    preprocess = Preprocessing(image_size=224, mean=(0.5,) * 3, std=(0.5,) * 3)
    encoder = ImageEncoder(_build_vision_tower(512, vision, True), logit_scale=100.0, preprocess=preprocess).to(device)
    names = {f"class {index:02d}": f"class {index:02d}" for index in range(NUM_CLASSES)}
    algorithm = "alignclip" if side == "alignclip" else "finetune"
    config = make_config(
        BaseModel(id="benchmark"), class_names=names, algorithm=algorithm, given={"averaging": "bma"} | fields
    )
    embeddings = np.random.default_rng(0).normal(size=(NUM_CLASSES, 512)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = ClassSimilarity(
        class_names=tuple(names),
        templates=config.templates,
        text_model="random",
        class_embeddings=embeddings,
        cosine=embeddings @ embeddings.T,
    )
    algorithm_module = make_algorithm(encoder, similarity, config)
    open_clip_module = OpenClipFinetune(encoder, torch.from_numpy(embeddings).to(device))
    encoder.gradient_checkpointing = config.gradient_checkpointing
    tower = TrainedTower(encoder, config)
    optimizer = torch.optim.AdamW(tower.parameters.values(), lr=1e-6, weight_decay=0.1, fused=True)
    average = BetaMovingAverage(tower.weights(), config.num_steps, config.bma_beta)
    images = torch.randn(batch, 3, 224, 224, device=device)
    labels = torch.arange(batch, device=device) % NUM_CLASSES
    pieces = batch if config.micro_batch_size == "auto" else config.micro_batch_size

    def step() -> None:
        for some_images, some_labels in zip(images.split(pieces), labels.split(pieces), strict=True):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                if side == "finetune":
                    loss = open_clip_module(some_images, some_labels)
                else:
                    loss = algorithm_module(some_images, some_labels).losses.total
            (loss * (len(some_images) / batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(tower.weights())
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def _time_ratios(precision: str, batch: int, num_rounds: int) -> list[Row]:
    steps = {side: make_step(side, precision, batch) for side in SIDES}
    for step in steps.values():
        step()
    rounds = [{side: seconds_of(step) for side, step in steps.items()} for _ in range(num_rounds)]
    suffix = "" if (precision, batch) == CONDITIONS[0][:2] else f"_{precision}_batch_{batch}"
    rows = []
    for baseline, name in (("finetune", "finetune"), ("shortcut", "own_shortcut_finetune")):
        ratio = statistics.median(seconds["alignclip"] / seconds[baseline] for seconds in rounds)
        ours, theirs = (statistics.median(seconds[side] for seconds in rounds) for side in ("alignclip", baseline))
        detail = (
            f"batch {batch}, {precision}, median of {num_rounds} rounds ({ours:.2f} s and {theirs:.2f} s); {machine()}"
        )
        rows.append(Row(f"step_ratio_alignclip_over_{name}{suffix}", ratio, "ratio", detail))
    return rows


def seconds_of(step: Callable[[], None]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _peak_in_own_process(side: str, precision: str, batch: int) -> int:
    """Bytes: the most memory that a process of its own held over some steps."""
    command = [sys.executable, "-m", "benchmarks.training_step", side, precision, str(batch)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _print_peak(side: str, precision: str, batch: str) -> None:
    step = make_step(side, precision, int(batch))
    for _ in range(MEMORY_STEPS):
        step()
    print(peak_bytes())


if __name__ == "__main__":
    _print_peak(*sys.argv[1:])
