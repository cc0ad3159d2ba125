"""Parts of the page on their own, in a real browser."""

import base64
import io
import random
import zipfile
from itertools import pairwise

import pytest

pytestmark = pytest.mark.page

ZIP = """async (files) => {
  const { zip } = await import("/web/lib/zip.js");
  const blob = await zip(files.map(([path, text]) => ({ path, file: new File([text], path) })));
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}"""
CLUSTER = """async (matrix) => (await import("/web/lib/cluster.js")).clusterOrder(matrix)"""
BODY = """async ([job, options]) => {
  const { formOf, jobBody } = await import("/web/lib/job_form.js");
  return jobBody(formOf(job, options));
}"""

GRID = """async (cells) => (await import("/web/lib/evaluation.js")).gridOf(cells)"""
EVALUATION = """async ([evaluation, options]) => {
  const { evaluationBody, evaluationFormOf } = await import("/web/lib/evaluation_form.js");
  return evaluationBody(evaluationFormOf(evaluation, options));
}"""


def test_a_folder_is_packed_into_a_zip_that_others_read(page):
    page.goto("/")
    files = {"pets/cat/1.txt": "meow", "pets/dög/2.txt": "wau" * 1000, "pets/empty.txt": ""}
    content = page.evaluate(ZIP, [list(pair) for pair in files.items()])
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(content))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name).decode() for name in archive.namelist()} == files


def test_similar_classes_stand_together(page):
    page.goto("/")
    families = [row % 5 for row in range(40)]
    random.Random(0).shuffle(families)
    noise = random.Random(1)
    matrix = [[1.0 if a == b else 0.0 for b in range(40)] for a in range(40)]
    for a in range(40):
        for b in range(a):
            matrix[a][b] = matrix[b][a] = (0.8 if families[a] == families[b] else 0.2) + noise.uniform(0, 0.1)
    order = page.evaluate(CLUSTER, matrix)
    assert sorted(order) == list(range(40))
    changes = sum(families[a] != families[b] for a, b in pairwise(order))
    assert changes == 4  # five families, each in one piece
    assert page.evaluate(CLUSTER, [[1]]) == [0]
    assert sorted(page.evaluate(CLUSTER, [[1, 1, 1]] * 3)) == [0, 1, 2]


def test_a_cloned_job_asks_for_what_the_first_one_asked_for(page, service):
    page.goto("/")
    options = service.http.get("/v1/fine_tuning/options").json()
    asked = {"smoothing": 0.25, "layer_alignment_weight": 2, "crop_scale": [0.5, 1.0], "num_steps": 70}
    job = {
        "training_file": "file-1",
        "model": "starter",
        "algorithm": "clipood",
        "preset": "paper",
        "suffix": None,
        "seed": 3,
        "templates": ["a {}."],
        "test_domains": ["noto"],
        "unseen_classes": [],
        "class_names": {"cat": "a cat"},
        "test_datasets": [{"name": "odd", "dataset": "file-2", "class_names": {"fox": "red fox|fox"}}],
        "hyperparameters": options["hyperparameters"] | options["algorithms"]["clipood"] | asked,
    }
    body = page.evaluate(BODY, [job, options])
    assert body.items() >= asked.items()
    assert body.items() >= {"seed": 3, "templates": ["a {}."], "test_domains": ["noto"]}.items()
    assert {name: body[name] for name in ("class_names", "test_datasets")} == {
        name: job[name] for name in ("class_names", "test_datasets")
    }
    assert "margin" not in body  # clipood's own


def cell(method, target, seed, accuracy):
    return {"method": method, "target": target, "seed": seed, "accuracy": accuracy, "zero_shot": 0.5, "job_id": "j"}


def test_a_grid_has_means_over_seeds_and_sums_them_up_once_all_targets_have_come(page):
    page.goto("/")
    cells = [
        cell("plain", "photo", 0, 0.6),
        cell("plain", "photo", 1, 0.8),
        cell("plain", "sketch", 0, 0.4),
        cell("plain", "sketch", 1, None),
        cell("other", "photo", 0, None),
        cell("other", "sketch", 0, 0.9),
    ]
    grid = page.evaluate(GRID, [one | {"zero_shot": one["accuracy"] and 0.5} for one in cells])
    assert grid["targets"] == ["photo", "sketch", "average"]
    plain, other = ([figure["accuracy"] for figure in row["figures"]] for row in grid["rows"])
    assert plain == pytest.approx([0.7, 0.4, 0.55])
    assert other == [None, 0.9, None]
    photo, sketch, average = grid["rows"][0]["figures"]
    assert photo["deviation"] == pytest.approx(0.1 * 2**0.5)
    assert (sketch["deviation"], sketch["numDone"], sketch["num"], average["before"]) == (None, 1, 2, 0.5)
    assert page.evaluate(GRID, cells[:2])["targets"] == ["photo"]
    classes = page.evaluate(GRID, [cell("plain", "base", 0, 0.9), cell("plain", "new", 0, 0.3)])
    assert classes["targets"] == ["base", "new", "H"]
    assert classes["rows"][0]["figures"][2]["accuracy"] == pytest.approx(2 * 0.9 * 0.3 / 1.2)


def test_an_evaluation_that_is_asked_again_asks_the_same(page, service):
    page.goto("/")
    options = service.http.get("/v1/fine_tuning/options").json()
    methods = ("finetune", "alignclip@authors_code", "coop:bma_beta=0.1")
    evaluation = {
        "dataset": "file-1",
        "protocol": "dataset_shift",
        "test_datasets": [
            {"name": "sketches", "dataset": "file-2", "class_names": None},
            {"name": "odd", "dataset": "/srv/odd", "class_names": {"fox": "red fox|fox"}},
        ],
        "num_shots": 4,
        "model": "starter",
        "name": "again",
    }
    cells = [
        cell(method, "photo", seed, None) | {"job_id": f"{method} {seed}"} for method in methods for seed in (0, 3)
    ]
    body = page.evaluate(EVALUATION, [evaluation | {"cells": cells}, options])
    plain = {"name": "sketches", "dataset": "file-2"}  # no words of its own
    assert body.items() >= (evaluation | {"test_datasets": [plain, evaluation["test_datasets"][1]]}).items()
    assert (body["methods"], body["seeds"], body["hyperparameters"]) == (list(methods), [0, 3], {})
