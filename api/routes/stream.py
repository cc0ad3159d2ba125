"""A job as a stream of server-sent events, for those who would else ask every second."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import anyio
from anyio import to_thread
from fastapi import APIRouter, Header, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from alignclip_store import jobs, tables
from alignclip_store.database import reading
from alignclip_store.events import list_events
from alignclip_store.job_status import FINISHED
from api.dependencies import OwnerDep, ResourcesDep
from api.errors import RequestInvalid
from api.job_answers import EventAnswer, JobAnswer, MetricAnswer, answer_jobs
from api.resources import Resources

POSITION = r"ftevent-(\d{1,18})(?:\.(\d{0,9})\.(\d{0,9}))?"
MESSAGE: dict[str, Any] = {  # in the words of OpenAPI 3.2 for one message of a stream
    "type": "object",
    "properties": {
        "event": {"enum": ["event", "metrics", "job"]},
        "id": {"type": "string", "pattern": f"^{POSITION}$"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "id", "data"],
}
POLL_SECONDS = 0.5
PROVE_SECONDS = 5  # between two looks at the key of an open stream
PING_SECONDS = 15  # a comment that keeps proxies from ending a silent connection
SEND_SECONDS = 30  # for a client that reads nothing
PAGE = 500
KINDS = ("train", "evaluation")  # of metrics

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])


@dataclass(frozen=True)
class Position:
    """How much of a job a client has seen: what stands in the `id:` of each message, as `ftevent-12.340.300`."""

    event_number: int | None = None
    steps: Mapping[str, int | None] = field(default_factory=lambda: dict.fromkeys(KINDS))  # the last of each kind

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that a client names in `Last-Event-ID`; the id of an event from elsewhere will do too."""
        if not text:
            return cls()
        found = re.fullmatch(POSITION, text, re.ASCII)
        if found is None:
            raise RequestInvalid(f"Last-Event-ID {text!r} is none that this stream sent.", param="Last-Event-ID")
        number, *steps = found.groups()
        return cls(
            int(number) or None,
            {kind: int(step) if step else None for kind, step in zip(KINDS, steps, strict=True)},
        )

    def after(self, answer: EventAnswer | MetricAnswer) -> Position:
        """The position once this was sent."""
        if isinstance(answer, EventAnswer):
            return Position(int(answer.id.removeprefix("ftevent-")), self.steps)
        return Position(self.event_number, {**self.steps, answer.kind: answer.step})

    def __str__(self) -> str:
        steps = ("" if self.steps[kind] is None else str(self.steps[kind]) for kind in KINDS)
        return ".".join((f"ftevent-{self.event_number or 0}", *steps))


@router.get(
    "/{job_id}/stream",
    response_class=Response,
    responses={
        200: {
            "content": {"text/event-stream": {"itemSchema": MESSAGE}},
            "description": "Messages `event` (an event of the job), `metrics` (numbers of a step) and `job` (the job, "
            "first and whenever its status, phase or wish changes). The `job` message of a finished job is the last.",
        }
    },
)
async def stream_job(
    job_id: str,
    request: Request,
    owner: OwnerDep,
    resources: ResourcesDep,
    last_event_id: Annotated[
        str,
        Header(
            max_length=64,
            description="`id:` of the last message that arrived: go on behind it.",
            json_schema_extra={"pattern": f"^({POSITION})?$"},
        ),
    ] = "",
) -> Response:
    """What happens to the job, as it happens, until it has ended or the key is no longer good.

    Paused jobs stay silent until they are resumed.

    After a lost run, training repeats the steps behind its last checkpoint; their numbers are not sent again.
    """
    position = Position.parse(last_event_id)
    first = await to_thread.run_sync(_read_news, resources, owner, job_id, position)  # 404 before the stream begins
    key = request.headers["authorization"].partition(" ")[2]
    messages = _messages(resources, owner, job_id, first, position, key)
    return EventSourceResponse(
        messages, ping=PING_SECONDS, send_timeout=SEND_SECONDS, headers={"Cache-Control": "no-store"}
    )


@dataclass(frozen=True)
class News:
    """The job as it is, and what came behind a position."""

    job: JobAnswer
    events: list[EventAnswer]
    metrics: list[MetricAnswer]
    has_more: bool

    @property
    def is_last(self) -> bool:
        return self.job.status in FINISHED and not self.has_more


def _read_news(resources: Resources, owner: str, job_id: str, position: Position) -> News:
    with reading(resources.engine) as session:
        job = jobs.get_job(session, owner, job_id)  # before the rest: what its end brought is then among it
        events, has_more = list_events(
            session, owner, job_id, after=position.event_number, limit=PAGE, newest_first=False
        )
        metrics: list[tables.Metric] = []
        for kind, step in position.steps.items():
            rows, more_rows = jobs.list_metrics(session, owner, job_id, kind=kind, after_step=step, limit=PAGE)
            metrics += rows
            has_more = has_more or more_rows
        (answer,) = answer_jobs(session, [job])
    return News(
        answer,
        [EventAnswer.of(event) for event in events],
        [MetricAnswer.of(metric) for metric in sorted(metrics, key=lambda metric: metric.step)],
        has_more,
    )


async def _messages(
    resources: Resources, owner: str, job_id: str, news: News, position: Position, key: str
) -> AsyncIterator[ServerSentEvent]:
    told: tuple[Any, ...] = ()
    proved_at = anyio.current_time()
    while True:
        answers: list[MetricAnswer | EventAnswer] = [*news.metrics, *news.events]
        for answer in answers:
            position = position.after(answer)
            name = "event" if isinstance(answer, EventAnswer) else "metrics"
            yield ServerSentEvent(answer.model_dump_json(), event=name, id=str(position))
        job = news.job
        state = (job.status, job.phase, job.cancel_requested_at, job.pause_requested_at, job.queue)
        if state != told and not news.has_more:
            told = state
            yield ServerSentEvent(job.model_dump_json(), event="job", id=str(position))
        if news.is_last:
            return
        if not news.has_more:
            await anyio.sleep(POLL_SECONDS)
        if anyio.current_time() - proved_at > PROVE_SECONDS:
            if not await to_thread.run_sync(resources.authenticator.is_good, key):
                return  # a client that comes back is told why
            proved_at = anyio.current_time()
        news = await to_thread.run_sync(_read_news, resources, owner, job_id, position)
