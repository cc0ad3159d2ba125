"""What is trained, by which losses: one module for each algorithm that is more than a choice of config values.

An algorithm is an `Algorithm`, whose `forward(images, labels, domains)` returns a `StepOutput`. What it trains beside
the tower it puts into `learned`; the trainer, the average, checkpoints and the finished model take it from there.
To add one: write its module here, name it in `config.Algorithm`, `config.ALGORITHMS` and `_MODULES`; if its finished
model classifies by something of its own, name that in `_LEARNED`, too.

algorithm.py          Algorithm, StepOutput: what all share
learned_classes.py    LearnedClasses, LinearHead: what takes the place of the class texts, also in the finished model
alignclip.py          AlignCLIP, CLIPood, label smoothing, fine-tuning with the text head; WiSE-FT is that with an
                      `interpolation_weight`, which the trainer applies to what is kept
finetune.py           fine-tuning with a linear head (ERM)
coral.py  miro.py     cross entropy and a penalty
prompt_learning.py    what CoOp, CoCoOp and DPL share
coop.py  cocoop.py  dpl.py
"""

from collections.abc import Mapping

from torch import Tensor

from alignclip_core.algorithms.algorithm import Algorithm, StepOutput
from alignclip_core.algorithms.alignclip import AlignClip
from alignclip_core.algorithms.cocoop import CoCoOp, ConditionedContext
from alignclip_core.algorithms.coop import CoOp, SharedContext
from alignclip_core.algorithms.coral import Coral
from alignclip_core.algorithms.dpl import DomainContext, Dpl
from alignclip_core.algorithms.finetune import LinearFinetune
from alignclip_core.algorithms.learned_classes import LearnedClasses, LinearHead
from alignclip_core.algorithms.miro import Miro
from alignclip_core.config import FinetuneConfig
from alignclip_core.encoder import ImageEncoder, TextEncoder
from alignclip_core.run_dir import ClassSimilarity

__all__ = ["Algorithm", "AlignClip", "LearnedClasses", "StepOutput", "load_learned_classes", "make_algorithm"]

_MODULES: Mapping[str, type[Algorithm]] = {
    "alignclip": AlignClip,
    "clipood": AlignClip,
    "finetune": AlignClip,
    "label_smoothing": AlignClip,
    "wise_ft": AlignClip,
    "coral": Coral,
    "miro": Miro,
    "coop": CoOp,
    "cocoop": CoCoOp,
    "dpl": Dpl,
    "zero_shot": AlignClip,  # with no step to take
}
_LEARNED: Mapping[str, type[LearnedClasses]] = {
    "coop": SharedContext,
    "cocoop": ConditionedContext,
    "dpl": DomainContext,
}


def make_algorithm(
    encoder: ImageEncoder,
    similarity: ClassSimilarity,
    config: FinetuneConfig,
    text_encoder: TextEncoder | None = None,
) -> Algorithm:
    """The module of the config's algorithm, on the encoder's device; prompt learners need the text encoder."""
    module = _MODULES[config.algorithm]
    if module is AlignClip and config.head == "linear":
        module = LinearFinetune
    return module(encoder, similarity, config, text_encoder)


def load_learned_classes(config: FinetuneConfig, weights: Mapping[str, Tensor], logit_scale: float) -> LearnedClasses:
    """What a finished model of that config uses in place of class texts, from the weights that its folder keeps."""
    module = LinearHead if config.head == "linear" else _LEARNED[config.algorithm]
    names = [config.class_names[name] for name in config.trained_classes]
    return module.of_weights(weights, names, logit_scale).requires_grad_(False)
