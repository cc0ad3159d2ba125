"""Bodies of requests: their shape is checked here, the meaning of hyper-parameters by `FinetuneConfig`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic.config import JsonDict

from alignclip_core.base_models import BaseModel as BaseClip
from alignclip_core.config import HYPERPARAMETERS, TEMPLATE_SETS, FinetuneConfig, check_field_names, make_config
from api.errors import RequestInvalid

MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Suffix = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Names = Annotated[list[Name], Field(min_length=1, max_length=100)]
Template = Annotated[str, StringConstraints(max_length=512)]

MAX_NAME_LENGTH = 64
TestName = Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]

_AUTO = {"batch_size", "n_epochs", "learning_rate_multiplier", *HYPERPARAMETERS}
_HYPERPARAMETER_SCHEMA: JsonDict = {
    "description": f"Hyper-parameters, flat as well as here. Ours: {', '.join(HYPERPARAMETERS)}. "
    "\"auto\" takes the model card's value, then the paper's.",
    "examples": [{"n_epochs": 3, "batch_size": "auto", "preset": "paper", "smoothing": 0.1}],
}


class RequestBody(BaseModel):
    """JSON as its description has it: no field that it does not know, and no type turned into another."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _read_whole_numbers(cls, body: Any) -> Any:
        """JSON has one type of number: 2.0 is the integer 2."""
        return {name: _whole(value) for name, value in body.items()} if isinstance(body, Mapping) else body


class Supervised(RequestBody):
    """The one kind of training there is, in OpenAI's form."""

    hyperparameters: dict[str, Any] | None = Field(None, json_schema_extra=_HYPERPARAMETER_SCHEMA)


class Method(RequestBody):
    """OpenAI's `method`; only `supervised` is done here."""

    type: Literal["supervised"] = "supervised"
    supervised: Supervised | None = None


class TestDataset(RequestBody):
    """Another dataset that the weights are measured on, whole and among its own classes."""

    dataset: str = Field(min_length=1, description="A file id or a dataset reference, as a training_file.")
    name: TestName | None = Field(None, description="In the result; unset: as its file or folder is called.")
    class_names: list[Name] | dict[str, Name | Names] | None = Field(
        None, description="Words for its own class folders, as the body has them for those that train."
    )


Reference = Annotated[str, Field(min_length=1)]
_TestDataset = Annotated[
    TestDataset,
    BeforeValidator(
        lambda given: {"dataset": given} if isinstance(given, str) else given,
        json_schema_input_type=TestDataset | Reference,
    ),
]
TestDatasets = Annotated[list[_TestDataset], Field(max_length=16)]
"""Each may be its reference alone."""


