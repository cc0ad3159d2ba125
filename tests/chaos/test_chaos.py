"""Jobs whose processes, servers, disk and clock are taken away at named points. `make chaos` runs the long ones."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from alignclip_store.database import migrate
from alignclip_store.settings import Settings
from tests.chaos.cases import Case, make_cases
from tests.chaos.faults import Faults
from tests.chaos.invariants import broken_invariants
from tests.chaos.small_disk import small_disk
from tests.chaos.stage import Stage, build_clock_library
from tests.chaos.table import Result, write_table
from tests.servers import Server, postgres_server, short_folder, valkey_server

SEED = 20261126
NUM_JOBS = 100  # of the long runs on both databases together; more when the cases need more
SHORT = [
    Case("mid_step", "kill_trainer", 20),
    Case("mid_checkpoint_write", "kill_both", 2),
    Case("before_finish_commit", "kill_worker"),
]


@pytest.fixture
def make_stage(open_service: Callable, archive: bytes, tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Makes a stage whose servers are its own; they end with the test."""
    with ExitStack() as opened:

        def make(*, has_postgres: bool, has_api: bool, has_small_disks: bool) -> Stage:
            broker = _own(opened, valkey_server(opened.enter_context(short_folder())))
            folder = opened.enter_context(short_folder())
            data = folder / "data"
            database_disk = opened.enter_context(small_disk(data)) if has_small_disks else None
            database = _own(opened, postgres_server(folder, survives_kills=True)) if has_postgres else None
            database_url = database.url if database is not None else f"sqlite:///{data / 'alignclip.db'}"
            migrate(Settings(database_url=database_url))
            service = open_service(
                tmp_path / "home",
                broker_url=broker.url,
                lease_seconds=4.0,
                max_runs_per_job=100,  # a job may be hit again and again
                database_url=database_url,
            )
            stage = Stage(service, archive, broker, database, has_api, database_disk=database_disk)
            stage.clock_library = build_clock_library(tmp_path) if has_api else None
            if has_small_disks:
                folders = (service.settings.runs_location, Path(service.settings.artifacts_location))
                disks = [opened.enter_context(small_disk(folder)) for folder in folders]
                stage.disks = [disk for disk in disks if disk is not None]
            opened.callback(service.stop)
            stage.start()
            return stage

        yield make


def _own(opened: ExitStack, server: Server) -> Server:
    """A server that the faults may end and start."""
    server.start()
    opened.callback(server.end)
    return server


def test_jobs_survive_the_deaths_of_trainers_and_workers(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(has_postgres=False, has_api=False, has_small_disks=False)
    _act(stage, SHORT, num_jobs=0)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_jobs_survive_everything(make_stage: Callable[..., Stage], database: str) -> None:
    has_postgres = database == "postgresql"
    stage = make_stage(has_postgres=has_postgres, has_api=True, has_small_disks=True)
    every = make_cases(has_postgres=has_postgres, has_small_disks=bool(stage.disks), seed=SEED)
    cases = _chosen(every)
    results = _act(stage, cases, num_jobs=NUM_JOBS // 2 if cases == every else 0)
    write_table(
        Path(os.environ.get("CHAOS_TABLES", ".chaos")) / f"{database}.md",
        database,
        results,
        num_jobs=len(stage.job_ids),
        num_lost_runs=stage.num_lost_runs(),
        seed=SEED,
    )


def _chosen(cases: list[Case]) -> list[Case]:
    """For a shorter look: those of the named actions alone, and so many of them."""
    actions = os.environ.get("CHAOS_ACTIONS", "").split()
    chosen = [case for case in cases if not actions or case.action in actions]
    return chosen[: int(os.environ.get("CHAOS_CASES", len(chosen)))]


def _act(stage: Stage, cases: list[Case], *, num_jobs: int) -> list[Result]:
    """One case after the other, behind a job that is left in peace; all jobs must end as that one did."""
    stage.submit("reference")
    stage.wait_for_ends()
    faults, results = Faults(stage, seed=SEED), []
    for number, case in enumerate(cases):
        started_at = time.monotonic()
        results.append(Result(case, job_id=faults.do(case), seconds=time.monotonic() - started_at))
        print(f"{number + 1}/{len(cases)}: {case.action} at {case.point}, {results[-1].seconds:.1f} s", flush=True)
    while len(stage.job_ids) < num_jobs:
        stage.submit(stage.new_key())
    stage.wait_for_ends()
    stage.wait_for_no_run_folder()
    assert broken_invariants(stage, stage.job_ids["reference"]) == []
    for result in results:
        result.num_runs = stage.job(result.job_id).fence
    return results
