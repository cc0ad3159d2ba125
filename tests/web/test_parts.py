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
        "hyperparameters": options["hyperparameters"] | options["algorithms"]["clipood"] | asked,
    }
    body = page.evaluate(BODY, [job, options])
    assert body.items() >= asked.items()
    assert body.items() >= {"seed": 3, "templates": ["a {}."], "test_domains": ["noto"]}.items()
    assert body["class_names"] == {"cat": "a cat"}
    assert "margin" not in body  # clipood's own
