"""The folder of one `serve`: held by one process at a time, which says in it where it answers."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.errors import CliError

LOCK_FILE = "serve.lock"


@dataclass(frozen=True, kw_only=True)
class RunningServe:
    """What a running serve says of itself in its lock file."""

    pid: int
    url: str
    valkey_socket: str | None  # None: the broker is a given one


@contextmanager
def locked_home(home: Path) -> Iterator[None]:
    """Hold the folder; the kernel lets go of it however the process ends. Raises `CliError` when another holds it."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CliError(_held_message(home)) from error
        file.truncate(0)  # what a killed serve left
        try:
            yield
        finally:
            file.truncate(0)


def record_serve(home: Path, url: str, valkey_socket: Path | None) -> None:
    """Say in the lock file who holds it."""
    serve = RunningServe(pid=os.getpid(), url=url, valkey_socket=str(valkey_socket) if valkey_socket else None)
    (home / LOCK_FILE).write_text(json.dumps(asdict(serve)))


def running_serve(home: Path) -> RunningServe | None:
    """The serve that works in the folder; None without one, or while it still starts."""
    path = home / LOCK_FILE
    text = path.read_text() if path.is_file() else ""
    if not text:
        return None
    serve = RunningServe(**json.loads(text))
    try:
        os.kill(serve.pid, 0)
    except ProcessLookupError:  # it was killed and could not clear its words
        return None
    except PermissionError:  # another user's
        pass
    return serve


def _held_message(home: Path) -> str:
    other = running_serve(home)
    who = f"Process {other.pid} serves from {home} at {other.url}" if other else f"Another serve starts in {home}"
    return f"{who}. Stop it first, or set ALIGNCLIP_HOME to another folder."
