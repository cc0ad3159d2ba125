"""Images are decoded in processes that can be lost, and that reach nothing."""

import json
import signal
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from alignclip_core.confinement import landlock_version
from alignclip_core.decoders import Decoders
from alignclip_core.errors import ImageRejected
from alignclip_core.images import DEFAULT_LIMITS, ImageLimits, decode_image
from tests.core.test_pixels import encoded, photo, turned

PROBE = """
import json, mmap, socket, sys
from pathlib import Path
from alignclip_core.decode_process import _load_decoders, _shut_in
from alignclip_core.images import ImageLimits
file, folder, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
attempts = {
    "read a file": lambda: file.read_text(),
    "list a folder": lambda: list(folder.iterdir()),
    "write a file": lambda: (folder / "new").write_text("1"),
    "start a program": lambda: __import__("os").posix_spawn("/bin/true", ["true"], {}),
    "connect": lambda: socket.create_connection(("127.0.0.1", port)),
    "take much memory": lambda: mmap.mmap(-1, 4 * 2**30),
}
def possible():
    found = []
    for name, attempt in attempts.items():
        try:
            attempt()
            found.append(name)
        except (OSError, MemoryError):
            pass
    return found
before = possible()
_load_decoders()
_shut_in(ImageLimits(max_pixels=1_000_000))
print(json.dumps([before, possible()]))
"""


@pytest.fixture
def decoders():
    made = Decoders(DEFAULT_LIMITS)
    yield made
    made.close()


def process_of(decoders: Decoders) -> subprocess.Popen:
    """The one that is idle."""
    [decoder] = decoders._idle
    return decoder._process


@pytest.mark.parametrize(
    "content",
    [
        encoded(photo(97, 61), "JPEG", exif=turned()),
        encoded(photo(97, 61), "PNG"),
        encoded(photo(97, 61).convert("RGBA"), "WEBP", lossless=True),
        encoded(photo(97, 61), "GIF"),
        encoded(photo(97, 61), "BMP"),
        encoded(Image.new("I;16", (97, 61), 30_000), "PNG"),
    ],
    ids=["jpeg", "png", "webp", "gif", "bmp", "deep grey"],
)
def test_pixels_are_those_that_would_be_decoded_here(decoders, content):
    assert np.array_equal(decoders.pixels(content), np.asarray(decode_image(content)))
    assert decoders.image(content).tobytes() == decode_image(content).tobytes()


@pytest.mark.parametrize("content", [b"", b"nonsense", encoded(photo(200, 150), "JPEG")[:900]])
def test_what_is_refused_here_is_refused_there_in_the_same_words_and_by_a_process_that_goes_on(decoders, content):
    decoders.pixels(encoded(photo(9, 9), "PNG"))
    before = process_of(decoders).pid
    with pytest.raises(ImageRejected) as here:
        decode_image(content)
    with pytest.raises(ImageRejected) as there:
        decoders.pixels(content)
    assert there.value.message == here.value.message
    decoders.pixels(encoded(photo(9, 9), "PNG"))
    assert process_of(decoders).pid == before


def test_the_limits_are_those_of_the_service():
    decoders = Decoders(ImageLimits(max_pixels=100))
    with pytest.raises(ImageRejected, match="11 x 10"):
        decoders.pixels(encoded(photo(11, 10), "PNG"))
    assert decoders.pixels(encoded(photo(10, 10), "PNG")).shape == (10, 10, 3)
    decoders.close()


def test_an_image_of_all_pixels_that_are_allowed_is_decoded_in_the_memory_that_is():
    limits = ImageLimits(max_pixels=4_000_000)
    decoders = Decoders(limits)
    image = Image.new("RGBA", (2000, 2000), "red")
    assert decoders.pixels(encoded(image, "PNG", exif=turned())).shape == (2000, 2000, 3)
    progressive = photo(2000, 2000)
    assert decoders.pixels(encoded(progressive, "JPEG", progressive=True)).shape == (2000, 2000, 3)
    decoders.close()


def test_a_process_that_was_killed_costs_no_image(decoders):
    content = encoded(photo(30, 20), "PNG")
    decoders.pixels(content)
    killed = process_of(decoders)
    killed.kill()
    killed.wait()
    assert np.array_equal(decoders.pixels(content), np.asarray(decode_image(content)))
    assert process_of(decoders).pid != killed.pid


def test_threads_that_come_at_once_each_get_their_own_image(decoders):
    contents = [encoded(Image.new("RGB", (width, 3)), "PNG") for width in range(1, 5)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(decoders.pixels, contents * 100))
    assert [pixels.shape[1] for pixels in found] == [1, 2, 3, 4] * 100
    assert len(decoders._idle) <= 8


def script(tmp_path: Path, text: str) -> str:
    """A program that is started where a decoder should be; FD is its socket."""
    path = tmp_path / "decoder"
    path.write_text(f"#!{sys.executable}\nimport os, struct, sys\nFD = int(sys.argv[4])\n{textwrap.dedent(text)}")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        "os.abort()",  # as a decoder that writes where it must not
        "os.write(FD, struct.pack('=II', 2**31, 2**31))",  # as one in strange hands, which asks us for memory
        "os.write(FD, struct.pack('=II', 10, 10) + bytes(7))",  # as one that dies in its answer
    ],
    ids=["dies", "lies", "breaks off"],
)
def test_an_image_that_ends_its_process_is_refused_and_the_next_is_decoded(decoders, monkeypatch, tmp_path, text):
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", script(tmp_path, text))
        with pytest.raises(ImageRejected, match="ends the process"):
            decoders.pixels(encoded(photo(30, 20), "PNG"))
    assert decoders.pixels(encoded(photo(30, 20), "PNG")).shape == (20, 30, 3)


def test_a_process_reaches_no_file_no_network_and_little_memory(tmp_path):
    (tmp_path / "secret").write_text("1")
    (tmp_path / "folder").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        places = (tmp_path / "secret", tmp_path / "folder", listening.getsockname()[1])
        command = [sys.executable, "-c", PROBE, *map(str, places)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    before, after = json.loads(done.stdout)
    assert len(before) == 6
    forbidden = {"take much memory"}
    if landlock_version() >= 1:
        forbidden |= {"read a file", "list a folder", "write a file", "start a program"}
    if landlock_version() >= 4:
        forbidden.add("connect")
    assert set(after) == set(before) - forbidden


def test_it_is_told_no_secret(decoders, monkeypatch):
    monkeypatch.setenv("ALIGNCLIP_KEY_PEPPER", "a-secret-word")
    decoders.pixels(encoded(photo(9, 9), "PNG"))
    assert b"a-secret-word" not in Path(f"/proc/{process_of(decoders).pid}/environ").read_bytes()


def test_processes_end_with_the_service_even_when_it_is_killed():
    program = """
        import os, signal
        from alignclip_core.decoders import Decoders
        from alignclip_core.errors import ImageRejected
        from alignclip_core.images import DEFAULT_LIMITS
        decoders = Decoders(DEFAULT_LIMITS)
        try:
            decoders.pixels(b"no image")
        except ImageRejected:
            print(decoders._idle[0]._process.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=root)
    assert done.returncode == -signal.SIGKILL
    if psutil.pid_exists(int(done.stdout)):
        psutil.Process(int(done.stdout)).wait(60)  # raises where it lives on
