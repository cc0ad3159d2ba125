"""`alignclip train`: the trainer by hand, on a run directory, with no queue and no database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from alignclip_core.run_dir import EXIT_DONE, EXIT_STOPPED, Record, RunDir
from cli import die_with_parent
from cli.console import err, out
from cli.environment import load_settings
from cli.errors import CliError
from cli.processes import describe_exit
from cli.progress import TrainingProgress
from cli.results import result_table

POLL_SECONDS = 0.3


def train(
    run_dir: Annotated[Path, typer.Argument(help="Holds inputs/config.json and inputs/dataset/.")],
    models_dir: Annotated[Path | None, typer.Option(help="Folder of base models.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Run the trainer on a run directory. Ctrl-C: it writes a checkpoint and ends; the same command goes on from it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the trainer gets to write its checkpoint
    run = RunDir(run_dir.absolute())
    num_steps = run.read_config().num_steps
    if not run.dataset.is_dir() and not run.dataset.with_suffix(".json").is_file():
        raise CliError(f"{run.dataset} is missing; it holds class/image or domain/class/image.")
    settings = load_settings()
    command = [sys.executable, "-P", "-m", "alignclip_core.train", str(run.path)]
    command += ["--models-dir", str((models_dir or settings.models_location).absolute())]
    threads = threads or settings.threads
    command += ["--threads", str(threads)] if threads else []
    exit_code = follow(run, start_trainer(run, command), num_steps)
    show_end(run, exit_code)


def start_trainer(run: RunDir, command: list[str]) -> subprocess.Popen[bytes]:
    """The trainer, in a session of its own: Ctrl-C reaches this process alone, which then asks it to stop."""
    wrapper = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
    with run.log_file.open("ab") as log:
        return subprocess.Popen(
            [*wrapper, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def follow(run: RunDir, trainer: subprocess.Popen[bytes], num_steps: int) -> int:
    """Show what the trainer says until it has ended; its exit code. A second Ctrl-C kills it."""
    offset = run.metrics_file.stat().st_size if run.metrics_file.is_file() else 0  # what earlier runs said
    was_asked = False
    with TrainingProgress(err) as progress:
        progress.show_phase("starting")
        progress.show_step(0, num_steps)
        while True:
            try:
                has_ended = trainer.poll() is not None
                records, offset = run.read_records(offset)
                for record in records:
                    show_record(progress, record, num_steps)
                if has_ended:
                    return trainer.returncode
                time.sleep(POLL_SECONDS)
            except KeyboardInterrupt:
                os.killpg(trainer.pid, signal.SIGKILL) if was_asked else trainer.terminate()
                was_asked = True
                progress.say("info", "Stopping after a checkpoint; Ctrl-C once more ends it at once.")


def show_record(progress: TrainingProgress, record: Record, num_steps: int) -> None:
    """One line of metrics.jsonl in the view."""
    if record.kind == "phase":
        progress.show_phase(record.values["phase"].replace("_", " "))
    elif record.kind == "train":
        progress.show_step(record.step, num_steps)
        progress.show_numbers(record.step, record.values)
    elif record.kind == "evaluation":
        progress.show_evaluation(record.step, record.values)
    elif record.kind == "event":
        progress.say(record.values["level"], record.values["message"])


def show_end(run: RunDir, exit_code: int) -> None:
    """The figures and the model's folder. Raises `CliError` with the trainer's own reason when it failed."""
    manifest = run.read_manifest()
    if exit_code == EXIT_DONE and manifest:
        if manifest.get("result"):
            out.print(result_table(manifest["result"]))
        out.print(f"Model: {run.model}", markup=False)
        return
    if exit_code == EXIT_STOPPED:
        err.print("Stopped with a checkpoint; the same command goes on from there.", markup=False)
        raise typer.Exit(EXIT_STOPPED)
    error = run.read_error()
    reason = error.message if error else f"it ended with {describe_exit(exit_code)}"
    raise CliError(f"The trainer failed: {reason} Its log: {run.log_file}")
