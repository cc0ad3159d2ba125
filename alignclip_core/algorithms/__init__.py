"""What is trained, by which losses: one module for each algorithm that is more than a choice of config values.

An algorithm is an `nn.Module` whose `forward(images, labels)` returns a `StepOutput`; the trainer knows no more of it.
To add one (CoOp, CORAL, MIRO, ...): write its module here, name it in `config.Algorithm` and in `_MODULES`.
"""

from collections.abc import Mapping

from torch import nn

from alignclip_core.algorithms.alignclip import AlignClip, StepOutput
from alignclip_core.config import FinetuneConfig
from alignclip_core.encoder import ImageEncoder
from alignclip_core.run_dir import ClassSimilarity

__all__ = ["AlignClip", "StepOutput", "make_algorithm"]

_MODULES: Mapping[str, type[AlignClip]] = {
    "alignclip": AlignClip,
    "clipood": AlignClip,
    "finetune": AlignClip,
    "label_smoothing": AlignClip,
    "zero_shot": AlignClip,  # with no step to take
}


def make_algorithm(encoder: ImageEncoder, similarity: ClassSimilarity, config: FinetuneConfig) -> nn.Module:
    """The module of the config's algorithm, on the encoder's device."""
    return _MODULES[config.algorithm](encoder, similarity, config)
