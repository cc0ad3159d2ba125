"""A protocol asked over HTTP: one request becomes a grid of ordinary jobs, and their results one table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from alignclip_core.config import HYPERPARAMETERS, TEMPLATE_SETS, FinetuneConfig
from alignclip_core.protocols.cells import Cell, Choices, Protocol
from alignclip_core.protocols.grids import Grid
from alignclip_core.protocols.methods import FORM, Method, what_is_trained
from alignclip_core.protocols.rows import Row, accuracy_of, figures_beside
from alignclip_core.protocols.tables import Table, make_tables
from alignclip_store import evaluations
from alignclip_store.audit import record_change
from alignclip_store.database import transaction
from alignclip_store.errors import DatasetRejected, FileNotFound
from alignclip_store.job_status import FINISHED, JobStatus
from alignclip_store.limits import require_room_in_queue
from alignclip_store.queue import wake
from alignclip_store.tables import Evaluation, Job
from api.answers import seconds, seconds_or_none
from api.authentication import Caller
from api.errors import RequestInvalid
from api.job_answers import TestDatasetAnswer
from api.layouts import read_layout_of
from api.resources import Resources
from api.schemas import FinetuneRequest, Name, RequestBody, Template, TestDatasets
from api.submission import insert_job, prepare_job
from api.test_datasets import PARAM, read_test_datasets


class EvaluationRequest(RequestBody):
    """Which question is asked of which dataset, for what."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "which method for my sketches",
                    "protocol": "domain_shift",
                    "dataset": "file-abc123",
                    "methods": ["finetune", "clipood", "alignclip@authors_code"],
                    "seeds": [0, 1, 2],
                    "hyperparameters": {"num_steps": 500},
                },
                {
                    "protocol": "dataset_shift",
                    "dataset": "file-abc123",
                    "test_datasets": ["file-def456", {"dataset": "/srv/datasets/sketches.tar", "name": "sketches"}],
                    "methods": ["zero_shot", "clipood", "alignclip"],
                },
            ]
        },
    )

    name: str = Field("", max_length=256, description="For people.")
    protocol: Protocol
    dataset: str = Field(min_length=1, description="A file id or a dataset reference, as a job's training_file.")
    test_datasets: TestDatasets | None = Field(
        None, description="Of dataset_shift, a column each: measured whole, among their own classes; never trained."
    )
    methods: Annotated[list[str], Field(min_length=1, max_length=100)] = Field(description=f"Each is {FORM}.")
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=1, max_length=100)] = Field([0])
    model: str = Field("starter", min_length=1, description="A base model of GET /v1/models.")
    targets: list[str] | None = Field(None, description="Domains to leave out; unset: each in turn.")
    halves: Literal["ceil", "floor"] | None = Field(None, description="Base classes of an odd number of them.")
    num_shots: int | None = Field(None, ge=1, description="Images of each class that train; few_shot: 16.")
    test_fraction: float | None = Field(None, ge=0, le=0.9, description="Share that is only tested.")
    class_names: list[Name] | dict[str, Name] | None = None
    templates: list[Template] | Template | None = Field(
        None, description=f"Prompts with one {{}} each, or the name of a set: {', '.join(TEMPLATE_SETS)}."
    )
    hyperparameters: dict[str, Any] = Field(
        default_factory=dict, description=f"Of every method alike: {', '.join(HYPERPARAMETERS)}."
    )
    priority: int = Field(0, ge=-10, le=10, description="Of its jobs.")

    @model_validator(mode="after")
    def _test_datasets_belong_to_dataset_shift(self) -> EvaluationRequest:
        if self.protocol == "dataset_shift" and not self.test_datasets:
            raise RequestInvalid("dataset_shift trains on `dataset` and tests on others; name them.", param=PARAM)
        if self.protocol != "dataset_shift" and self.test_datasets:
            raise RequestInvalid(
                f"{self.protocol} tests on `dataset` itself; only dataset_shift on others.", param=PARAM
            )
        return self

    def to_grid(self, test_sets: tuple[str, ...] = ()) -> Grid:
        """The grid, whose test datasets have these names.

        Raises `ConfigInvalid` for a method that cannot be read, `RequestInvalid` for one that is given twice.
        """
        for field, values in (("methods", self.methods), ("seeds", self.seeds)):
            value, count = Counter(values).most_common(1)[0]
            if count > 1:
                raise RequestInvalid(f"{field} has {value!r} {count} times; name each once.", param=field)
        choices = Choices(
            targets=tuple(self.targets or ()),
            halves=self.halves,
            num_shots=self.num_shots,
            test_fraction=self.test_fraction,
            test_sets=test_sets,
        )
        return Grid(
            dataset=self.dataset,
            protocol=self.protocol,
            methods=tuple(map(Method.parse, self.methods)),
            seeds=tuple(self.seeds),
            base_model=self.model,
            choices=choices,
            values=self.hyperparameters,
        )

    def job_body(
        self, grid: Grid, cell: Cell, evaluation_id: str, test_datasets: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The request of the cell's job, as a client would have sent it."""
        body: dict[str, Any] = {
            "model": self.model,
            "training_file": self.dataset,
            "algorithm": cell.method.algorithm,
            "seed": cell.seed,
            "priority": self.priority,
            "metadata": {evaluations.LABEL: evaluation_id, "method": cell.method.text[:512]},
        }
        given = {
            "preset": cell.method.preset,
            "class_names": self.class_names,
            "templates": self.templates,
            "test_datasets": test_datasets or None,
        }
        body |= {name: value for name, value in given.items() if value is not None}
        values = {**grid.given_to(cell.method), **cell.question.values}
        return json.loads(json.dumps(body | values))  # type: ignore[no-any-return]


class CellAnswer(BaseModel):
    """One accuracy of the table, or the job that is to give it."""

    method: str
    target: str
    seed: int
    job_id: str
    status: str
    split: str = Field(description="On which images, among which classes.")
    accuracy: float | None = Field(description="Null while its job has not succeeded.")
    num_images: int | None
    zero_shot: float | None = Field(description="Of the base model on the same images.")
    split_sha256: str | None = Field(description="Digest of the split that trained; null until images are checked.")
    error: str | None = Field(description="Why its job failed; /retry queues it again.")


class TableAnswer(BaseModel):
    """Methods by targets: mean ± standard deviation over the seeds that have succeeded, in per cent."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    markdown: str

    @classmethod
    def of(cls, table: Table) -> TableAnswer:
        rows = [list(line) for line in table.lines]
        return cls(title=table.title, columns=list(table.columns), rows=rows, markdown=table.to_markdown())


class EvaluationAnswer(BaseModel):
    """A grid of jobs and its tables, as far as they are."""

    id: str
    object: Literal["evaluation"] = "evaluation"
    created_at: int
    name: str
    protocol: str
    dataset: str
    test_datasets: list[TestDatasetAnswer]
    num_shots: int | None = Field(description="Images of each class that train; null: all.")
    model: str
    status: str = Field(description="queued, running, succeeded, failed (some job did) or cancelled.")
    cancel_requested_at: int | None
    num_jobs: int
    num_finished: int
    cells: list[CellAnswer]
    tables: list[TableAnswer]

    @classmethod
    def of(cls, evaluation: Evaluation, jobs: Mapping[str, Job]) -> EvaluationAnswer:
        rows = [row for cell in evaluation.cells if (row := _row(evaluation, cell, jobs[cell["job_id"]])) is not None]
        first = next(iter(jobs.values()))
        return cls(
            id=evaluation.id,
            created_at=seconds(evaluation.created_at),
            name=evaluation.name,
            protocol=evaluation.protocol,
            dataset=evaluation.dataset,
            test_datasets=[TestDatasetAnswer(**test) for test in first.test_datasets],
            num_shots=first.config.get("num_shots"),
            model=evaluation.base_model,
            status=status_of([job.status for job in jobs.values()]),
            cancel_requested_at=seconds_or_none(evaluation.cancel_requested_at),
            num_jobs=len(jobs),
            num_finished=sum(job.status in FINISHED for job in jobs.values()),
            cells=[_cell_answer(cell, jobs[cell["job_id"]]) for cell in evaluation.cells],
            tables=[TableAnswer.of(table) for table in make_tables(rows)],
        )


def submit_evaluation(resources: Resources, caller: Caller, request: EvaluationRequest) -> Evaluation:
    """All jobs of the grid in one transaction, or none. Raises whatever makes one of them impossible."""
    request.to_grid()  # what cannot be asked at all is refused before a dataset is looked at
    test_datasets = read_test_datasets(resources, caller.owner, request.test_datasets or ())
    grid = request.to_grid(tuple(test["name"] for test in test_datasets))
    layout = read_layout_of(resources, caller.owner, request.dataset, param="dataset")
    evaluation_id = evaluations.new_evaluation_id()
    cells = grid.cells(layout)
    firsts: dict[str, Cell] = {}
    for cell in cells:
        firsts.setdefault(cell.run_name, cell)
    bodies = {name: request.job_body(grid, cell, evaluation_id, test_datasets) for name, cell in firsts.items()}
    with transaction(resources.engine) as session:  # before each of many is prepared; once more when they are written
        require_room_in_queue(session, caller.owner, resources.settings, num_jobs=len(bodies))
    requests = {name: FinetuneRequest.model_validate(body) for name, body in bodies.items()}
    prepared = {
        name: prepare_job(resources, caller.owner, each, layout, test_datasets) for name, each in requests.items()
    }
    try:
        with transaction(resources.engine) as session:
            require_room_in_queue(session, caller.owner, resources.settings, num_jobs=len(bodies))
            jobs = {
                name: insert_job(session, caller, requests[name], bodies[name], prepared[name]) for name in prepared
            }
            evaluation = evaluations.create_evaluation(
                session,
                caller.owner,
                evaluation_id,
                name=request.name,
                protocol=request.protocol,
                dataset=request.dataset,
                base_model=request.model,
                cells=[_stored(cell, jobs[cell.run_name].id) for cell in cells],
            )
            after = {"protocol": request.protocol, "num_jobs": len(jobs), "base_model": request.model}
            record_change(session, caller.actor, "evaluation.create", evaluation_id, after=after)
    except FileNotFound as error:  # deleted since it was listed
        param = "dataset" if error.param == "training_file" else error.param
        raise DatasetRejected(error.message, param=param) from error
    for job in jobs.values():
        wake(resources.queue, job.id)
    return evaluation


def status_of(statuses: list[JobStatus]) -> str:
    """In one word, what the jobs are at."""
    if all(status in FINISHED for status in statuses):
        for worst in (JobStatus.CANCELLED, JobStatus.FAILED):
            if worst in statuses:
                return worst
        return JobStatus.SUCCEEDED
    has_begun = any(status not in (JobStatus.QUEUED, JobStatus.PAUSED) for status in statuses)
    return JobStatus.RUNNING if has_begun else JobStatus.QUEUED


def _stored(cell: Cell, job_id: str) -> dict[str, Any]:
    return {
        "method": cell.method.text,
        "target": cell.answer.target,
        "seed": cell.seed,
        "group": cell.answer.group,
        "split": cell.answer.split,
        "job_id": job_id,
    }


def _cell_answer(cell: Mapping[str, Any], job: Job) -> CellAnswer:
    accuracy, num_images, zero_shot = _figures(cell, job)
    named = {name: cell[name] for name in ("method", "target", "seed", "job_id", "split")}
    return CellAnswer(
        **named,
        status=job.status,
        accuracy=accuracy,
        num_images=num_images,
        zero_shot=zero_shot,
        split_sha256=job.dataset["split_sha256"] if job.dataset else None,
        error=job.error["message"] if job.error else None,
    )


def _figures(cell: Mapping[str, Any], job: Job) -> tuple[float | None, int | None, float | None]:
    """Accuracy, images, accuracy of the base model; None before the job has succeeded."""
    if job.status != JobStatus.SUCCEEDED or not job.result:
        return None, None, None
    domains, classes = cell["group"]
    return *accuracy_of(job.result["tuned"][domains][classes]), job.result["zero_shot"][domains][classes]["accuracy"]


def _row(evaluation: Evaluation, cell: Mapping[str, Any], job: Job) -> Row | None:
    accuracy, num_images, zero_shot = _figures(cell, job)
    if accuracy is None or num_images is None:
        return None
    assert job.result is not None
    assert job.started_at is not None
    assert job.finished_at is not None
    config = FinetuneConfig.from_json(job.config)
    return Row(
        method=cell["method"],
        protocol=evaluation.protocol,
        dataset=evaluation.dataset,
        target=cell["target"],
        seed=cell["seed"],
        n=num_images,
        accuracy=accuracy,
        zero_shot=zero_shot,
        beside=figures_beside(tuple(cell["group"]), job.result["tuned"]),
        split=cell["split"],
        split_sha256=job.dataset["split_sha256"] if job.dataset else "",
        trained=what_is_trained(config),
        num_steps=config.num_steps,
        seconds=(job.finished_at - job.started_at).total_seconds(),
        base_model=evaluation.base_model,
        command=f"POST /v1/fine_tuning/jobs {json.dumps(job.request)}",
    )
