"""submit, watch, jobs, cancel, classify and models against a running service, as a user types them."""

import csv
import http.server
import json
import subprocess
import threading
import zipfile

import httpx2
import pytest

from cli.submit import parse_assignments

QUICK = ("--steps", "4", "--set", "global_batch_size=6", "--set", "evaluate_every_steps=2")


@pytest.fixture(scope="module")
def finished(serve, pictures):
    """A job that `submit --wait` saw to its end, and what it showed."""
    arguments = [
        "submit",
        str(pictures),
        *QUICK,
        "--test-domain",
        "light",
        "--unseen",
        "triangle,bar",
        "--suffix",
        "shapes",
    ]
    done = subprocess.run(
        [*serve.process.args[:1], *arguments, "--set", "validation_fraction=0.34", "--wait"],
        env=serve.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def job_id(finished):
    return finished.stdout.splitlines()[0]


@pytest.fixture(scope="module")
def model_id(finished):
    return finished.stdout.splitlines()[-1].removeprefix("Model: ")


def test_submitted_folder_is_watched_to_its_result(finished, job_id, model_id):
    assert job_id.startswith("ftjob-")
    assert model_id.startswith("ft:starter:")
    assert "shapes" in model_id
    rows = [line.split() for line in finished.stdout.splitlines() if line.startswith(("trained ", "test "))]
    groups = {(row[0], row[1]) for row in rows}
    assert groups == {(domains, classes) for domains in ("trained", "test") for classes in ("trained", "unseen", "all")}
    assert "training" in finished.stderr
    assert "validation accuracy" in finished.stderr
    assert "loss" in finished.stderr


def test_ended_job_is_watched_again(alignclip, job_id, model_id):
    watched = alignclip("watch", job_id)
    assert watched.returncode == 0
    assert f"Model: {model_id}" in watched.stdout


@pytest.fixture
def start_proxy(serve):
    """Starts a proxy before the service that cuts its streams after some messages, or passes none; notes where they
    began."""
    started = []

    def start(num_messages):
        begun = []

        class Proxy(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                is_stream = self.path.endswith("/stream")
                if is_stream and num_messages == 0:
                    self.send_error(404)
                    return
                if is_stream:
                    begun.append(self.headers["Last-Event-ID"])
                headers = {
                    name: self.headers[name] for name in ("Authorization", "Last-Event-ID") if self.headers[name]
                }
                with httpx2.stream(
                    "GET", serve.url + self.path, headers=headers, trust_env=False, timeout=60
                ) as answer:
                    self.send_response(answer.status_code)
                    self.send_header("Content-Type", answer.headers["content-type"])
                    self.end_headers()
                    left = num_messages
                    for line in answer.iter_lines():
                        self.wfile.write(f"{line}\n".encode())
                        left -= is_stream and line == ""
                        if is_stream and left == 0:
                            return

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return f"http://127.0.0.1:{server.server_port}", begun

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("num_messages", [6, 0])
def test_a_stream_that_breaks_is_taken_up_where_it_broke_and_one_that_never_comes_is_done_without(
    alignclip, start_proxy, job_id, model_id, num_messages
):
    url, begun = start_proxy(num_messages)
    watched = alignclip("watch", job_id, ALIGNCLIP_URL=url)
    whole = alignclip("watch", job_id)
    assert watched.returncode == 0, watched.stderr
    assert f"Model: {model_id}" in watched.stdout
    told = [line for line in watched.stderr.splitlines() if "step 3:" not in line]
    assert sorted(told) == sorted(line for line in whole.stderr.splitlines() if "step 3:" not in line)
    assert len(begun) == len(set(begun)), "each from behind the last message"
    assert (len(begun) > 1) == (num_messages > 0)


def test_jobs_are_listed_newest_first(alignclip, job_id, model_id):
    listed = alignclip("jobs", "--limit", 100)
    assert listed.returncode == 0
    (row,) = (line for line in listed.stdout.splitlines() if line.startswith(job_id))
    assert "succeeded" in row
    assert "4/4" in row
    assert model_id in row


def test_tuned_model_is_mixed_with_its_base(alignclip, model_id):
    mixed = alignclip("interpolate", model_id, "--alpha", "0.5")
    assert mixed.returncode == 0, mixed.stderr
    assert mixed.stdout.replace("\n", "") == f"Model: {model_id}:alpha-0.5"


def test_models_are_listed_with_the_base_and_the_tuned(alignclip, model_id):
    listed = alignclip("models")
    assert listed.returncode == 0
    first_words = [line.split()[0] for line in listed.stdout.splitlines()[1:]]
    assert "starter" in first_words
    assert model_id in first_words


def test_folder_is_classified_with_a_tuned_model_into_a_csv(alignclip, model_id, pictures, tmp_path):
    folder = tmp_path / "=cmd"
    folder.mkdir()
    for source in sorted((pictures / "light").glob("*/*.png")):
        (folder / f"{source.parent.name}-{source.name}").write_bytes(source.read_bytes())
    table = tmp_path / "out.csv"
    done = alignclip("classify", model_id, folder, "--top-k", 2, "--csv", table)
    assert done.returncode == 0, done.stderr
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "label_1", "score_1", "label_2", "score_2"]
    assert [row["file"] for row in rows] == sorted(str(path) for path in folder.iterdir())
    assert {row["label_1"] for row in rows} <= {"bar", "circle", "square", "triangle"}
    assert all(float(row["score_1"]) >= float(row["score_2"]) > 0 for row in rows)


def test_labels_of_any_kind_are_safe_in_the_csv(alignclip, pictures, tmp_path):
    image = pictures / "ink" / "circle" / "0.png"
    table = tmp_path / "out.csv"
    done = alignclip("classify", "starter", image, "--labels", "=1+1,@home", "--top-k", 2, "--csv", table)
    assert done.returncode == 0, done.stderr
    with table.open(newline="") as file:
        _, row = csv.reader(file)
    assert {row[1], row[3]} == {"'=1+1", "'@home"}


def test_image_that_cannot_be_read_is_named_and_the_others_are_classified(alignclip, pictures, tmp_path):
    (tmp_path / "good.png").write_bytes((pictures / "ink" / "square" / "0.png").read_bytes())
    (tmp_path / "bad.png").write_bytes(b"no image")
    done = alignclip("classify", "starter", tmp_path, "--labels", "a square", "--labels", "a dog")
    assert done.returncode == 1
    assert str(tmp_path / "good.png") in done.stdout
    assert str(tmp_path / "bad.png") not in done.stdout
    assert str(tmp_path / "bad.png") in done.stderr
    assert "1 of 2 images" in done.stderr


def test_zip_is_submitted_and_its_job_cancelled_and_watch_says_so(alignclip, pictures, tmp_path, wait_until):
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for path in pictures.glob("*/*/*.png"):
            target.write(path, path.relative_to(pictures))
    submitted = alignclip("submit", archive, "--steps", 100000, "--set", "global_batch_size=6")
    assert submitted.returncode == 0, submitted.stderr
    job_id = submitted.stdout.strip()
    cancelled = alignclip("cancel", job_id)
    assert cancelled.returncode == 0
    watched = alignclip("watch", job_id)
    assert watched.returncode == 2
    assert "was cancelled" in watched.stdout
    refused = alignclip("cancel", job_id)
    assert refused.returncode == 0  # it is what was wished

    assert "is queued again" in alignclip("retry", job_id).stdout
    assert f"alignclip resume {job_id}" in alignclip("pause", job_id).stdout.replace("\n", " ")
    wait_until(lambda: "paused" in alignclip("jobs").stdout)
    assert "is queued" in alignclip("resume", job_id).stdout
    refused = alignclip("retry", job_id)
    assert refused.returncode == 1
    assert refused.stderr.startswith("alignclip: ")
    assert alignclip("cancel", job_id).returncode == 0


def test_bad_folder_is_refused_before_it_is_sent(alignclip, tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"")
    refused = alignclip("submit", tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("alignclip: The dataset has one class only")
    assert "Uploading" not in refused.stderr


def test_refused_job_names_the_field_and_keeps_the_upload(alignclip, pictures):
    refused = alignclip("submit", pictures, "--set", "smothing=0.2")
    assert refused.returncode == 1
    assert "smothing" in refused.stderr
    assert "did you mean 'smoothing'" in refused.stderr
    file_id = refused.stderr.split("kept as ")[1].split(":")[0]
    again = alignclip("submit", file_id, "--unseen", "hexagon")
    assert again.returncode == 1
    assert "hexagon" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("watch", "ftjob-none"), "ftjob-none"),
        (("cancel", "ftjob-none"), "ftjob-none"),
        (("submit", "no/such/folder"), "no/such/folder"),
        (("submit", "file-none"), "file-none"),
        (("submit", "/etc", "--by-reference"), "training_file"),
        (("models", "pull", "vit-b-17-openai"), "vit-b-16-openai"),
    ],
)
def test_wrong_names_are_refused_in_one_line(alignclip, arguments, words):
    refused = alignclip(*arguments)
    assert refused.returncode == 1
    assert words in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_wrong_key_says_which_variable_holds_it(alignclip):
    refused = alignclip("jobs", ALIGNCLIP_API_KEY="acl-wrong")
    assert refused.returncode == 1
    assert "ALIGNCLIP_API_KEY" in refused.stderr


def test_starter_needs_no_pull(alignclip):
    done = alignclip("models", "pull", "starter")
    assert done.returncode == 0
    assert "on this machine" in done.stdout


def test_model_that_no_hub_gives_is_refused_with_what_would_do(alignclip, tmp_path):
    nowhere = "http://127.0.0.1:1"
    offline = {"HF_ENDPOINT": nowhere, "HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere, "HF_HOME": str(tmp_path)}
    offline |= {
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(tmp_path),
        "ALIGNCLIP_MODELS_DIR": str(tmp_path / "models"),
    }
    refused = alignclip("models", "pull", "vit-b-32-openai", **offline)
    assert refused.returncode == 1
    assert "A model hub has to be reachable" in refused.stderr
    assert str(tmp_path / "models" / "vit-b-32-openai") in refused.stderr
    assert list((tmp_path / "models").iterdir()) == []


def test_values_of_set_are_json_or_text():
    given = parse_assignments(["smoothing=0.2", "skip_bad_images=true", "preset=paper", 'metadata={"a": "b=c"}'])
    assert given == {
        "smoothing": 0.2,
        "skip_bad_images": True,
        "preset": "paper",
        "metadata": json.loads('{"a": "b=c"}'),
    }
