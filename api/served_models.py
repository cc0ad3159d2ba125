"""A name in a request -> a model: a base model, a tuned one of the owner's, or the one that an alias points to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from alignclip_core.algorithms import LearnedClasses
from alignclip_core.base_models import BaseModel
from alignclip_core.classifier import Classifier
from alignclip_store import aliases, models, tables
from alignclip_store.database import reading
from alignclip_store.errors import ModelNotFound
from api.resources import Resources


@dataclass(frozen=True, eq=False)
class DescribedModel:
    """What a model says of itself; nothing of it is loaded."""

    source: BaseModel | tables.Model
    base_model: BaseModel
    own_labels: tuple[str, ...] | None  # a base model has no classes of its own
    templates: tuple[str, ...]
    hyphens_to_spaces: bool = False

    @property
    def id(self) -> str:
        return self.source.id

    def learned_embeddings(
        self, resources: Resources, learned: LearnedClasses, labels: Sequence[str], image_features: Tensor
    ) -> Tensor:
        """Class embeddings by which a model with learned prompts or a linear head classifies these images."""
        with resources.models.encoding(self.base_model) as encoder:
            return learned.finished_embeddings_of(encoder, labels, image_features)

    def class_embeddings(
        self, resources: Resources, labels: Sequence[str], templates: Sequence[str] | None = None
    ) -> Tensor:
        """Class embeddings [labels, dim] of any labels; the model's own templates unless others are given."""
        return resources.models.class_embeddings(
            self.base_model, labels, templates or self.templates, hyphens_to_spaces=self.hyphens_to_spaces
        )


def find_model(resources: Resources, owner: str, name: str) -> BaseModel | tables.Model:
    """The model of that id or alias. Raises `ModelNotFound`."""
    card = resources.models.find_base_model(name)
    if card is not None:
        return card
    with reading(resources.engine) as session:
        target = aliases.find_target(session, owner, name)
        if target is None:
            return models.get_model(session, owner, name)
        card = resources.models.find_base_model(target)
        try:
            return card or models.get_model(session, owner, target)
        except ModelNotFound as error:
            raise ModelNotFound(f"The alias {name!r} points to {target!r}, which is gone.", param="model") from error


def describe_model(resources: Resources, model: BaseModel | tables.Model) -> DescribedModel:
    """What the card or the manifest says."""
    if isinstance(model, BaseModel):
        return DescribedModel(model, model, None, model.templates)
    manifest = model.manifest
    return DescribedModel(
        source=model,
        base_model=resources.models.base_model(model.base_model),
        own_labels=tuple(name for _, name in sorted(manifest["class_names"].items())),
        templates=tuple(manifest["templates"]),
        hyphens_to_spaces=manifest["config"]["hyphens_to_spaces"],
    )


def load_model(resources: Resources, owner: str, name: str) -> tuple[DescribedModel, Classifier]:
    """The model of that id or alias, and its loaded classifier. Raises `ModelNotFound`."""
    model = find_model(resources, owner, name)
    return describe_model(resources, model), resources.models.classifier(model)
