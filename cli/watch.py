"""`alignclip watch`: a job's progress until it has ended."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from alignclip_store.job_status import FINISHED, JobStatus
from cli.client import ServiceClient, connect
from cli.console import err, out
from cli.errors import ServiceUnreachable
from cli.progress import TrainingProgress
from cli.results import result_table

POLL_SECONDS = 1.0
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
    """Asks the service for what is new, and shows it."""

    def __init__(self, client: ServiceClient, job_id: str, progress: TrainingProgress) -> None:
        self._client = client
        self._job_id = job_id
        self._progress = progress
        self._last_event_id: str | None = None
        self._last_steps: dict[str, int | None] = {"train": None, "evaluation": None}

    def watch(self) -> dict[str, Any]:
        """The job when it has ended. Raises `ServiceUnreachable` when the service stays away."""
        job = self._client.get_job(self._job_id)
        # Numbers from here on; evaluations from the start, they are few.
        self._last_steps["train"] = max(job["progress"]["step"] - 1, 0)
        last_answer_at = time.monotonic()
        while True:
            try:
                job = self._client.get_job(self._job_id)
                self._show_news(job)
                last_answer_at = time.monotonic()
            except ServiceUnreachable:
                if time.monotonic() - last_answer_at > RECONNECT_SECONDS:
                    raise
                self._progress.show_phase("the service is away")
            else:
                if job["status"] in FINISHED:
                    return job
            time.sleep(POLL_SECONDS)

    def _show_news(self, job: dict[str, Any]) -> None:
        is_cancelling = job["cancel_requested_at"] and job["status"] not in FINISHED
        self._progress.show_phase("cancelling" if is_cancelling else job["phase"].replace("_", " "))
        self._progress.show_step(job["progress"]["step"], job["progress"]["num_steps"])
        for event in self._client.list_events(self._job_id, after=self._last_event_id):
            self._last_event_id = event["id"]
            if event["type"] == "message":
                self._progress.say(event["level"], event["message"])
        for kind in self._last_steps:
            for record in self._client.list_metrics(self._job_id, kind=kind, after_step=self._last_steps[kind]):
                self._last_steps[kind] = record["step"]
                show = self._progress.show_numbers if kind == "train" else self._progress.show_evaluation
                show(record["step"], record["values"])


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
