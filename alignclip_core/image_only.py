"""What a base model without a text tower can be asked, and what stands for its texts in a run. Loads no torch.

Such a model, a ResNet of ImageNet, is there for baselines: a linear head learns the classes of which no text tells it.
"""

from __future__ import annotations

import json

import numpy as np

from alignclip_core.base_models import IMAGE_ONLY_CONFIG_FILE, BaseModel
from alignclip_core.config import FinetuneConfig
from alignclip_core.errors import BaseModelUnfit
from alignclip_core.run_dir import ClassSimilarity


def without_texts(model_id: str, asked: str) -> BaseModelUnfit:
    """The refusal of what needs texts; `asked` ends the sentence `MODEL has no text tower, so ...`."""
    return BaseModelUnfit(
        f"{model_id!r} has no text tower, so {asked}. `alignclip evaluate` can tune it with finetune:head=linear or "
        "coral:head=linear, and its tuned model knows the classes that it was trained on; all else takes a base model "
        "with texts, such as 'vit-b-16-openai'.",
        param="model",
    )


def check_config(model_id: str, config: FinetuneConfig) -> None:
    """Raises `BaseModelUnfit` for a config that reads texts."""
    if config.head != "linear":
        raise without_texts(model_id, f"{config.algorithm} with head {config.head} has nothing to classify by")
    if config.unseen_classes:
        raise without_texts(model_id, "unseen classes would stay unknown to it")


def similarity_without_texts(base_model: BaseModel, config: FinetuneConfig) -> ClassSimilarity:
    """What a run reads in place of class texts: each class like itself alone, and no direction for any.

    So before training all classes are equally likely, and a head that begins at the class embeddings begins at zero.
    """
    assert base_model.folder is not None  # a model that is not here is refused before
    num_features = json.loads((base_model.folder / IMAGE_ONLY_CONFIG_FILE).read_text())["num_features"]
    num_classes = len(config.class_names)
    return ClassSimilarity(
        class_names=tuple(config.class_names.values()),
        templates=config.templates,
        text_model=base_model.text_model,
        class_embeddings=np.zeros((num_classes, num_features), np.float32),
        cosine=np.eye(num_classes, dtype=np.float32),
    )
