"""The text tower: strings to text features. It never trains, so the features of a text can be kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer

BATCH_SIZE = 64  # texts a forward pass: fills a small machine, fits its memory

Tokenizer = Callable[[list[str]], Tensor]


class TextEncoder:
    """A frozen open_clip text tower with its tokenizer."""

    def __init__(self, tower: nn.Module, tokenizer: Tokenizer, *, text_model: str) -> None:
        self.text_model = text_model  # names the tower: equal names give equal features
        self._tower = tower.eval().requires_grad_(False)
        self._tokenizer = tokenizer

    def to(self, device: str | torch.device) -> TextEncoder:
        """The same encoder, its tower moved."""
        self._tower.to(device)
        return self

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Text features of unit length, fp32, on the tower's device."""
        device = next(self._tower.parameters()).device
        batches = [list(texts[start : start + BATCH_SIZE]) for start in range(0, len(texts), BATCH_SIZE)]
        features = [self._tower(self._tokenizer(batch).to(device)) for batch in batches]
        return F.normalize(torch.cat(features).float(), dim=-1)


def hugging_face_tokenizer(folder: Path, context_length: int) -> Tokenizer:
    """The tokenizer of a local folder; pads to the longest text of a batch, where open_clip's pads to the end."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def tokenize(texts: list[str]) -> Tensor:
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=context_length, return_tensors="pt")
        return encoded.input_ids  # type: ignore[no-any-return]

    return tokenize
