"""Class names and templates to prompts, to class embeddings, to the similarity of the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

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


def build_prompts(
    class_names: Sequence[str], templates: Sequence[str], hyphens_to_spaces: bool = False
) -> list[list[str]]:
    """For each class its prompts, one a template.

    Raises `LabelsInvalid` when a name is empty, or when two names give the same prompts.
    """
    names = [readable_name(name, hyphens_to_spaces=hyphens_to_spaces) for name in class_names]
    for given, name in zip(class_names, names, strict=True):
        if not name:
            raise LabelsInvalid(f"The class name {given!r} is empty; a prompt needs a word.", param="class_names")
    for name, count in Counter(names).items():
        if count > 1:
            raise LabelsInvalid(
                f"{count} classes are called {name!r}; give each a name of its own.", param="class_names"
            )
    return [[template.replace("{}", name) for template in templates] for name in names]


def embed_classes(
    text_encoder: EncodesText,
    class_names: Sequence[str],
    templates: Sequence[str],
    hyphens_to_spaces: bool = False,
) -> Float[Tensor, "classes dim"]:
    """Class embeddings: the mean over the templates of unit-length text features, at unit length again."""
    prompts = build_prompts(class_names, templates, hyphens_to_spaces)
    features = text_encoder.encode([prompt for of_class in prompts for prompt in of_class])
    return F.normalize(features.unflatten(0, (len(class_names), len(templates))).mean(dim=1), dim=-1)


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
