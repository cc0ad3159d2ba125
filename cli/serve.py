"""`alignclip serve`: the whole service from one command, with nothing installed.

It starts a private Valkey, migrates the database, then starts API, worker and reaper, and keeps them running. It ends
them in the opposite order, in less than 10 s: API, reaper and worker at once, the broker when they are gone. If serve
itself is killed, the kernel kills its children (cli/die_with_parent.py), a worker's pool child ends when its parent is
gone, and a trainer when its worker is; what they were doing goes on from the database at the next start.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import httpx2
import typer

from alignclip_store.settings import Settings, bootstrap_api_key
from cli.broker import valkey_child, valkey_socket, wait_for_valkey
from cli.console import err, out
from cli.environment import load_settings
from cli.errors import CliError
from cli.home import locked_home, record_serve
from cli.logs import LogFollower, fresh_log
from cli.processes import Child, describe_exit, end_all, restart_dead

READY_SECONDS = 180.0  # a cold disk reads torch slowly
TICK_SECONDS = 0.2
# One after the other these stay below 10 s: a trainer writes its checkpoint, its worker hands the job back, all edges
# are gone, then the broker.
STOP_TRAINER_SECONDS = 5.0
STOP_EDGES_SECONDS = 7.5
STOP_BROKER_SECONDS = 1.5
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0 takes a free one.")] = 8000,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of all processes.")] = False,
) -> None:
    """Start the whole service: broker, database, API, worker, reaper. Ctrl-C ends all of it."""
    settings = load_settings()
    home = settings.home_dir
    with locked_home(home), stop_on_signals() as stop, ExitStack() as stack:
        port = check_port(host, port)
        url = f"http://{_reachable(host)}:{port}"
        logs = {name: fresh_log(home / "logs", name) for name in ("valkey", "api", "worker", "reaper")}
        follower = LogFollower(logs, err) if verbose else None
        environment = child_environment(settings)
        kept: list[Child] = []
        valkey = None
        if not settings.broker_url:
            valkey = stack.enter_context(valkey_socket(home))
            environment["ALIGNCLIP_BROKER_URL"] = f"redis+socket://{valkey}"
            kept.append(_start_valkey(stack, home, valkey, environment, logs["valkey"]))
        record_serve(home, url, valkey)
        key, is_new_key = bootstrap_api_key(settings)
        migrate_database(settings)
        edges = edge_children(settings, host, port, environment, logs)
        stack.callback(_end, edges, STOP_EDGES_SECONDS, stop)
        for child in edges:
            child.start()
        on_tick = follower.show if follower else _nothing
        if wait_until_ready(url, edges, stop, on_tick):
            announce(url, host, settings, key if is_new_key else None)
        while not stop.wait(TICK_SECONDS):
            restart_dead([*kept, *edges], err.print)
            on_tick()


class StopRequest:
    """Set by SIGINT, SIGTERM or a closed terminal; urgent from the second one on."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._num_signals = 0

    def receive(self, signal_number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self._num_signals += 1
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Whether it is set, at once or within `seconds`."""
        return self._event.wait(seconds)

    def is_urgent(self) -> bool:
        return self._num_signals > 1


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """A `StopRequest` that hears this process's signals."""
    stop = StopRequest()
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signals.append(signal.SIGHUP)
    before = {name: signal.signal(name, stop.receive) for name in signals}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def check_port(host: str, port: int) -> int:
    """The port to listen on, free a moment ago; a free one for 0. Raises `CliError` when it is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CliError(f"Port {port} is in use on {host}; choose another: alignclip serve --port N") from error
            raise CliError(f"Cannot listen on {host}, port {port}: {error.strerror or error}.") from error
        return int(probe.getsockname()[1])


def child_environment(settings: Settings) -> dict[str, str]:
    """What the children see: ours, with the private broker named unless there is a given one."""
    return os.environ | {
        "ALIGNCLIP_HOME": str(settings.home_dir),
        "ALIGNCLIP_BROKER_URL": settings.broker_location,
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # a folder api/ or worker/ where serve was called is not ours
    }


def edge_children(
    settings: Settings, host: str, port: int, environment: Mapping[str, str], logs: Mapping[str, Path]
) -> list[Child]:
    """API, worker and reaper, not yet started."""
    api = ["uvicorn", "--factory", "api.main:create_app_from_environment", "--host", host, "--port", str(port)]
    api += ["--timeout-graceful-shutdown", "3", "--no-access-log"]  # the API has a log of its requests itself
    # uvicorn and `celery -A` look for modules in the current folder first, where another api/ or worker.py may lie.
    api += ["--app-dir", str(Path(__file__).parents[1])]
    worker = ["-c", "import sys; from worker.main import app; app.worker_main(sys.argv[1:])", "worker"]
    worker += ["-c", "1", "--loglevel", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    stop_trainer = {"ALIGNCLIP_STOP_SECONDS": str(min(settings.stop_seconds, STOP_TRAINER_SECONDS))}
    return [
        Child("api", [sys.executable, "-m", *api], environment, logs["api"]),
        Child("worker", [sys.executable, *worker], {**environment, **stop_trainer}, logs["worker"]),
        Child("reaper", [sys.executable, "-m", "worker.reaper"], environment, logs["reaper"]),
    ]


def migrate_database(settings: Settings) -> None:
    """Bring the schema to this version. Raises `CliError` when the database does not answer or is a newer version's."""
    from sqlalchemy.exc import SQLAlchemyError  # imported here: half a second that no other command needs

    from alignclip_store.database import migrate
    from alignclip_store.errors import SchemaNewer

    try:
        migrate(settings)
    except SchemaNewer as error:
        raise CliError(error.message) from error
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise CliError(f"The database {_without_password(settings)} cannot be used: {reason}") from error


def wait_until_ready(url: str, edges: Sequence[Child], stop: StopRequest, on_tick: Callable[[], None]) -> bool:
    """True when /readyz says yes, False when told to stop. Raises `CliError` when a process ends before that."""
    deadline = time.monotonic() + READY_SECONDS
    with httpx2.Client(trust_env=False, timeout=2.0) as client, err.status("Starting API, worker and reaper ..."):
        while not stop.wait(TICK_SECONDS):
            on_tick()
            for child in edges:
                if (exit_code := child.exit_code()) is not None:
                    end = (
                        f"{child.name} ended while starting ({describe_exit(exit_code)}); the end of {child.log_file}:"
                    )
                    raise CliError(f"{end}\n{child.last_lines()}")
            reason = _not_ready(client, url)
            if reason is None:
                return True
            if time.monotonic() > deadline:
                raise CliError(f"The service is not ready after {READY_SECONDS:g} s: {reason}")
    return False


def announce(url: str, host: str, settings: Settings, new_key: str | None) -> None:
    """Say the key if it was made just now, and where the service is; the last line on stdout says that it is ready."""
    if new_key:
        out.print(f"API key, shown this once and stored in {settings.api_key_file}: {new_key}", markup=False)
    elif not settings.bootstrap_api_key:
        err.print(f"API key: in {settings.api_key_file}", markup=False)
    out.print(f"AlignCLIP is ready: {url}", markup=False)
    if host not in LOOPBACK:
        err.print(f"Listening on {host} without TLS; put a TLS proxy before it on a network you do not trust.")
    err.print(f"Logs: {settings.home_dir / 'logs'}. Stop: Ctrl-C.", markup=False)


def _start_valkey(
    stack: ExitStack, home: Path, socket_path: Path, environment: Mapping[str, str], log_file: Path
) -> Child:
    """The private Valkey, answering; the stack ends it."""
    child = valkey_child(home, socket_path, environment, log_file)
    stack.callback(end_all, [child], STOP_BROKER_SECONDS)
    child.start()
    wait_for_valkey(child, socket_path)
    return child


def _end(edges: Sequence[Child], seconds: float, stop: StopRequest) -> None:
    with err.status("Stopping; once more ends it at once ..."):
        for name in end_all(edges, seconds, stop.is_urgent):
            err.print(f"{name} did not end in time and was killed")


def _not_ready(client: httpx2.Client, url: str) -> str | None:
    """Why the service is not ready; None when it is."""
    try:
        response = client.get(f"{url}/readyz")
    except httpx2.HTTPError as error:
        return f"{type(error).__name__} at {url}/readyz"
    return None if response.is_success else f"{url}/readyz answers {response.status_code}: {response.text[:500]}"


def _reachable(host: str) -> str:
    """The address under which this machine reaches itself when it listens on `host`."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{address}]" if ":" in address else address


def _without_password(settings: Settings) -> str:
    from sqlalchemy.engine import make_url

    return make_url(settings.database_location).render_as_string(hide_password=True)


def _nothing() -> None:
    pass
