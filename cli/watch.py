"""`alignclip watch`: a job's progress until it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from alignclip_store.job_status import FINISHED, JobStatus
from cli.client import ServiceClient, connect
from cli.console import err, out
from cli.errors import ServiceUnreachable, StreamUnusable
from cli.progress import TrainingProgress
from cli.results import result_table

POLL_SECONDS = 1.0  # between two looks, or before a stream that broke off is taken up again
RECONNECT_SECONDS = 60.0  # how long a service may be away while it is watched

EXIT_CODES = {JobStatus.SUCCEEDED: 0, JobStatus.FAILED: 1, JobStatus.CANCELLED: 2}


def watch(job_id: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]) -> None:
    """Show a job's progress until it ends. Exit code 0: succeeded, 1: failed, 2: cancelled."""
    with connect() as client:
        raise typer.Exit(watch_job(client, job_id))


def watch_job(client: ServiceClient, job_id: str) -> int:
    """Show the job until it ends, then its result; the exit code that says how it ended.

    Ctrl-C ends the watching, not the job.
    """
    try:
        with TrainingProgress(err) as progress:
            job = Watcher(client, job_id, progress).watch()
    except KeyboardInterrupt:
        err.print(f"The job goes on; watch it again with: alignclip watch {job_id}", markup=False)
        raise
    show_end(job)
    return EXIT_CODES[JobStatus(job["status"])]


class Watcher:
    """Follows the job's stream of events, or asks for what is new where none comes through, and shows it."""

    def __init__(self, client: ServiceClient, job_id: str, progress: TrainingProgress) -> None:
        self._client = client
        self._job_id = job_id
        self._progress = progress
        self._last_event_id: str | None = None
        self._last_steps: dict[str, int | None] = {"train": None, "evaluation": None}
        self._num_steps = 0
        self._last_answer_at = 0.0

    def watch(self) -> dict[str, Any]:
        """The job when it has ended. Raises `ServiceUnreachable` when the service stays away."""
        job = self._client.get_job(self._job_id)
        # Numbers from here on; evaluations from the start, they are few.
        self._last_steps["train"] = max(job["progress"]["step"] - 1, 0)
        self._num_steps = job["progress"]["num_steps"]
        self._last_answer_at = time.monotonic()
        try:
            return self._until_ended(self._follow)
        except StreamUnusable:
            return self._until_ended(self._poll)

    def _until_ended(self, look: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Look again and again, from where the last look ended; a service that is away for a while is waited for."""
        while True:
            try:
                job = look()
                if job is not None:
                    return job
            except ServiceUnreachable:
                if time.monotonic() - self._last_answer_at > RECONNECT_SECONDS:
                    raise
                self._progress.show_phase("the service is away")
            time.sleep(POLL_SECONDS)

    def _follow(self) -> dict[str, Any] | None:
        """Show what the stream says while it holds; the job when it has ended."""
        for kind, content in self._client.stream_job(self._job_id, self._position):
            self._last_answer_at = time.monotonic()
            if kind == "event":
                self._show_event(content)
            elif kind == "metrics":
                self._show_record(content["kind"], content)
            elif kind == "job":
                self._show_job(content)
                if content["status"] in FINISHED:
                    return content
        return None

    def _poll(self) -> dict[str, Any] | None:
        """Ask once for what is new; the job when it has ended."""
        job = self._client.get_job(self._job_id)
        self._show_job(job)
        for event in self._client.list_events(self._job_id, after=self._last_event_id):
            self._show_event(event)
        for kind in self._last_steps:
            for record in self._client.list_metrics(self._job_id, kind=kind, after_step=self._last_steps[kind]):
                self._show_record(kind, record)
        self._last_answer_at = time.monotonic()
        return job if job["status"] in FINISHED else None

    @property
    def _position(self) -> str:
        """What was shown, as the stream numbers its messages."""
        steps = ("" if step is None else str(step) for step in self._last_steps.values())
        return ".".join((self._last_event_id or "ftevent-0", *steps))

    def _show_job(self, job: dict[str, Any]) -> None:
        is_cancelling = job["cancel_requested_at"] and job["status"] not in FINISHED
        self._progress.show_phase("cancelling" if is_cancelling else job["phase"].replace("_", " "))
        self._progress.show_step(job["progress"]["step"], job["progress"]["num_steps"])

    def _show_event(self, event: dict[str, Any]) -> None:
        self._last_event_id = event["id"]
        if event["type"] == "message":
            self._progress.say(event["level"], event["message"])

    def _show_record(self, kind: str, record: dict[str, Any]) -> None:
        self._last_steps[kind] = record["step"]
        if kind == "train":
            self._progress.show_numbers(record["step"], record["values"])
            self._progress.show_step(record["step"], self._num_steps)
        else:
            self._progress.show_evaluation(record["step"], record["values"])


def show_end(job: dict[str, Any]) -> None:
    """How the job ended: its error, or its figures and the model's id."""
    if job["error"]:
        err.print(f"The job {job['status']}: {job['error']['message']}", style="red", markup=False)
        return
    out.print(f"The job {'was cancelled' if job['status'] == JobStatus.CANCELLED else job['status']}.", markup=False)
    if job["result"]:
        out.print(result_table(job["result"]))
    if job["fine_tuned_model"]:
        out.print(f"Model: {job['fine_tuned_model']}", markup=False)
