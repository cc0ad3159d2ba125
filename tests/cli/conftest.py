"""One real `alignclip serve` for all tests of the terminal, and the terminal itself."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageDraw

ALIGNCLIP = str(Path(sys.executable).with_name("alignclip"))
READY_SECONDS = 180


@dataclass
class Serve:
    """A running serve: its process, what it printed until it was ready, and the environment of its clients."""

    process: subprocess.Popen
    home: Path
    environment: dict
    url: str
    words: str


@pytest.fixture(scope="session")
def serve_environment():
    """A function: the environment of a serve in that home, quick to notice lost runs."""

    def environment(home, **more):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ALIGNCLIP_")}
        quick = {
            "ALIGNCLIP_LEASE_SECONDS": "6",
            "ALIGNCLIP_HEARTBEAT_SECONDS": "1",
            "ALIGNCLIP_WAKE_AGAIN_SECONDS": "2",
        }
        return kept | {"ALIGNCLIP_HOME": str(home), "OMP_NUM_THREADS": "1"} | quick | more

    return environment


@pytest.fixture(scope="session")
def start_serve(serve_environment, tmp_path_factory):
    """A function that starts `alignclip serve` and returns when it says that it is ready."""
    started = []
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "worker.py").write_text("raise SystemExit('a worker.py where serve was called was run')")
    (elsewhere / "api").mkdir()
    (elsewhere / "api" / "__init__.py").write_text("raise SystemExit('an api/ where serve was called was imported')")

    def start(home, *arguments, **more):
        environment = serve_environment(home, **more)
        process = subprocess.Popen(
            [ALIGNCLIP, "serve", "--port", "0", *arguments],
            env=environment,
            cwd=elsewhere,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        words = ""
        for line in process.stdout:
            words += line
            if line.startswith("AlignCLIP is ready: "):
                break
        else:
            logs = "\n".join(f"--- {log}\n{log.read_text()[-2000:]}" for log in home.glob("logs/*.log"))
            pytest.fail(f"serve ended with {process.wait()} before it was ready\n{words}\n{logs}")
        url = line.removeprefix("AlignCLIP is ready: ").strip()
        return Serve(process, home, environment | {"ALIGNCLIP_URL": url}, url, words)

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(120)
        process.stdout.close()


@pytest.fixture(scope="session")
def serve(start_serve, tmp_path_factory):
    """The serve that the tests share."""
    return start_serve(tmp_path_factory.mktemp("home"))


@pytest.fixture
def alignclip(serve):
    """A function that runs `alignclip ...` against the shared serve."""

    def run(*arguments, **more):
        return subprocess.run(
            [ALIGNCLIP, *map(str, arguments)],
            env=serve.environment | more,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )

    return run


@pytest.fixture(scope="session")
def processes_of():
    """A function: the living processes that were started for a home, whoever their parent is now."""

    def find(home):
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get("ALIGNCLIP_HOME") == str(home) or str(home) in " ".join(
                    process.cmdline()
                )
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    return find


@pytest.fixture(scope="session")
def wait_until():
    """A function that returns when a condition holds, and fails when it never does."""

    def wait(condition, seconds=150):
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"still not so after {seconds} s"
            time.sleep(0.1)
        return value

    return wait


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder domain/class/image: four shapes, drawn with ink and with light."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    shapes = {
        "circle": lambda draw, box, colour: draw.ellipse(box, fill=colour),
        "square": lambda draw, box, colour: draw.rectangle(box, fill=colour),
        "triangle": lambda draw, box, colour: draw.polygon([box[:2], box[2:], (box[0], box[3])], fill=colour),
        "bar": lambda draw, box, colour: draw.rectangle((box[0], 28, box[2], 36), fill=colour),
    }
    for domain, (paper, ink) in {"ink": ("white", "navy"), "light": ("black", "gold")}.items():
        for name, shape in shapes.items():
            (folder / domain / name).mkdir(parents=True)
            for number in range(6):
                image = Image.new("RGB", (64, 64), paper)
                shape(ImageDraw.Draw(image), (8 + number, 8, 56 - number, 56), ink)
                image.save(folder / domain / name / f"{number}.png")
    return folder
