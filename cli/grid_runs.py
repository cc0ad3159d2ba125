"""The runs of a grid: each a trainer process in a run directory of its own, some side by side, each cell once.

OUTPUT/results.jsonl        one `Row` a finished cell, appended
       runs/<cell.run_name>/  a run directory (docs/run_directory.md), gone on with from its checkpoints
       datasets/            what was unpacked or thinned out
       similarity/          class similarities, shared by the runs of equal classes and templates
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignclip_core.base_models import BaseModel
from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.fingerprint import split_sha256
from alignclip_core.dataset.splits import TEST_DATASETS, Split, split_dataset
from alignclip_core.image_only import similarity_without_texts
from alignclip_core.protocols.cells import Cell
from alignclip_core.protocols.grids import Grid
from alignclip_core.protocols.methods import what_is_trained
from alignclip_core.protocols.rows import Row, accuracy_of, figures_beside, read_rows
from alignclip_core.run_dir import EXIT_DONE, EXIT_STOPPED, RunDir
from cli.errors import CliError
from cli.grid_data import GridData
from cli.processes import describe_exit
from cli.train import start_trainer

POLL_SECONDS = 0.2
RESULTS_FILE = "results.jsonl"
RESULT_FILE = "result.json"  # of a run: the manifest's result, which outlives the weights
SECONDS_FILE = "seconds"  # of a run: what its trainers took in all
SPLIT_FILE = "split_sha256"  # of a run: which images it was begun on


@dataclass
class GridRun:
    """One run, and the cells that it answers."""

    run_dir: RunDir
    cells: list[Cell]
    base_model: BaseModel
    config: FinetuneConfig
    data: GridData
    test_sets: Mapping[str, GridData]
    command_of: Callable[[Cell], str]

    @property
    def name(self) -> str:
        return self.cells[0].run_name


@dataclass
class _Active:
    run: GridRun
    trainer: subprocess.Popen[bytes]
    started_at: float = field(default_factory=time.monotonic)


@dataclass
class GridRunner:
    """Runs what has no row yet. `on_row` hears of each finished cell, `on_failure` of each run that failed."""

    output: Path
    models_dir: Path
    num_parallel: int
    num_threads: int | None
    keeps_models: bool
    on_row: Callable[[Row], None]
    on_failure: Callable[[GridRun, str], None]
    on_active: Callable[[Sequence[GridRun]], None] = lambda runs: None

    def run(self, runs: Iterable[GridRun]) -> bool:
        """Whether every run has answered. A KeyboardInterrupt stops the trainers, each with a checkpoint."""
        waiting, active, is_whole = list(runs), list[_Active](), True
        try:
            while waiting or active:
                while waiting and len(active) < self.num_parallel:
                    active.append(self._start(waiting.pop(0)))
                    self.on_active([each.run for each in active])
                time.sleep(POLL_SECONDS)
                for each in [each for each in active if each.trainer.poll() is not None]:
                    active.remove(each)
                    is_whole &= self._end(each)
        finally:
            for each in active:
                each.trainer.terminate()
            for each in active:
                each.trainer.wait()
                _add_seconds(each)
        return is_whole

    def _start(self, run: GridRun) -> _Active:
        prepare(run, self._similarity_file(run))
        command = [sys.executable, "-P", "-m", "alignclip_core.train", str(run.run_dir.path)]
        command += ["--models-dir", str(self.models_dir)]
        command += ["--threads", str(self.num_threads)] if self.num_threads else []
        return _Active(run, start_trainer(run.run_dir, command))

    def _end(self, ended: _Active) -> bool:
        run, exit_code = ended.run, ended.trainer.returncode
        _add_seconds(ended)
        if exit_code != EXIT_DONE:
            error = run.run_dir.read_error()
            reason = (
                error.message if error and exit_code != EXIT_STOPPED else f"it ended with {describe_exit(exit_code)}"
            )
            self.on_failure(run, reason)
            return False
        shared = self._similarity_file(run)
        if not shared.is_file():
            shared.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run.run_dir.similarity_file, shared)
        manifest = run.run_dir.read_manifest() or {}
        (run.run_dir.path / RESULT_FILE).write_text(json.dumps(manifest["result"], indent=1))
        try:
            rows = self._rows(run, manifest["result"])
        except CliError as error:
            self.on_failure(run, str(error))
            return False
        with (self.output / RESULTS_FILE).open("ab") as file:
            file.write(b"".join(row.to_line() for row in rows))
        for row in rows:
            self.on_row(row)
        shutil.rmtree(run.run_dir.checkpoints, ignore_errors=True)
        if not self.keeps_models:
            shutil.rmtree(run.run_dir.model)
        return True

    def _rows(self, run: GridRun, result: Mapping[str, Any]) -> list[Row]:
        digest = split_sha256(split_dataset(run.data.layout, run.config))
        seconds = float((run.run_dir.path / SECONDS_FILE).read_text())
        return [
            Row(
                **self._figures(run, cell, result),
                method=cell.method.text,
                protocol=cell.question.protocol,
                dataset=cell.dataset,
                target=cell.answer.target,
                seed=cell.seed,
                split=cell.answer.split,
                split_sha256=digest,
                trained=what_is_trained(run.config),
                num_steps=run.config.num_steps,
                seconds=round(seconds, 1),
                command=run.command_of(cell),
                base_model=cell.base_model,
            )
            for cell in run.cells
        ]

    def _figures(self, run: GridRun, cell: Cell, result: Mapping[str, Any]) -> dict[str, Any]:
        domains, classes = cell.answer.group
        if domains == TEST_DATASETS:
            accuracy, num_images = accuracy_of(self._measure(run, run.test_sets[cell.answer.target]))
            return {"accuracy": accuracy, "n": num_images, "zero_shot": None, "beside": {}}
        accuracy, num_images = accuracy_of(result["tuned"][domains][classes])
        zero_shot = accuracy_of(result["zero_shot"][domains][classes])[0] if run.base_model.has_texts else None
        beside = figures_beside(cell.answer.group, result["tuned"])
        return {"accuracy": accuracy, "n": num_images, "zero_shot": zero_shot, "beside": beside}

    def _measure(self, run: GridRun, test_set: GridData) -> dict[str, Any]:
        """The finished model on another dataset, by a process that may load torch."""
        inputs = run.run_dir.path / "tests" / test_set.name
        test_set.link(inputs)
        found = inputs / "evaluation.json"
        arguments = ["evaluate", str(run.run_dir.model), str(inputs / "dataset"), "--models-dir", str(self.models_dir)]
        arguments += ["--class-names", str(test_set.class_names_file)] if test_set.class_names_file else []
        command = [sys.executable, "-P", "-m", "alignclip_core.commands", *arguments, "--output", str(found)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise CliError(f"{test_set.name} cannot be evaluated: {done.stderr.strip()}")
        return json.loads(found.read_text())  # type: ignore[no-any-return]

    def _similarity_file(self, run: GridRun) -> Path:
        config = run.config
        words = [config.base_model, list(config.class_names.values()), config.templates, config.hyphens_to_spaces]
        return self.output / "similarity" / f"{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]}.safetensors"


def plan_runs(
    grid: Grid,
    base_model: BaseModel,
    data: GridData,
    test_sets: Mapping[str, GridData],
    output: Path,
    command_of: Callable[[Cell], str],
) -> list[GridRun]:
    """Every run of a grid, finished or not. Raises `CliError` where the folder has a run of other settings."""
    runs: dict[str, GridRun] = {}
    for cell in grid.cells(data.layout):
        if cell.run_name not in runs:
            config = grid.config_of(cell, base_model, data.class_names)
            split = split_dataset(data.layout, config)  # raises for what could not be trained
            run_dir = RunDir((output / "runs" / cell.run_name).absolute())
            _check_same_config(run_dir, config)
            _check_same_images(run_dir, split)
            runs[cell.run_name] = GridRun(run_dir, [], base_model, config, data, test_sets, command_of)
        runs[cell.run_name].cells.append(cell)
    return list(runs.values())


def unfinished(runs: Iterable[GridRun], output: Path) -> list[GridRun]:
    """The runs of which a cell has no row yet."""
    done = {row.key for row in read_rows(output / RESULTS_FILE)}
    return [run for run in runs if any(cell.key not in done for cell in run.cells)]


def prepare(run: GridRun, similarity: Path) -> None:
    """The run directory's inputs; those that are there stay."""
    run_dir = run.run_dir
    run_dir.write_config(run.config)
    if not (run_dir.inputs / "dataset").exists():
        (run_dir.path / SPLIT_FILE).write_text(split_sha256(split_dataset(run.data.layout, run.config)))
    run.data.link(run_dir.inputs)
    if not run.base_model.has_texts:
        similarity_without_texts(run.base_model, run.config).save(run_dir.similarity_file)
    elif similarity.is_file() and not run_dir.similarity_file.is_file():
        shutil.copyfile(similarity, run_dir.similarity_file)


def _check_same_config(run_dir: RunDir, config: FinetuneConfig) -> None:
    if not run_dir.config_file.is_file():
        return
    then, now = run_dir.read_config().to_json(), config.to_json()
    for name, value in now.items():
        if then[name] != value:
            raise CliError(
                f"{run_dir.path} was begun with {name}={then[name]}, now it is {value}; name another --output, or "
                "remove that folder and its rows."
            )


def _check_same_images(run_dir: RunDir, split: Split) -> None:
    file = run_dir.path / SPLIT_FILE
    if file.is_file() and file.read_text() != split_sha256(split):
        raise CliError(
            f"{run_dir.path} was begun on other images of that dataset's name; name another --output, or remove that "
            "folder and its rows."
        )


def _add_seconds(ended: _Active) -> None:
    file = ended.run.run_dir.path / SECONDS_FILE
    before = float(file.read_text()) if file.is_file() else 0.0
    file.write_text(f"{before + time.monotonic() - ended.started_at:.2f}")
