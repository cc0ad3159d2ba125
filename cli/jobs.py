"""`alignclip jobs` and `alignclip cancel`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from cli.client import CLASSIFICATION_PREFIX, connect
from cli.console import out


def jobs(limit: Annotated[int, typer.Option(min=1, help="How many of the newest to show.")] = 20) -> None:
    """List jobs, the newest first."""
    with connect() as client:
        found = client.list_jobs(limit)
    table = Table(box=None, pad_edge=False)
    for heading in ("job", "status", "created", "model", "steps", "tuned model"):
        table.add_column(heading, no_wrap="model" in heading or heading == "job", overflow="fold")
    for job in found:
        created = datetime.fromtimestamp(job["created_at"]).astimezone().strftime("%Y-%m-%d %H:%M")
        steps = f"{job['progress']['step']}/{job['progress']['num_steps']}"
        table.add_row(job["id"], job["status"], created, job["model"], steps, job["fine_tuned_model"] or "")
    out.print(table if found else "There are no jobs yet; create one with: alignclip submit FOLDER")


def cancel(job_id: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]) -> None:
    """Cancel a job or a classification; one that runs stops within seconds."""
    with connect() as client:
        job = client.change_job(job_id, "cancel")
    if job["status"] == "cancelled":
        out.print(f"{job_id} is cancelled.", markup=False)
    else:
        out.print(f"{job_id} is being cancelled; see it end with: alignclip {_watching(job_id)}", markup=False)


def pause(job_id: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]) -> None:
    """Pause a job; one that trains saves a checkpoint first. `resume` goes on from it."""
    with connect() as client:
        job = client.change_job(job_id, "pause")
    state = "is paused" if job["status"] == "paused" else "is being paused"
    out.print(f"{job_id} {state}; let it go on with: alignclip resume {job_id}", markup=False)


def resume(job_id: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]) -> None:
    """Queue a paused job again; it goes on from its last checkpoint."""
    with connect() as client:
        client.change_job(job_id, "resume")
    out.print(f"{job_id} is queued; watch it with: alignclip watch {job_id}", markup=False)


def retry(job_id: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]) -> None:
    """Queue a failed or cancelled job or classification again; it goes on from its last checkpoint."""
    with connect() as client:
        client.change_job(job_id, "retry")
    out.print(f"{job_id} is queued again; watch it with: alignclip {_watching(job_id)}", markup=False)


def _watching(job_id: str) -> str:
    """The command that watches a job or a classification."""
    is_classification = job_id.startswith(CLASSIFICATION_PREFIX)
    return f"{'classify-dataset' if is_classification else 'watch'} {job_id}"
