"""Temporary files of the API: gone with it, or when another one starts after it was killed."""

import signal
import subprocess
import sys
from pathlib import Path

from api.scratch import scratch_folder

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from api.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / ".report-1" / "dataset").mkdir(parents=True)
    (folder / ".report-1" / "dataset" / "cat.png").write_text("x")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_a_folder_is_its_own_and_gone_afterwards(tmp_path):
    with scratch_folder(tmp_path / "uploads") as one, scratch_folder(tmp_path / "uploads") as other:
        (one / "upload-1").touch()
        assert list(other.iterdir()) == []
    assert list((tmp_path / "uploads").iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_start_and_not_while_it_lives(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as holder:
        left = Path(holder.stdout.readline().strip()) / ".report-1" / "dataset" / "cat.png"
        with scratch_folder(tmp_path):
            assert left.exists()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert left.exists()
        with scratch_folder(tmp_path) as own:
            assert list(tmp_path.iterdir()) == [own]


def test_what_lies_about_is_swept_and_links_are_not_followed(tmp_path):
    elsewhere, parent = tmp_path / "elsewhere", tmp_path / "uploads"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    parent.mkdir()
    (parent / "upload-of-an-earlier-version").touch()
    (parent / "link").symlink_to(elsewhere)
    with scratch_folder(parent) as own:
        assert set(parent.iterdir()) == {own, parent / "link"}
    assert (elsewhere / "kept").exists()
