"""make bench-serving: classify requests a second, and how long they take, of our service and of what stands beside it.

Real servers in processes of their own, clients in another, JPEG uploads of 500x375 over HTTP, one server after the
other in one run. ViT-B/32 with random weights, and the starter. `naive` is what a first version would do: torch in
fp32, a forward pass for each request; `unbatched` is our endpoint in its fastest mode, still with a pass for each.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from alignclip_core.base_models import STARTER_FOLDER, read_card
from alignclip_core.export.exporting import export_model
from alignclip_core.finished_model import load_base_model
from alignclip_store.database import migrate
from alignclip_store.settings import Settings
from benchmarks.input_pipeline import photos
from benchmarks.load import FORM, Load, Measured, form_of, measure_load_in_own_process
from benchmarks.rows import Row, machine
from benchmarks.serving_model import (
    ARCHITECTURE,
    LABELS,
    MODEL,
    BareModel,
    base_model,
    load_classifier,
    make_base_model,
)

CLIENTS = (1, 8, 32)
NUM_PICTURES = 16
WARM_UP_SECONDS = 2.0
SECONDS = 10.0
START_SECONDS = 300.0  # a cold disk reads torch slowly
KEY = "benchmark"


@dataclass(frozen=True, kw_only=True)
class Server:
    """What is started, and where it is asked; `{port}` stands for a free one."""

    name: str
    command: Sequence[str]
    path: str = "/classify"
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bare:
    """What the model does without a server, in the same mode."""

    forward: float  # images a second
    decoded: float  # images a second, from JPEG
    one_image_milliseconds: float  # from JPEG


Cells = Mapping[tuple[str, int], Measured]  # server and number of clients


def measure(seconds: float = SECONDS, warm_up_seconds: float = WARM_UP_SECONDS) -> list[Row]:
    """Each server under each number of clients, our own between two looks at the bare model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        servers = _servers(folder)
        pictures = _write_pictures(folder)
        models = {
            "service": load_classifier(base_model(folder / "models"), precision="auto"),
            "service_fp32": load_classifier(base_model(folder / "models"), precision="fp32"),
            "starter": load_classifier(read_card(STARTER_FOLDER, "starter"), precision="auto"),
        }
        contents = [Path(picture).read_bytes() for picture in pictures]
        bare_models = {server: BareModel(model, contents) for server, model in models.items()}
        cells: dict[tuple[str, int], Measured] = {}
        bare: dict[str, Bare] = {}
        for server in servers:
            model = bare_models.get(server.name)
            before = _look_at(model, seconds / 4) if model else None
            with _started(server, contents[0]) as url:
                for num_clients in CLIENTS:
                    load = Load(
                        url=url,
                        headers={"Authorization": f"Bearer {KEY}"},
                        pictures=pictures,
                        labels=LABELS,
                        num_clients=num_clients,
                        warm_up_seconds=warm_up_seconds,
                        seconds=seconds,
                    )
                    cells[server.name, num_clients] = measure_load_in_own_process(load)
            if model and before:
                bare[server.name] = _mean(before, _look_at(model, seconds / 4))
        modes = {server: f"{model.tower.runtime} {model.tower.precision}" for server, model in models.items()}
    return make_rows(cells, bare, modes)


def make_rows(cells: Cells, bare: Mapping[str, Bare], modes: Mapping[str, str]) -> list[Row]:
    """The ratios, then every cell."""
    detail = f"{ARCHITECTURE}, random weights, service in {modes['service']}, JPEG 500x375, {len(LABELS)} labels; "
    detail += machine()
    rows = []
    for server, (own, about) in {
        "": ("service", detail),
        "_fp32": ("service_fp32", detail.replace(modes["service"], modes["service_fp32"])),
        "_starter": ("starter", f"the starter in {modes['starter']}; {machine()}"),
    }.items():
        served, alone = cells[own, 32].requests_per_second, bare[own]
        shares = (
            ("share_of_bare_throughput", alone.forward, "forward passes alone, pixels decoded beforehand"),
            ("share_of_decode_and_forward", alone.decoded, "decode and forward pass without a server"),
        )
        for name, without_server, meaning in shares:
            told = f"{served:.1f} of {without_server:.1f} images/s, {meaning}; {about}"
            rows.append(Row(f"serving_{name}_32_clients{server}", served / without_server, "ratio", told))
        for num_clients in (8, 32):
            cell = cells[own, num_clients]
            told = f"{cell.p99_milliseconds:.0f} over {cell.p50_milliseconds:.0f} ms; {about}"
            ratio = cell.p99_milliseconds / cell.p50_milliseconds
            rows.append(Row(f"serving_p99_over_p50_{num_clients}_clients{server}", ratio, "ratio", told))
        one = cells[own, 1].p50_milliseconds
        told = f"{one:.1f} ms over decode and forward pass in {alone.one_image_milliseconds:.1f} ms, medians; {about}"
        rows.append(
            Row(f"serving_one_client_extra_milliseconds{server}", one - alone.one_image_milliseconds, "ms", told)
        )
    for name, rival in (
        ("unbatched", "unbatched"),
        ("naive", "naive"),
        ("transformers_pipeline", "transformers"),
        ("litserve", "litserve"),
    ):
        for num_clients in CLIENTS:
            ours, theirs = (cells[server, num_clients].requests_per_second for server in ("service", rival))
            told = f"{ours:.1f} over {theirs:.1f} requests/s; {detail}"
            rows.append(Row(f"serving_over_{name}_{num_clients}_clients", ours / theirs, "ratio", told))
    for (server, num_clients), cell in cells.items():
        told = f"{cell.num_requests} requests; {machine()}"
        for name, value, unit in (
            ("requests_per_second", cell.requests_per_second, "requests/s"),
            ("p50_milliseconds", cell.p50_milliseconds, "ms"),
            ("p99_milliseconds", cell.p99_milliseconds, "ms"),
        ):
            rows.append(Row(f"serving_{server}_{num_clients}_clients_{name}", value, unit, told))
    return rows


