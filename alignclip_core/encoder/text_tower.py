"""The text tower: strings to text features. It never trains, so the features of a text can be kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer

BATCH_SIZE = 64  # texts a forward pass: fills a small machine, fits its memory

PLACE = "x"  # a word of one token: where a context vector goes

Tokenizer = Callable[[list[str]], Tensor]

_context: ContextVar[Tensor | None] = ContextVar("context", default=None)
"""Of the `encode_with_context` that this thread is in; others may encode with the same tower meanwhile."""


class TextEncoder:
    """A frozen open_clip text tower with its tokenizer."""

    def __init__(self, tower: nn.Module, tokenizer: Tokenizer, *, text_model: str) -> None:
        self.text_model = text_model  # names the tower: equal names give equal features
        self._tower = tower.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._token_embedding = _token_embedding(tower)
        self._token_embedding.register_forward_hook(_put_context)

    @property
    def token_width(self) -> int:
        """Numbers that stand for a token where the tower begins."""
        return self._token_embedding.embedding_dim

    @property
    def num_parameters(self) -> int:
        """Numbers that the tower holds."""
        return sum(parameter.numel() for parameter in self._tower.parameters())

    @property
    def blocks(self) -> tuple[int, int]:
        """How many blocks the tower has, and how many heads each."""
        transformer: Any = self._tower.transformer
        if hasattr(transformer, "resblocks"):
            return len(transformer.resblocks), transformer.resblocks[0].attn.num_heads
        return transformer.config.num_hidden_layers, transformer.config.num_attention_heads

    def num_tokens(self, texts: Sequence[str]) -> int:
        """Tokens of each of these texts when they are encoded together."""
        return self._tokenizer(list(texts)).shape[1]

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

    @torch.no_grad()
    def embed_words(self, words: str) -> Float[Tensor, "tokens width"]:
        """The token embeddings of some words, each of one token: where a learned context may begin."""
        tokens = self._tokenizer([words]).to(self._token_embedding.weight.device)
        embedded: Tensor = self._token_embedding(tokens)
        return embedded[0, 1 : 1 + len(words.split())].float().clone()

    def encode_with_context(
        self, words: Sequence[str], context: Float[Tensor, "*images tokens width"]
    ) -> Float[Tensor, "*images words dim"]:
        """Text features of `[context] word.`, with vectors in the places of the context's tokens; has a gradient.

        The context may be one for all, or one for each image. The first token, the start of a text, stays.
        """
        prompts = [f"{' '.join([PLACE] * context.shape[-2])} {word}." for word in words]
        contexts = context.reshape(-1, *context.shape[-2:])
        tokens = self._tokenizer(prompts).to(context.device).repeat(len(contexts), 1)
        rows = torch.arange(len(contexts), device=context.device).repeat_interleave(len(words))
        size = len(rows) if torch.is_grad_enabled() else BATCH_SIZE  # a gradient needs them all at once anyway
        features = [
            self._forward_with_context(part, contexts[of_part])
            for part, of_part in zip(tokens.split(size), rows.split(size), strict=True)
        ]
        unit: Tensor = F.normalize(torch.cat(features).float(), dim=-1)
        return unit.reshape(*context.shape[:-2], len(words), -1)

    def _forward_with_context(self, tokens: Tensor, contexts: Tensor) -> Tensor:
        token = _context.set(contexts)
        try:
            features: Tensor = self._tower(tokens)
        finally:
            _context.reset(token)
        return features


def hugging_face_tokenizer(folder: Path, context_length: int) -> Tokenizer:
    """The tokenizer of a local folder; pads to the longest text of a batch, where open_clip's pads to the end."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def tokenize(texts: list[str]) -> Tensor:
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=context_length, return_tensors="pt")
        return encoded.input_ids  # type: ignore[no-any-return]

    return tokenize


def _token_embedding(tower: nn.Module) -> nn.Embedding:
    """Of open_clip's own text towers, or of a transformers model in one."""
    embedding: Any = getattr(tower, "token_embedding", None)
    if embedding is None:
        transformer: Any = tower.transformer
        embedding = transformer.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    return embedding


def _put_context(module: nn.Module, arguments: object, embedded: Tensor) -> Tensor:
    """After the token embedding: the context, if there is one, in place of the tokens after the first."""
    context = _context.get()
    if context is None:
        return embedded
    return torch.cat([embedded[:, :1], context.to(embedded.dtype), embedded[:, 1 + context.shape[1] :]], dim=1)
