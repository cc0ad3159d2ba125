"""Class names and templates to prompts, to class embeddings, to the similarity of the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from alignclip_core.config import SYNONYM
from alignclip_core.errors import LabelsInvalid
from alignclip_core.method.similarity import class_similarity
from alignclip_core.run_dir import ClassSimilarity


class EncodesText(Protocol):
    """What this module needs of a text encoder."""

    text_model: str  # names the frozen text tower

    def encode(self, texts: Sequence[str], /) -> Float[Tensor, "texts dim"]:
        """Text features of unit length."""


def readable_name(class_name: str, *, hyphens_to_spaces: bool = False) -> str:
    """The name as it stands in a prompt: "_" is a space, with the flag "-" too; no space at the ends."""
    name = class_name.replace("_", " ")
    return " ".join((name.replace("-", " ") if hyphens_to_spaces else name).split())


def readable_names(class_name: str, *, hyphens_to_spaces: bool = False) -> list[str]:
    """All words for a class, `sofa|couch`, each as it stands in a prompt."""
    return [readable_name(word, hyphens_to_spaces=hyphens_to_spaces) for word in class_name.split(SYNONYM)]


def build_prompts(
    class_names: Sequence[str], templates: Sequence[str], hyphens_to_spaces: bool = False
) -> list[list[str]]:
    """For each class its prompts: one a template for each of its words.

    Raises `LabelsInvalid` when a word is empty, or when it stands for two classes.
    """
    names = [readable_names(name, hyphens_to_spaces=hyphens_to_spaces) for name in class_names]
    for given, words in zip(class_names, names, strict=True):
        if not all(words):
            raise LabelsInvalid(f"The class name {given!r} is empty; a prompt needs a word.", param="class_names")
    for name, count in Counter(word for words in names for word in words).items():
        if count > 1:
            raise LabelsInvalid(
                f"{count} classes are called {name!r}; give each a name of its own.", param="class_names"
            )
    return [[template.replace("{}", word) for word in words for template in templates] for words in names]


def embed_classes(
    text_encoder: EncodesText,
    class_names: Sequence[str],
    templates: Sequence[str],
    hyphens_to_spaces: bool = False,
) -> Float[Tensor, "classes dim"]:
    """Class embeddings: the mean of unit-length text features over words and templates, at unit length again."""
    prompts = build_prompts(class_names, templates, hyphens_to_spaces)
    features = text_encoder.encode([prompt for of_class in prompts for prompt in of_class])
    means = [of_class.mean(dim=0) for of_class in features.split([len(of_class) for of_class in prompts])]
    return F.normalize(torch.stack(means), dim=-1)


def class_similarity_of(
    text_encoder: EncodesText,
    class_names: Sequence[str],
    templates: Sequence[str],
    hyphens_to_spaces: bool = False,
) -> ClassSimilarity:
    """Embeddings of the classes and their cosine matrix, as a job stores them and its trainer reads them."""
    embeddings = embed_classes(text_encoder, class_names, templates, hyphens_to_spaces).cpu()
    return ClassSimilarity(
        class_names=tuple(class_names),
        templates=tuple(templates),
        text_model=text_encoder.text_model,
        class_embeddings=embeddings.numpy(),
        cosine=class_similarity(embeddings).numpy(),
    )