def _servers(folder: Path) -> list[Server]:
    models_dir = folder / "models"
    make_base_model(models_dir)
    migrate(Settings(home=folder / "home"))
    exported = export_model(load_base_model(base_model(models_dir)), "huggingface", folder / "exported")
    rivals = [sys.executable, "-m", "benchmarks.rival_servers"]
    return [
        _service(folder, "service"),
        _service(folder, "service_fp32", serving_precision="fp32"),
        _service(folder, "starter", model="starter"),
        _service(folder, "unbatched", max_batch_images="1"),
        _service(folder, "naive", max_batch_images="1", serving_runtime="torch", serving_precision="fp32"),
        Server(name="transformers", command=[*rivals, "transformers", str(exported), "{port}"]),
        Server(name="litserve", command=[*rivals, "litserve", str(models_dir), "{port}"]),
    ]


def _service(folder: Path, name: str, model: str = MODEL, **settings: str) -> Server:
    """Our API on these settings."""
    settings |= {
        "home": str(folder / "home"),
        "models_dir": str(folder / "models"),
        "bootstrap_api_key": KEY,
        "broker_url": f"redis+socket://{folder}/nobody.sock",  # nothing is queued
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "api.main:create_app_from_environment"]
    return Server(
        name=name,
        command=[*command, "--no-access-log", "--port", "{port}"],
        path=f"/v1/models/{model}/classify",
        environment={f"ALIGNCLIP_{key.upper()}": value for key, value in settings.items()},
    )


@contextmanager
def _started(server: Server, picture: bytes) -> Iterator[str]:
    """The URL to ask, once the server has answered; it ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALIGNCLIP_")}
    process = subprocess.Popen(
        [part.format(port=port) for part in server.command],
        env=kept | {"HF_HUB_OFFLINE": "1"} | server.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # LitServe starts processes of its own, which end with it
    )
    try:
        _wait_for(server, port, picture, process)
        yield f"http://127.0.0.1:{port}{server.path}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(server: Server, port: int, picture: bytes, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    headers = {"Content-Type": FORM, "Authorization": f"Bearer {KEY}"}
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
        try:
            connection.request("POST", server.path, form_of(picture, LABELS), headers)
            response = connection.getresponse()
            if response.status == 200:
                return
            if response.status < 500:
                raise RuntimeError(f"{server.name} answers {response.status}: {response.read()[:500]!r}")
        except OSError:
            pass  # not there yet
        finally:
            connection.close()
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{server.name} gives no answer; its exit code is {process.poll()}.")
        time.sleep(0.2)


def _look_at(model: BareModel, seconds: float) -> Bare:
    return Bare(
        forward=model.forward_images_per_second(seconds),
        decoded=model.decoded_images_per_second(seconds),
        one_image_milliseconds=model.one_image_milliseconds(seconds / 2),
    )


def _mean(before: Bare, after: Bare) -> Bare:
    return Bare(
        forward=(before.forward + after.forward) / 2,
        decoded=(before.decoded + after.decoded) / 2,
        one_image_milliseconds=(before.one_image_milliseconds + after.one_image_milliseconds) / 2,
    )


def _write_pictures(folder: Path) -> list[str]:
    paths = [folder / f"{number}.jpg" for number in range(NUM_PICTURES)]
    for path, content in zip(paths, photos(NUM_PICTURES), strict=True):
        path.write_bytes(content)
    return [str(path) for path in paths]
