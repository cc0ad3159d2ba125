"""Train the starter's image tower from pictures with texts: python -m tools.starter.train --pairs PAIRS --output DIR.

README.md beside this file says what it needs and how long it takes.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.transformer import VisionTransformer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from alignclip_core.base_models import STARTER_FOLDER, read_card
from alignclip_core.encoder import TextEncoder, build_text_encoder
from alignclip_core.encoder.starter import FEATURE_DIM, STEM_CHANNELS, WEIGHTS_FILE
from tools.starter.losses import positives, ridge_answers, starter_loss
from tools.starter.pairs import CLASS_TEMPLATES, PairSource, Picture, class_names
from tools.starter.stem import StemNetwork, packaged_weights, store_views

WIDTH = 192
FIRST_LOGIT_SCALE, LARGEST_LOGIT_SCALE = 1 / 0.07, 100.0  # CLIP's


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The values that the shipped weights were made with."""

    num_steps: int = 1250
    batch_size: int = 256
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.1  # on matrices alone
    warmup_steps: int = 200
    gradient_clip: float = 1.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero."""
        warmup = min(self.warmup_steps, self.num_steps // 5)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.num_steps - warmup)))


class Tower(nn.Module):
    """The trained part: a vision transformer over stored stem outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.visual: Any = VisionTransformer(
            image_size=224, patch_size=32, width=WIDTH, layers=12, heads=3, mlp_ratio=4.0, output_dim=FEATURE_DIM
        )
        self.visual.conv1 = nn.Conv2d(STEM_CHANNELS, WIDTH, kernel_size=1)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(FIRST_LOGIT_SCALE)))

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Class token and mean patch in the space of the text features, both of unit length."""
        tokens = self.visual.transformer(self.visual._embeds(patches))
        projected = (self.visual.ln_post(tokens) @ self.visual.proj).float()
        return F.normalize(projected[:, 0], dim=-1), F.normalize(projected[:, 1:].mean(1), dim=-1)


class TextFeatures:
    """The features of every text that may be drawn, computed once."""

    def __init__(self, encoder: TextEncoder, pictures: Sequence[Picture]) -> None:
        texts = {text for picture in pictures for forms in picture.texts() for text in forms}
        self._row = {text: row for row, text in enumerate(sorted(texts))}
        self._features = encoder.encode(list(self._row))

    def of(self, texts: Sequence[str]) -> Tensor:
        return self._features[[self._row[text] for text in texts]]

    def mean(self, picture: Picture) -> Tensor:
        """Mean over all that may be said about the picture."""
        return self.of([text for forms in picture.texts() for text in forms]).mean(0)


def train(
    pictures: Sequence[Picture], views: np.ndarray, answers: Tensor, texts: TextFeatures, recipe: Recipe
) -> Tower:
    """Train a new tower; `views` and `answers` have one row per picture."""
    torch.manual_seed(recipe.seed)
    chance = random.Random(recipe.seed)
    tower = Tower()
    optimizer = _optimizer(tower, recipe)
    started = time.perf_counter()
    for step in range(recipe.num_steps):
        rows = chance.choices(range(len(pictures)), k=recipe.batch_size)
        said, keys = zip(*(_draw_text(pictures[row], chance) for row in rows), strict=True)
        patches = np.stack([views[row, chance.randrange(views.shape[1])] for row in rows])
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            class_token, mean_patch = tower(torch.from_numpy(patches).float())
        loss = starter_loss(
            class_token, mean_patch, texts.of(said), answers[rows], tower.logit_scale.exp(), positives(keys)
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), recipe.gradient_clip)
        optimizer.step()
        with torch.no_grad():
            tower.logit_scale.clamp_(max=math.log(LARGEST_LOGIT_SCALE))
        if step % 50 == 0 or step == recipe.num_steps - 1:
            rate = (step + 1) * recipe.batch_size / (time.perf_counter() - started)
            print(f"step {step + 1}/{recipe.num_steps}: loss {loss.item():.3f}, {rate:.0f} images/s", flush=True)
    return tower


def save(tower: Tower, stem: StemNetwork, path: Path) -> None:
    """What alignclip_core.encoder.starter reads: stem and tower under their prefixes, in fp16 but for the scale."""
    visual = {name: value for name, value in tower.visual.state_dict().items() if not name.startswith("conv1.")}
    tensors = {f"visual.{name}": value for name, value in visual.items()}
    tensors |= {f"stem.trunk.{name}": value for name, value in stem.trunk.state_dict().items()}
    tensors |= {f"stem.proj.{name}": value for name, value in tower.visual.conv1.state_dict().items()}
    tensors["logit_scale"] = tower.logit_scale.detach()
    halves = {
        name: (value.half() if value.is_floating_point() and value.ndim else value).contiguous()
        for name, value in tensors.items()
    }
    save_file(halves, path, metadata={"format": "pt"})


@torch.inference_mode()
def held_out_accuracy(tower: Tower, pictures: Sequence[Picture], views: np.ndarray, encoder: TextEncoder) -> float:
    """Share of the pictures whose nearest class name, among all names of these pictures, is one of their own."""
    names = class_names(pictures)
    text_features = encoder.encode([CLASS_TEMPLATES[0].replace("{}", name) for name in names])
    num_right = 0
    for start in range(0, len(pictures), 64):
        class_token, _ = tower(torch.from_numpy(views[start : start + 64, 0]).float())
        nearest = (class_token @ text_features.T).argmax(1).tolist()
        batch = pictures[start : start + 64]
        num_right += sum(names[best] in picture.captions for picture, best in zip(batch, nearest, strict=True))
    return num_right / len(pictures)


def main(arguments: Sequence[str] | None = None) -> None:
    """Stem, train, measure, save."""
    options = _parse(arguments)
    recipe = Recipe(num_steps=options.steps, batch_size=options.batch_size, seed=options.seed)
    source = PairSource(options.pairs)
    pictures = source.pictures()[: options.max_pictures]
    trained = [picture for picture in pictures if not picture.is_held_out]
    held_out = [picture for picture in pictures if picture.is_held_out]
    torch.manual_seed(recipe.seed)
    stem = StemNetwork(None if options.random_stem else options.stem_weights or packaged_weights())
    options.output.mkdir(parents=True, exist_ok=True)
    views, pooled = store_views(source, trained, stem, options.output / "trained_views.npy", recipe.seed)

    encoder = build_text_encoder(read_card(STARTER_FOLDER, "starter"))
    texts = TextFeatures(encoder, trained)
    answers = ridge_answers(pooled, torch.stack([texts.mean(picture) for picture in trained]))
    tower = train(trained, views, answers, texts, recipe)
    save(tower, stem, options.output / WEIGHTS_FILE)
    print(f"{options.output / WEIGHTS_FILE}: logit scale {tower.logit_scale.exp().item():.1f}")
    if held_out:
        views, _ = store_views(source, held_out, stem, options.output / "held_out_views.npy", recipe.seed)
        print(f"{len(held_out)} held-out pictures: {held_out_accuracy(tower, held_out, views, encoder):.1%} top-1")


def _draw_text(picture: Picture, chance: random.Random) -> tuple[str, str]:
    """One text of the picture, and the key of its positives."""
    caption = chance.randrange(len(picture.captions))
    return chance.choice(picture.texts()[caption]), picture.positive_key(caption)


def _optimizer(tower: Tower, recipe: Recipe) -> torch.optim.AdamW:
    parameters = list(tower.parameters())
    groups = [
        {"params": [value for value in parameters if value.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [value for value in parameters if value.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the starter's image tower.")
    parser.add_argument("--pairs", type=Path, required=True, help="folder or zip with captions.csv and its pictures")
    parser.add_argument("--output", type=Path, required=True, help="folder for the weights and the stored stem output")
    parser.add_argument("--steps", type=int, default=Recipe.num_steps)
    parser.add_argument("--batch-size", type=int, default=Recipe.batch_size)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--max-pictures", type=int, default=None, help="use the first N pictures only")
    parser.add_argument("--stem-weights", type=Path, default=None, help="EfficientNet-Lite0 .pth; default: the package")
    parser.add_argument("--random-stem", action="store_true", help="no ImageNet weights: for trying the recipe out")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