class FinetuneRequest(RequestBody):
    """A fine-tune that is asked for.

    Every hyper-parameter of `FinetuneConfig` and every field below may stand flat in the body, in
    `method.supervised.hyperparameters` or in the older `hyperparameters`; twice with two values is refused.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "model": "starter",
                    "training_file": "file-abc123",
                    "test_domains": ["sketch"],
                    "suffix": "pets",
                    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
                }
            ]
        },
    )

    model: str = Field(min_length=1, description="A base model of GET /v1/models.")
    training_file: str = Field(min_length=1, description="A file id, or a path or URL that the operator opened.")
    validation_file: str | None = Field(None, description="The same; unset: a share of the training set is held out.")
    test_datasets: TestDatasets | None = Field(
        None, description="Other datasets that are measured before and after, each among its own classes."
    )
    suffix: Suffix | None = Field(None, description="Becomes a part of the model's id.")
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="Of the split, the order and the crops; unset: 0.")
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    method: Method | None = None
    hyperparameters: dict[str, Any] | None = Field(None, deprecated=True, json_schema_extra=_HYPERPARAMETER_SCHEMA)
    integrations: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="None are supported.")

    priority: int = Field(0, ge=-10, le=10, description="Of all waiting jobs the highest runs first.")
    algorithm: str = Field("alignclip", description="alignclip, or a baseline that shares its trainer.")
    preset: str | None = Field(None, description="Named values; unset: the model card's, then `paper`.")
    class_names: list[Name] | dict[str, Name | Names] | None = Field(
        None,
        description="Words for the class folders: a list of their names, or a map from folder to a name or to several.",
    )
    templates: list[Template] | Template | None = Field(
        None, description=f"Prompts with one {{}} each, or the name of a set: {', '.join(TEMPLATE_SETS)}."
    )
    unseen_classes: list[str] | None = Field(None, description="Class folders that are evaluated and never trained.")
    test_domains: list[str] | None = Field(None, description="Domain folders that are evaluated and never trained.")
    validation_fraction: float | None = Field(None, description="Share held out of each class in each domain.")
    test_fraction: float | None = Field(None, description="Share of each that is only evaluated.")
    num_shots: int | None = Field(None, ge=1, description="Images of each class in each domain that train; unset: all.")
    skip_bad_images: bool | None = Field(None, description="Leave broken images out instead of refusing the job.")

    n_epochs: int | None = Field(None, ge=1, le=100_000, description="Passes over the training images.")
    batch_size: int | None = Field(None, ge=1, description="OpenAI's word for global_batch_size.")
    learning_rate_multiplier: float | None = Field(None, gt=0, description="Multiplies the learning rate.")
    crop_scale: tuple[float, float] | None = Field(
        None, strict=False, description="Share of the area that a crop keeps."
    )
    frozen_modules: list[str] | None = Field(None, description="Prefixes of parameters that stay as they are.")

    @model_validator(mode="before")
    @classmethod
    def _lift_hyperparameters(cls, body: Any) -> Any:
        """All hyper-parameters side by side in the body, whichever way they came; "auto" is as good as unset."""
        if not isinstance(body, Mapping):
            return body
        flat = {name: value for name, value in body.items() if not (value == "auto" and name in _AUTO)}
        for place, given in _nested_hyperparameters(body):
            for name, value in given.items():
                if value is None or value == "auto":
                    continue
                if name in ("method", "hyperparameters"):
                    raise RequestInvalid(f"{name!r} cannot stand inside {place}.", param=f"{place}.{name}")
                if flat.get(name) not in (None, value):
                    raise RequestInvalid(
                        f"{name} is given twice: {flat[name]!r} and, in {place}, {value!r}.", param=name
                    )
                flat[name] = value
        _refuse_unknown(flat)
        return flat

    @model_validator(mode="after")
    def _length_and_batch_are_given_once(self) -> FinetuneRequest:
        given = self.model_extra or {}
        if self.n_epochs is not None and given.get("num_steps") is not None:
            raise RequestInvalid("n_epochs and num_steps both say how long to train; give one.", param="n_epochs")
        if self.batch_size is not None and given.get("global_batch_size") is not None:
            raise RequestInvalid("batch_size and global_batch_size are the same; give one.", param="batch_size")
        return self

    def to_config(self, base_model: BaseClip, class_names: Mapping[str, str]) -> FinetuneConfig:
        """The complete config but for `n_epochs`, whose steps depend on the split. Raises `ConfigInvalid`."""
        given: dict[str, Any] = dict(self.model_extra or {})
        for name in ("seed", "validation_fraction", "test_fraction", "num_shots", "skip_bad_images"):
            given[name] = getattr(self, name)
        for name in ("unseen_classes", "test_domains", "crop_scale", "frozen_modules"):
            value = getattr(self, name)
            given[name] = None if value is None else tuple(value)
        given["templates"] = resolve_templates(self.templates)
        if self.batch_size is not None:
            given["global_batch_size"] = self.batch_size
        return make_config(
            base_model,
            class_names=class_names,
            algorithm=self.algorithm,
            preset=self.preset,
            given=given,
            learning_rate_multiplier=self.learning_rate_multiplier or 1.0,
        )


class SimilarityRequest(RequestBody):
    """Class names whose similarity is asked for."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "starter", "class_names": ["cat", "dog", "car"]}]}
    )

    model: str = Field(min_length=1, description="A base model; its text tower reads the names.")
    class_names: list[Name] = Field(min_length=1, description="At least two different names.")
    templates: list[Template] | Template | None = Field(
        None, description=f"Prompts with one {{}} each, or the name of a set: {', '.join(TEMPLATE_SETS)}."
    )
    hyphens_to_spaces: bool = Field(False, description='Also turn "-" into a space; "_" always is.')
    similarity_scale: float = Field(1.0, ge=0, le=1e4, description="Multiplier before the softmax of B.5.")
    keep_diagonal: bool = Field(True, description="Whether a class keeps its share of its own row.")


class InterpolateRequest(RequestBody):
    """How much of the tuned weights to take."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"alpha": 0.5}]})

    alpha: float = Field(ge=0, le=1, allow_inf_nan=False, description="0 is the base model, 1 the tuned one.")


def resolve_templates(given: list[str] | str | None, *, param: str = "templates") -> tuple[str, ...] | None:
    """The templates of a list, of the name of a set, or of one template; None where none are given.

    Raises `RequestInvalid` unless there is at least one, and each holds {} exactly once.
    """
    if given is None:
        return None
    if isinstance(given, str) and given in TEMPLATE_SETS:
        return TEMPLATE_SETS[given]
    if isinstance(given, str) and "{}" not in given:
        sets = ", ".join(TEMPLATE_SETS)
        raise RequestInvalid(
            f"{param} is {given!r}, which is no template (it has no {{}}) and no set: {sets}.", param=param
        )
    templates = (given,) if isinstance(given, str) else tuple(given)
    if not templates:
        raise RequestInvalid(f"{param} is empty; give at least one, such as 'a photo of a {{}}.'.", param=param)
    for template in templates:
        if template.count("{}") != 1:
            raise RequestInvalid(f"Template {template!r} must hold {{}} exactly once.", param=param)
    return templates


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _nested_hyperparameters(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    method = body.get("method")
    supervised = method.get("supervised") if isinstance(method, Mapping) else None
    nested = {
        "method.supervised.hyperparameters": supervised.get("hyperparameters")
        if isinstance(supervised, Mapping)
        else None,
        "hyperparameters": body.get("hyperparameters"),
    }
    yield from ((place, given) for place, given in nested.items() if isinstance(given, Mapping))


def _refuse_unknown(body: Mapping[str, Any]) -> None:
    """Raises for the first name that is neither a field of the body nor a hyper-parameter, with the nearest."""
    own = FinetuneRequest.model_fields
    for name in body:
        if name in own or name in HYPERPARAMETERS:
            continue
        near = difflib.get_close_matches(name, own, n=1)
        if near:
            raise RequestInvalid(f"Unknown field {name!r}; did you mean {near[0]!r}?", param=name)
        check_field_names({name: body[name]})
        raise RequestInvalid(f"{name!r} is set by the service and cannot be given.", param=name)  # base_model
