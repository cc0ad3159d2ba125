"""One home, one serve; and its private Valkey, wherever the home is."""

import os
import subprocess
import sys

import pytest

from cli.broker import answers, fits, valkey_child, valkey_socket, wait_for_valkey
from cli.errors import CliError
from cli.home import locked_home, record_serve, running_serve
from cli.processes import end_all


def test_home_is_held_by_one_process(tmp_path):
    with locked_home(tmp_path):
        record_serve(tmp_path, "http://127.0.0.1:1234", None)
        code = (
            "import sys, pathlib; from cli.home import locked_home; locked_home(pathlib.Path(sys.argv[1])).__enter__()"
        )
        other = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
        assert other.returncode != 0
        assert f"Process {os.getpid()} serves from {tmp_path} at http://127.0.0.1:1234" in other.stderr
    with locked_home(tmp_path):
        assert running_serve(tmp_path) is None


def test_words_of_a_killed_serve_are_not_believed(tmp_path):
    with subprocess.Popen(["true"]) as dead:
        pass
    (tmp_path / "serve.lock").write_text(f'{{"pid": {dead.pid}, "url": "http://gone", "valkey_socket": null}}')
    assert running_serve(tmp_path) is None


def test_socket_stands_in_the_home_where_it_fits(tmp_path):
    with valkey_socket(tmp_path) as path:
        assert path == tmp_path / "valkey.sock"


def test_valkey_answers_from_a_home_with_a_long_path(tmp_path):
    home = tmp_path / ("long" * 30)
    home.mkdir()
    assert not fits(home / "valkey.sock")
    log = tmp_path / "valkey.log"
    log.touch()
    with valkey_socket(home) as path:
        child = valkey_child(home, path, dict(os.environ), log)
        child.start()
        try:
            wait_for_valkey(child, path)
            assert answers(path)
            assert path.parent.stat().st_mode & 0o077 == 0
        finally:
            assert end_all([child], 10) == []
        assert list((home / "valkey").glob("appendonlydir/*"))
    assert not path.parent.exists()


def test_valkey_that_cannot_start_says_why(tmp_path):
    log = tmp_path / "valkey.log"
    log.touch()
    child = valkey_child(tmp_path, tmp_path / "no such folder" / "valkey.sock", dict(os.environ), log)
    child.start()
    with pytest.raises(CliError, match=r"did not start[\s\S]*Failed opening Unix socket"):
        wait_for_valkey(child, tmp_path / "no such folder" / "valkey.sock")
