"""Gradients of a batch in micro batches: those of the whole batch, in the memory of a part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from alignclip_core.algorithms import Algorithm, StepOutput
from alignclip_core.config import FinetuneConfig
from alignclip_core.errors import ConfigInvalid, OutOfMemory
from alignclip_core.ranks import Ranks, split_like


class Gradients:
    """Adds up the gradients of a global batch, of which this rank has a share, micro batch by micro batch.

    The losses are means over the batch, so a micro batch counts by its size. Where memory runs out on any rank, all
    halve their micro batch and begin their share again: no weight has changed by then. The ranks exchange nothing
    before all have gone through their share, or one that fails would leave the others waiting for its gradients.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        config: FinetuneConfig,
        ranks: Ranks,
        scaler: torch.amp.GradScaler,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """Raises `ConfigInvalid` when a rank would get no image."""
        if ranks.num_ranks > config.global_batch_size:
            raise ConfigInvalid(
                f"global_batch_size is {config.global_batch_size}; {ranks.num_ranks} processes need one image each.",
                param="global_batch_size",
            )
        self._batch_size = config.global_batch_size
        self._ranks, self._scaler, self._autocast = ranks, scaler, autocast
        self._algorithm = algorithm
        self._parameters = [parameter for parameter in algorithm.parameters() if parameter.requires_grad]
        ranks.share_from_first(self._parameters)
        self._row: Tensor | None = None
        if ranks.num_ranks > 1:
            # All gradients one after another: one message sums them, and takes no memory that might be lacking then.
            self._row = torch.zeros(sum(value.numel() for value in self._parameters), device=algorithm.device)
        self._asked = config.micro_batch_size
        self._is_whole = algorithm.needs_whole_batch
        share = -(-config.global_batch_size // ranks.num_ranks)  # the largest: the number is the same on all ranks
        self.micro_batch_size = share if config.micro_batch_size == "auto" else min(config.micro_batch_size, share)
        if self._is_whole and self.micro_batch_size < config.global_batch_size:
            raise ConfigInvalid(
                f"{config.algorithm} compares the domains of a whole batch; it trains in one process, with a "
                f"micro_batch_size of {config.global_batch_size} or auto.",
                param="micro_batch_size",
            )
        self.events: list[str] = []
        """What happened that a person should read; who reads it empties it."""

    def state_dict(self) -> dict[str, Any]:
        """The micro batch that the run has come down to, from the one that was asked for."""
        return {"asked": self._asked, "micro_batch_size": self.micro_batch_size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with that micro batch, so that the sums stay the same bit for bit; unless another is asked for now."""
        if state["asked"] == self._asked:
            self.micro_batch_size = min(self.micro_batch_size, state["micro_batch_size"])

    def probe(self, image_shape: tuple[int, ...], device: torch.device) -> None:
        """Find a micro batch that fits beside the optimizer's state, which doesn't exist before the first step.

        Leaves no gradient. Raises `OutOfMemory`.
        """

        def attempt() -> None:
            optimizer_state = [torch.empty_like(parameter) for parameter in self._parameters for _ in range(2)]
            size = self.micro_batch_size
            images = torch.zeros(size, *image_shape, device=device)
            zeros = torch.zeros(size, dtype=torch.int64, device=device)
            self._lay_in_a_row()
            self._backward(images, zeros, zeros)
            del optimizer_state

        self._until_it_fits(attempt)
        self._drop()

    def add(self, images: Tensor, labels: Tensor, domains: Tensor) -> Tensor:
        """Add the gradients of a batch, of which these are this rank's images, to the parameters' own.

        Returns, on the images' device, of the whole batch: total loss, smoothing loss, layer alignment, similarity
        alignment, number of right answers. Raises `OutOfMemory`.
        """
        values = torch.zeros(5, device=images.device)

        def attempt() -> None:
            values.zero_()
            self._lay_in_a_row()
            parts = (each.split(self.micro_batch_size) for each in (images, labels, domains))
            for piece in zip(*parts, strict=True):
                values.add_(self._backward(*piece))

        self._until_it_fits(attempt)
        if self._row is not None:
            self._ranks.sum(self._row)
        return self._ranks.sum(values)

    def _lay_in_a_row(self) -> None:
        """Have each parameter gather its gradient in its part of the row, from zero on."""
        if self._row is not None:
            self._row.zero_()
            for parameter, part in zip(self._parameters, split_like(self._row, self._parameters), strict=True):
                parameter.grad = part

    def _backward(self, images: Tensor, labels: Tensor, domains: Tensor) -> Tensor:
        weight = len(images) / self._batch_size
        with self._autocast():
            output: StepOutput = self._algorithm(images, labels, domains)
        self._scaler.scale(output.losses.total * weight).backward()
        losses = output.losses
        means = [losses.total, losses.smoothing, losses.layer_alignment, losses.similarity_alignment]
        return torch.stack([mean.detach().float() * weight for mean in means] + [output.num_correct.float()])

    def _until_it_fits(self, attempt: Callable[[], None]) -> None:
        while self._ranks.any(not _fits(attempt)):
            self._drop()
            if self._is_whole:
                raise OutOfMemory(
                    f"Memory ran out on the device with the {self._batch_size} images of a batch, which this algorithm "
                    "needs at once. A smaller global_batch_size or gradient_checkpointing would do.",
                    param="global_batch_size",
                )
            if self.micro_batch_size == 1:
                raise OutOfMemory(
                    "Memory ran out on the device even with one image at a time. gradient_checkpointing or a "
                    "trainable of fewer weights would do.",
                    param="micro_batch_size",
                )
            self.micro_batch_size = -(-self.micro_batch_size // 2)
            self.events.append(
                f"Memory ran out; going on with {self.micro_batch_size} images at a time. The batch of "
                f"{self._batch_size} images stays."
            )

    def _drop(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had too little memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _fits(attempt: Callable[[], None]) -> bool:
    """Whether there was memory enough. Nothing of a failed attempt stays: its error, which would hold it, is gone."""
    try:
        attempt()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
