"""The processes that train one model together, one for each GPU: what they share of a batch, and what they agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from alignclip_core.errors import ConfigInvalid

TIMEOUT = timedelta(hours=1)  # longer than rank 0 takes to write a checkpoint to a slow disk


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train one model; alone, no call below costs anything."""

    rank: int = 0
    num_ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """The places of 0..total-1 that are this rank's: one after another, as evenly as it goes."""
        return range(self.rank * total // self.num_ranks, (self.rank + 1) * total // self.num_ranks)

    @torch.no_grad()
    def share_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Give all ranks the first one's values, in place."""
        if self.num_ranks > 1 and tensors:
            joined = torch.cat([values.flatten() for values in tensors])  # one message instead of hundreds
            dist.broadcast(joined, src=0)
            for values, shared in zip(tensors, split_like(joined, tensors), strict=True):
                values.copy_(shared)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        if self.num_ranks > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank; all ranks get the same answer."""
        return bool(self.sum(torch.tensor(float(flag))))

    def gather_rows(self, rows: Tensor, total: int) -> Tensor:
        """All `total` rows, of which each rank brings its `share`."""
        if self.num_ranks == 1:
            return rows
        most = -(-total // self.num_ranks)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in range(self.num_ranks)]
        dist.all_gather(gathered, padded)
        shares = [Ranks(rank, self.num_ranks).share(total) for rank in range(self.num_ranks)]
        return torch.cat([each[: len(share)] for each, share in zip(gathered, shares, strict=True)])

    def wait(self) -> None:
        """Until all ranks are here."""
        self.any(False)


def join_ranks(rank: int, num_ranks: int, local_rank: int, meeting_point: str) -> Ranks:
    """Meet the other ranks.

    `meeting_point` is an `init_method` of torch: `env://` under torchrun, or `file://` with a path that is new. Raises
    `ConfigInvalid` when there are GPUs, but fewer than processes.
    """
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        if local_rank >= torch.cuda.device_count():
            raise ConfigInvalid(f"{local_rank + 1} processes want a GPU each; {torch.cuda.device_count()} can be seen.")
        torch.cuda.set_device(local_rank)
    # Gradients go by the GPUs' own wires, flags and image features by the CPU.
    backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
    dist.init_process_group(backend, init_method=meeting_point, rank=rank, world_size=num_ranks, timeout=TIMEOUT)
    return Ranks(rank, num_ranks)


def split_like(joined: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a row of values, in the shapes of these tensors; views of it."""
    parts = joined.split([values.numel() for values in tensors])
    return [part.view_as(values) for part, values in zip(parts, tensors, strict=True)]
