"""A dataset reference and the fields of a job -> the report on it, by the files' own bytes and the base model."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from alignclip_core.config import FinetuneConfig, make_config
from alignclip_core.dataset.class_names import resolve_class_names
from alignclip_core.dataset.looks import Folder, checked_samples
from alignclip_core.dataset.reading import read_dataset
from alignclip_core.dataset_report import Judge, refused_report, report_dataset
from alignclip_core.errors import DatasetInvalid
from alignclip_store import tables
from alignclip_store.audit import record_change
from alignclip_store.database import reading, transaction
from alignclip_store.datasets import open_dataset, open_files
from alignclip_store.errors import DatasetRejected, FileNotFound
from alignclip_store.objects import SourceUnreachable
from alignclip_store.reports import create_report
from api.answers import seconds
from api.authentication import Caller
from api.errors import RateLimited
from api.resources import Resources
from api.schemas import Name, RequestBody, Template, resolve_templates

BUSY_SECONDS = 5  # after which a client may ask again
SPLIT_FIELDS = {"validation_fraction", "test_fraction", "num_shots", "seed", "skip_bad_images"}


class DatasetRequest(RequestBody):
    """A dataset that is to be looked at, as a job of these fields would take it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"dataset": "file-abc123", "model": "starter"}]})

    dataset: str = Field(min_length=1, description="A file id, or a path or URL that the operator opened.")
    model: str = Field(min_length=1, description="The base model that judges names and labels.")
    validation_file: str | None = Field(None, min_length=1, description="As in a job.")
    class_names: list[Name] | dict[str, Name] | None = Field(None, description="As in a job.")
    templates: list[Template] | Template | None = Field(None, description="As in a job.")
    unseen_classes: list[str] | None = Field(None, description="As in a job.")
    test_domains: list[str] | None = Field(None, description="As in a job.")
    validation_fraction: float | None = Field(None, description="As in a job.")
    test_fraction: float | None = Field(None, description="As in a job.")
    num_shots: int | None = Field(None, ge=1, description="As in a job.")
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="As in a job.")
    skip_bad_images: bool | None = Field(None, description="As in a job: broken images are then no fatal fault.")


class NamedCount(BaseModel):
    """How many images something has."""

    name: str
    num_images: int


class ClassCount(NamedCount):
    """How many images a class has."""

    display_name: str


class FindingAnswer(BaseModel):
    """One fault, and what to do about it."""

    code: str = Field(examples=["near_duplicate_across_splits"])
    severity: str = Field(description="fatal: a job would fail; warning: look at it.", examples=["warning"])
    message: str
    hint: str
    paths: list[str] = Field(description="The first images that it is about.")
    num_paths: int


class NamesAnswer(BaseModel):
    """Cosine similarities of the classes' texts."""

    labels: list[str]
    matrix: list[list[float]]


class DatasetAnswer(BaseModel):
    """A report on a dataset."""

    id: str
    object: str = "dataset"
    created_at: int
    reference: str
    fingerprint: str | None = Field(description="Of all images and their labels; null where not all were looked at.")
    num_images: int
    num_checked: int = Field(description="Images that were decoded: all, or a sample that favours no class.")
    num_compared: int = Field(description="Images that the base model looked at, to doubt their labels.")
    classes: list[ClassCount]
    domains: list[NamedCount]
    splits: list[NamedCount] = Field(description="The parts that a job of these fields would make.")
    sizes: dict[str, Any] = Field(description="Width and height in pixels: min, median, max; mean_bytes.")
    findings: list[FindingAnswer]
    similarity: NamesAnswer

    @classmethod
    def of(cls, row: tables.DatasetReport) -> DatasetAnswer:
        return cls.model_validate(
            {"id": row.id, "created_at": seconds(row.created_at), "reference": row.reference, **row.content}
        )


def make_report(resources: Resources, caller: Caller, request: DatasetRequest) -> tables.DatasetReport:
    """Look at the dataset now, one at a time in this process. Raises `RateLimited` while another is looked at."""
    if not resources.reporting.acquire(blocking=False):
        raise RateLimited("Another dataset is being looked at; try again.", retry_after=BUSY_SECONDS, code="overloaded")
    try:
        content = _look(resources, caller.owner, request)
    finally:
        resources.reporting.release()
    with transaction(resources.engine) as session:
        report = create_report(session, caller.owner, reference=request.dataset, content=content)
        record_change(session, caller.actor, "dataset.report", report.id)
    return report


def _look(resources: Resources, owner: str, request: DatasetRequest) -> dict[str, Any]:
    """The report. References that lead nowhere are refused as in a job; faults of the dataset are findings."""
    base_model = resources.models.base_model(request.model)
    given = request.model_dump(include=SPLIT_FIELDS)
    given |= {name: tuple(value) for name in ("unseen_classes", "test_domains") if (value := getattr(request, name))}
    given["templates"] = resolve_templates(request.templates)
    try:
        with TemporaryDirectory(dir=resources.scratch, prefix=".report-") as folder:
            dataset = _fetch(resources, owner, request.dataset, Path(folder) / "dataset", param="dataset")
            validation = None
            if request.validation_file is not None:
                target = Path(folder) / "validation"
                validation = _fetch(resources, owner, request.validation_file, target, param="validation_file")
            names = resolve_class_names(dataset[1], request.class_names)
            config = make_config(base_model, class_names=names, given=given)
            return report_dataset(
                *dataset,
                config,
                _judge(resources, config),
                validation=validation,
                max_images=resources.settings.max_report_images,
                max_seconds=resources.settings.max_report_seconds,
                limits=resources.decoders.limits,
                decode=lambda content, _: resources.decoders.image(content),
            )
    except DatasetInvalid as error:
        if error.param is not None:  # a field of the request does not fit the dataset
            raise
        return refused_report(error)


def _fetch(resources: Resources, owner: str, reference: str, target: Path, *, param: str) -> Folder:
    """The layout, and at `target` the files of the images that are looked at.

    Raises `DatasetRejected`, naming the field, and `DatasetInvalid`.
    """
    settings = resources.settings
    try:
        with reading(resources.engine) as session:
            dataset = open_dataset(session, owner, reference, settings, param=param)
        with open_files(dataset, resources.artifacts, settings) as files:
            min_classes = 2 if param == "dataset" else 1
            layout = read_dataset(files, manifest=dataset.manifest, min_classes=min_classes, url=dataset.url)
            samples = checked_samples(layout, settings.max_report_images)
            names = {sample.place.location if sample.place else sample.path for sample in samples}
            num_bytes = sum(files.sizes[name] for name in names)
            if num_bytes > settings.max_report_bytes:
                raise DatasetRejected(
                    f"A report on this dataset would fetch {num_bytes:,} bytes; at most {settings.max_report_bytes:,} "
                    "are fetched. Make it in a terminal where the data lies: alignclip dataset check PATH_OR_URL",
                    param=param,
                )
            files.fetch(target, only=names)
            return target, layout
    except (FileNotFound, SourceUnreachable) as error:
        raise DatasetRejected(str(error), param=param) from error


def _judge(resources: Resources, config: FinetuneConfig) -> Judge:
    base_model = resources.models.base_model(config.base_model)
    classifier = resources.models.classifier(base_model)
    embeddings = resources.models.class_embeddings(
        base_model,
        tuple(config.class_names.values()),
        config.templates,
        hyphens_to_spaces=config.hyphens_to_spaces,
    )
    return Judge(
        class_embeddings=embeddings, image_features=classifier.image_features, logit_scale=classifier.logit_scale
    )
