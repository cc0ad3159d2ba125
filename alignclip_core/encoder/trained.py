"""Which weights of an image tower are trained: all, some blocks, their attention, or low-rank additions to them."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from alignclip_core.config import FinetuneConfig
from alignclip_core.encoder.image_tower import ImageEncoder
from alignclip_core.errors import ConfigInvalid

LORA_SCALE = 2.0  # LoRA's alpha / r, at the ratio that most of its users take
IN_BLOCK = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.(.+)")
AFTER_BLOCKS = ("visual.ln_post.", "visual.proj")
PARAMETRISED = ".parametrizations."  # in the names that torch gives such parameters


class TrainedTower:
    """What an optimizer changes in an image tower, and the plain weights that this amounts to.

    With `query_key` and `lora` the tower computes some weights from others. Averages, checkpoints and models hold the
    plain weights, so nothing outside this class sees the difference.
    """

    def __init__(self, encoder: ImageEncoder, config: FinetuneConfig) -> None:
        """Prepare the tower for training. Raises what `check` does, `ConfigInvalid` when nothing is left to train."""
        encoder.check(config)
        self.encoder = encoder
        self.plain = encoder
        """Takes the plain weights: a tower for `functional_call`, with all of its `weights()` and `untouched()`."""
        self._computed: dict[str, tuple[nn.Module, str]] = {}  # plain name -> module and attribute
        chosen = _chosen(encoder, config)
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(name in chosen)
        if config.trainable in ("query_key", "lora"):
            self.plain = copy.deepcopy(encoder).to("meta")  # names and shapes alone
            self._parametrise(chosen, config)
        self.parameters = {name: value for name, value in encoder.named_parameters() if value.requires_grad}
        """What the optimizer gets."""

    @torch.no_grad()
    def weights(self) -> Mapping[str, Tensor]:
        """The tower's plain weights that training changes, as they are now."""
        if not self._computed:
            return self.parameters
        return {name: getattr(module, attribute) for name, (module, attribute) in self._computed.items()}

    def untouched(self) -> dict[str, Tensor]:
        """The tower's other weights and buffers."""
        changed = self.weights().keys()
        state = self.encoder.state_dict()
        return {name: value for name, value in state.items() if PARAMETRISED not in name and name not in changed}

    def _parametrise(self, chosen: Mapping[str, nn.Parameter], config: FinetuneConfig) -> None:
        random = torch.Generator().manual_seed(config.seed)
        for name, parameter in chosen.items():
            path, _, attribute = name.rpartition(".")
            module = self.encoder.get_submodule(path)
            self._computed[name] = (module, attribute)
            if config.trainable == "lora":
                parameter.requires_grad_(False)
                register_parametrization(module, attribute, LowRank(parameter, config.lora_rank, random))
            else:
                register_parametrization(module, attribute, QueryKey(parameter))


class LowRank(nn.Module):
    """W + scale · B A, with W fixed and B = 0 at first: LoRA (Hu et al. 2021)."""

    def __init__(self, weight: Tensor, rank: int, random: torch.Generator) -> None:
        super().__init__()
        num_rows, num_columns = weight.shape
        bound = 1 / math.sqrt(num_columns)
        down = (2 * torch.rand(rank, num_columns, generator=random) - 1) * bound
        self.down = nn.Parameter(down.to(weight.device))  # A
        self.up = nn.Parameter(torch.zeros(num_rows, rank, device=weight.device))  # B

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the tower uses it, fp32 also inside autocast: as it is saved."""
        device = "cpu" if weight.is_meta else weight.device.type  # "meta" has shapes alone, and no autocast
        with torch.autocast(device, enabled=False):
            return torch.addmm(weight, self.up, self.down, alpha=LORA_SCALE)


class QueryKey(nn.Module):
    """The joint input projection of an attention, with its rows for the values fixed."""

    def __init__(self, projection: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", projection.detach()[_num_query_key(projection) :].clone())

    def forward(self, query_key: Tensor) -> Tensor:
        """Rows of query, key and value."""
        return torch.cat([query_key, self.get_buffer("value")])

    def right_inverse(self, projection: Tensor) -> Tensor:
        """The trained rows."""
        return projection[: _num_query_key(projection)].clone()


def _num_query_key(projection: Tensor) -> int:
    return len(projection) * 2 // 3


def _chosen(encoder: ImageEncoder, config: FinetuneConfig) -> dict[str, nn.Parameter]:
    """The parameters that `trainable` names, of those that are not frozen."""
    parameters = encoder.train_all_but(config.frozen_modules)
    num_blocks = encoder.num_blocks
    if config.trainable == "last_k_blocks" and config.trainable_blocks > num_blocks:
        raise ConfigInvalid(
            f"trainable_blocks is {config.trainable_blocks}; the image tower has {num_blocks} blocks.",
            param="trainable_blocks",
        )
    chosen = {name: value for name, value in parameters.items() if _is_chosen(name, value, num_blocks, config)}
    if not chosen and config.trainable != "none":
        raise ConfigInvalid(
            f"trainable is {config.trainable!r}, of which this image tower and frozen_modules leave nothing to train.",
            param="trainable",
        )
    return chosen


def _is_chosen(name: str, parameter: nn.Parameter, num_blocks: int, config: FinetuneConfig) -> bool:
    if config.trainable == "all":
        return True
    if config.trainable == "none":
        return False
    in_block = IN_BLOCK.fullmatch(name)
    if in_block is None:
        return config.trainable == "last_k_blocks" and name.startswith(AFTER_BLOCKS)
    block, inside = int(in_block[1]), in_block[2]
    if config.trainable == "last_k_blocks":
        return block >= num_blocks - config.trainable_blocks
    if config.trainable == "lora":
        return parameter.ndim == 2
    return inside.startswith("attn.in_proj" if config.trainable == "query_key" else "attn.")
