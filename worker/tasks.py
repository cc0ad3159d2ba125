"""The work of one worker process: claim a job, run it, tell its row how it ended, and again until none is left."""

from __future__ import annotations

import errno
from collections.abc import Mapping

import structlog

from alignclip_core import faults
from alignclip_core.errors import AlignClipError
from alignclip_core.run_dir import RunDir
from alignclip_store import runs
from alignclip_store.database import transaction
from alignclip_store.errors import LeaseLost, StoreError
from alignclip_store.runs import Claim
from worker.adoption import adopt_finished_model
from worker.current_run import AWAY_ERRORS, CurrentRun, Workplace
from worker.gpus import memory_not_returned, read_gpus
from worker.kinds import WORK
from worker.launcher import Trainer
from worker.lease import Lease
from worker.outcome import DATABASE_AWAY, DISK_FULL, PASSING_CODES, STOPPED, STORAGE_FAILED, Outcome, RunStopped
from worker.run_folders import held_folder
from worker.supervisor import Supervisor
from worker.uploads import Uploads

log = structlog.get_logger()


def work(workplace: Workplace) -> None:
    """Run queued jobs, the most urgent first, until none is left or the worker shuts down."""
    while not workplace.shutting_down.is_set():
        claim = _claim_next(workplace)
        if claim is None:
            return
        with structlog.contextvars.bound_contextvars(job_id=claim.job_id, fence=claim.fence):
            run_job(workplace, claim)


def _claim_next(workplace: Workplace) -> Claim | None:
    """None also while the database is away: the reaper wakes this worker again."""
    try:
        with transaction(workplace.engine) as session:
            settings = workplace.settings
            return runs.claim_next(
                session,
                workplace.identity,
                settings.lease_seconds,
                max_running_jobs=settings.max_running_jobs,
                quotas=settings,
            )
    except AWAY_ERRORS as error:
        log.warning("no_claim", error=str(error))
        return None


def run_job(workplace: Workplace, claim: Claim) -> None:
    """One run of a job, from its claim to the last word in its row.

    When not even that word can be written, the lease lapses and the reaper acts on it.
    """
    settings = workplace.settings
    run_dir = RunDir(settings.runs_location / claim.job_id / f"run-{claim.fence}")
    lease = Lease(
        workplace.engine,
        claim,
        lease_seconds=settings.lease_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
    )
    log.info("run_started", run_dir=str(run_dir.path))
    faults.reach("after_claim")
    try:
        with lease:
            run = CurrentRun(workplace=workplace, claim=claim, lease=lease, run_dir=run_dir)
            outcome = perform(run)
            if outcome.kind != "succeeded":
                conclude(run, outcome)
        log.info("run_ended", outcome=outcome.kind, error=outcome.error)
    except LeaseLost:
        log.warning("run_lost")
    except Exception:
        log.exception("run_not_concluded")


def perform(run: CurrentRun) -> Outcome:
    """Stage, train and publish. Whatever goes wrong becomes an outcome; folder and processes of the run are gone.

    A success is concluded here, while the folder is still there: the model of a worker that dies before its row knows
    is adopted by the next run.
    """
    try:
        with held_folder(run.run_dir.path):
            outcome = _stage_train_publish(run)
            if outcome.kind == "succeeded":
                faults.reach("before_finish_commit")
                conclude(run, outcome)
            return outcome
    except LeaseLost:
        return STOPPED["lost"]
    except RunStopped as stopped:
        return stopped.outcome
    except (AlignClipError, StoreError) as error:
        return Outcome.failed(error.code, error.message, error.param)
    except OSError as error:
        log.exception("storage_failed")
        return _storage_failed(error)
    except AWAY_ERRORS as error:
        return Outcome.given_up(DATABASE_AWAY, f"The database could not be read: {error}.")
    except Exception as error:
        log.exception("run_failed_unexpectedly")
        return Outcome.failed(
            "internal_error",
            f"The worker met an error of its own ({type(error).__name__}: {error}); its log has the details.",
        )


def conclude(run: CurrentRun, outcome: Outcome) -> None:
    """Write the outcome to the job's row. Raises `LeaseLost` when another run has the job."""
    claim = run.claim
    if outcome.kind == "lost":
        raise LeaseLost(f"The lease of {claim.job_id} is gone.")
    if outcome.kind == "released":
        run.write(lambda session: runs.release(session, claim))
    elif outcome.kind == "paused":
        run.write(lambda session: runs.pause(session, claim))
    elif outcome.kind == "given_up":
        _give_up(run, outcome)
    else:
        kind = outcome.kind
        run.write(
            lambda session: runs.finish(
                session,
                claim,
                kind,
                error=outcome.error,
                result=outcome.result,
                model=outcome.model,
                result_file=outcome.result_file,
            )
        )


def _stage_train_publish(run: CurrentRun) -> Outcome:
    work = WORK[run.read_job().kind]
    if adopt_finished_model(run):
        return work.publish(run)
    resumed_step = work.stage(run)
    run.raise_if_stopped()
    run.write(lambda session: runs.start_training(session, run.claim))
    uploads = Uploads(run, stored_step=resumed_step)
    gpus = read_gpus()
    try:
        trainer = Trainer(run.run_dir, run.settings, work.command(run.run_dir, run.settings))
        outcome = Supervisor(run, trainer, uploads).supervise()
    finally:
        uploads.finish()
    if outcome.kind in ("cancelled", "paused") and gpus:
        _tell_of_gpu_memory(run, memory_not_returned(gpus))
    if outcome.kind != "succeeded":
        return outcome
    faults.reach("after_training")
    return work.publish(run)


def _tell_of_gpu_memory(run: CurrentRun, left: Mapping[int, int]) -> None:
    """Whether the memory that the stopped trainer held is back."""
    if not left:
        run.record_event("info", "The trainer's process group is gone and its GPU memory is back.")
        return
    devices = ", ".join(f"{num_bytes / 2**20:,.0f} MiB on GPU {index}" for index, num_bytes in sorted(left.items()))
    run.record_event(
        "warn",
        f"The trainer's process group is gone, but more GPU memory is used than before it began: {devices}. Another "
        "process may have taken it; nvidia-smi on the worker's machine shows which.",
    )


def _storage_failed(error: OSError) -> Outcome:
    """Another machine, or a later time, may have the space or reach the store."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Outcome.given_up(
            DISK_FULL, f"A disk is full ({error}): free space on the worker or in the artifact store."
        )
    return Outcome.given_up(
        STORAGE_FAILED,
        f"Files of the job could not be read or written ({error}): check that workers can reach the artifact store.",
    )


def _give_up(run: CurrentRun, outcome: Outcome) -> None:
    """Let the lease lapse, so that the reaper charges the run and queues the job again; fail after the last run."""
    assert outcome.error is not None
    job = run.read_job()
    if job.cancel_requested_at is not None:
        run.write(lambda session: runs.finish(session, run.claim, "cancelled"))
    elif job.pause_requested_at is not None:
        run.record_event("warn", str(outcome.error["message"]), data=outcome.error)
        run.write(lambda session: runs.pause(session, run.claim))
    elif job.num_lost_runs + 1 >= run.settings.max_runs_per_job:
        run.write(lambda session: runs.finish(session, run.claim, "failed", error=outcome.error))
    else:
        run.record_event("warn", str(outcome.error["message"]), data=outcome.error)
        wait_seconds = run.settings.lease_seconds if outcome.error["code"] in PASSING_CODES else 0.0
        run.lease.end()
        run.write(lambda session: runs.heartbeat(session, run.claim, wait_seconds))
