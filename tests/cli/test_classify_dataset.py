"""classify-dataset against a running service with its worker: the starter answers for a folder of drawn shapes."""

import json
import re
import shutil
import subprocess

import pytest

SHAPES = ("bar", "circle", "square", "triangle")
LABELS = ("--model", "starter", "--labels", ",".join(SHAPES))


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory):
    """Class folders of one domain, with a file that is no picture."""
    folder = tmp_path_factory.mktemp("asked") / "shapes"
    shutil.copytree(pictures / "ink", folder)
    (folder / "circle" / "broken.png").write_bytes(b"no picture")
    return folder


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def classified(serve, folder, tmp_path_factory):
    """What the command showed, and the file of answers that it saved."""
    output = tmp_path_factory.mktemp("answers") / "new" / "answers.jsonl"
    arguments = ["classify-dataset", str(folder), *LABELS, "--top-k", "2", "--output", str(output)]
    command = [*serve.process.args[:1], *arguments]
    done = subprocess.run(command, env=serve.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done, output


def test_every_image_of_a_folder_is_answered_and_the_answers_are_saved(classified, folder):
    done, output = classified
    lines = lines_of(output)
    assert [line["path"] for line in lines] == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.png")
    )
    assert [line["path"] for line in lines if "error" in line] == ["circle/broken.png"]
    answered = [line for line in lines if "error" not in line]
    assert all(len(line["predictions"]) == 2 for line in answered)
    right = sum(line["predictions"][0]["label"] == line["label"] for line in answered)
    last = " ".join(done.stdout.splitlines()[-1].split())
    assert last.startswith(f"25 images, 1 of them not readable, accuracy {right / 24:.1%} of 24: "), last
    assert re.search(r"(bar|circle|square|triangle) +\d+", done.stdout)
    assert list(output.parent.iterdir()) == [output]


def test_the_answers_can_be_fetched_again_by_its_id(alignclip, classified, tmp_path):
    done, output = classified
    again = alignclip("classify-dataset", done.stdout.splitlines()[0], "--output", tmp_path / "again.jsonl")
    assert again.returncode == 0, again.stderr
    assert lines_of(tmp_path / "again.jsonl") == lines_of(output)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("folder",), "--model"),
        (("folder", "--model", "starter"), "no classes of its own"),
        (("nowhere", "--model", "starter"), "no folder or file 'nowhere'"),
        (("classify-none",), "No job 'classify-none'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(alignclip, folder, arguments, words):
    given = [folder if argument == "folder" else argument for argument in arguments]
    refused = alignclip("classify-dataset", *given)
    assert refused.returncode == 1
    assert words in refused.stderr
    assert refused.stderr.strip().splitlines()[-1].startswith("alignclip: ")


def test_cancel_and_retry_take_its_id(alignclip):
    for command in ("cancel", "retry"):
        refused = alignclip(command, "classify-none")
        assert (refused.returncode, "No job 'classify-none'" in refused.stderr) == (1, True)
