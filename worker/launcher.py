"""The command line and environment of the trainer, and the process it becomes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import alignclip_core
from alignclip_core.confinement import Confinement
from alignclip_core.faults import FAULTS_VARIABLE
from alignclip_core.parent_watch import PARENT_VARIABLE, SILENCE_SECONDS
from alignclip_core.run_dir import RunDir
from alignclip_store.settings import Settings

BEAT_SECONDS = SILENCE_SECONDS / 15  # a supervised trainer ends itself after so much silence on its stdin

# What a trainer may see of the worker's environment. It decodes strangers' images, so it is told no secret, and a list
# of what may pass also holds back those that nobody thought of.
PASSED_VARIABLES = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD",
     "VIRTUAL_ENV", "XDG_CACHE_HOME", "HF_HOME", "PYTHONHASHSEED", FAULTS_VARIABLE}
)  # fmt: skip
PASSED_PREFIXES = ("LC_", "CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_", "TORCH", "PYTORCH_", "OMP_", "MKL_", "KMP_")


CODE = Path(alignclip_core.__file__).parent.parent
INSTALLATION = (CODE, Path(sys.prefix), Path(sys.base_prefix))  # a home may lie around it


class Trainer:
    """A trainer process, or a classifier, that leads its own session and process group, and dies with the worker.

    Start it from the main thread of a process that lives as long as the run: the kernel's parent-death signal follows
    the thread that forked.
    """

    def __init__(self, run_dir: RunDir, settings: Settings, command: Sequence[str]) -> None:
        with run_dir.log_file.open("ab") as log_file:
            self._process = subprocess.Popen(
                shut_in(command, run_dir, settings),
                env=trainer_environment(os.environ, settings),
                cwd=run_dir.path,
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name=f"beat-{self._process.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def request_stop(self) -> None:
        """Ask the trainer to write a checkpoint and end.

        It alone is asked: loader processes that the signal ended first would fail the step that is being finished.
        """
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the trainer and every process that it started, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: macOS, for a group of dead ones
            os.killpg(self.pid, signal.SIGKILL)

    def exit_code(self) -> int | None:
        """The exit code, -N for an end by signal N; None while it runs. Its whole process group is gone by then."""
        if self._process.returncode is None and self._has_ended():
            self.kill()  # while the dead leader is unreaped, its number cannot name another group
            self._process.wait()
            self._ended.set()
        return self._process.returncode

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _beat(self) -> None:
        """Write a byte a second to the trainer's stdin: a worker that is stopped or gone writes none."""
        assert self._process.stdin is not None
        with self._process.stdin as pipe:
            os.set_blocking(pipe.fileno(), False)
            while not self._ended.wait(BEAT_SECONDS):
                try:
                    os.write(pipe.fileno(), b".")
                except BlockingIOError:  # the trainer is too busy to read; the pipe holds many beats for it
                    continue
                except OSError:
                    return


def shut_in(command: Sequence[str], run_dir: RunDir, settings: Settings) -> list[str]:
    """The command, which sees nothing of the service's home but the base models and its own run directory.

    It has a network only where it needs one: images are streamed, or ranks on several GPUs meet.
    """
    if not settings.confine_trainers:
        return list(command)
    confinement = Confinement(
        hidden=settings.home_dir,
        readable=(settings.models_location, *settings.dataset_roots, *INSTALLATION),
        own=run_dir.path,
        writable=(Path(tempfile.gettempdir()), Path("/dev")),
        has_network=settings.dataset_cache_bytes is not None or "," in (settings.gpus or ""),
    )
    return confinement.wrap(command)


def trainer_command(run_dir: RunDir, settings: Settings) -> list[str]:
    """The process of a fine-tuning job, on all GPUs of the worker."""
    command = _command("alignclip_core.train", run_dir, settings)
    if settings.gpus is not None:
        command += ["--processes", str(len(settings.gpus.split(",")))]
    return command


def classifier_command(run_dir: RunDir, settings: Settings) -> list[str]:
    """The process of a classification; it takes the first GPU alone."""
    return _command("alignclip_core.classify_dataset", run_dir, settings)


def _command(module: str, run_dir: RunDir, settings: Settings) -> list[str]:
    """`python -m <module> RUN_DIR ...` with this interpreter; -P keeps the run directory off its path."""
    command = [sys.executable, "-P", "-m", module, str(run_dir.path), "--supervised"]
    command += ["--models-dir", str(settings.models_location)]
    if settings.threads is not None:
        command += ["--threads", str(settings.threads)]
    return command


def trainer_environment(environment: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """What the trainer sees: no secret of the service, no hub, the threads that the deployment allows."""
    passed = {
        name: value
        for name, value in environment.items()
        if name in PASSED_VARIABLES or name.startswith(PASSED_PREFIXES)
    }
    if settings.threads is not None:
        passed |= {"OMP_NUM_THREADS": str(settings.threads), "MKL_NUM_THREADS": str(settings.threads)}
    if settings.gpus is not None:
        passed["CUDA_VISIBLE_DEVICES"] = settings.gpus
    return passed | {
        "PYTHONPATH": str(CODE),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        PARENT_VARIABLE: str(os.getpid()),
    }
