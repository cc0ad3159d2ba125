"""Creating jobs through the official client: what becomes of a request, and what is refused with field and reason."""

import hashlib
import json
import threading

import pytest
import timm
from openai import BadRequestError

from alignclip_core.encoder.plain_resnet import AS_TORCHVISION, write_folder
from alignclip_core.run_dir import ClassSimilarity
from alignclip_store.database import reading
from alignclip_store.jobs import get_job
from alignclip_store.similarities import get_similarity

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def refused(create_job):
    """The error of a job that cannot be; a job that comes into being fails the test."""

    def create(**fields):
        with pytest.raises(BadRequestError) as caught:
            create_job(**fields)
        return caught.value

    return create


@pytest.fixture
def config_of(service):
    """The config that a job's trainer gets."""

    def read(job_id):
        with reading(service.engine) as session:
            return get_job(session, "default", job_id).config

    return read


def test_job_has_all_that_the_client_declares_and_ours_beside(create_job, file_id):
    job = create_job(suffix="pets", metadata={"team": "zoo"})
    assert (job.object, job.status, job.model, job.training_file) == ("fine_tuning.job", "queued", "tiny", file_id)
    assert (job.organization_id, job.result_files, job.seed, job.metadata) == ("default", [], 0, {"team": "zoo"})
    empty = (job.error, job.fine_tuned_model, job.finished_at, job.trained_tokens, job.validation_file)
    assert empty == (None,) * 5
    assert job.method.type == "supervised"
    assert (job.algorithm, job.preset, job.phase, job.progress) == (
        "alignclip",
        "paper",
        "queued",
        {"step": 0, "num_steps": 8},
    )
    assert job.class_names == {"cat": "cat", "dog": "dog", "red_panda": "red_panda"}
    assert job.links["metrics"] == f"{JOBS}/{job.id}/metrics"


def test_job_is_taken_while_no_broker_is_there(service, create_job):
    assert service.http.get("/readyz").json()["broker"] == "unreachable"
    assert create_job().status == "queued"


def test_hyperparameters_may_come_in_the_clients_method(create_job, config_of):
    given = {
        "batch_size": 4,
        "learning_rate_multiplier": 2.0,
        "n_epochs": 3,
        "smoothing": 0.2,
        "preset": "authors_code",
    }
    job = create_job(method={"type": "supervised", "supervised": {"hyperparameters": given}}, extra_body={})
    config = config_of(job.id)
    assert (config["global_batch_size"], config["smoothing"], config["preset"]) == (4, 0.2, "authors_code")
    assert config["learning_rate"] == pytest.approx(2 * 5e-6)
    assert config["similarity_scale"] == 35.0  # of the preset
    # Of 5 images a class 1 is held out: 12 train in batches of 4.
    assert job.progress == {"step": 0, "num_steps": 9}
    shown = job.hyperparameters
    assert (shown.batch_size, shown.learning_rate_multiplier, shown.n_epochs, shown.smoothing) == (4, 2.0, 3, 0.2)


def test_hyperparameters_may_come_in_the_older_field_or_flat(create_job, config_of):
    older = create_job(hyperparameters={"n_epochs": 2, "batch_size": 6}, extra_body={"margin": 0.1})
    assert (config_of(older.id)["num_steps"], config_of(older.id)["margin"]) == (4, 0.1)
    flat = create_job(
        extra_body={"num_steps": 5, "global_batch_size": 7, "unseen_classes": ["dog"], "crop_scale": [0.5, 1]}
    )
    config = config_of(flat.id)
    assert (config["num_steps"], config["global_batch_size"], config["crop_scale"]) == (5, 7, [0.5, 1])
    assert flat.unseen_classes == ["dog"]


def test_a_number_is_whole_by_its_value(create_job, config_of):
    job = create_job(extra_body={"seed": 2.0, "num_steps": 8.0, "crop_scale": [0.5, 1]})
    config = config_of(job.id)
    assert (config["seed"], config["num_steps"], config["crop_scale"]) == (2, 8, [0.5, 1.0])


def test_auto_is_as_good_as_unset(create_job, config_of):
    auto = {"batch_size": "auto", "learning_rate_multiplier": "auto", "n_epochs": "auto", "margin": "auto"}
    job = create_job(method={"type": "supervised", "supervised": {"hyperparameters": auto}}, extra_body={})
    config = config_of(job.id)
    assert (config["num_steps"], config["global_batch_size"], config["learning_rate"]) == (5000, 36, 5e-6)
    assert (job.hyperparameters.n_epochs, job.hyperparameters.learning_rate_multiplier) == ("auto", "auto")


def test_dataset_reference_below_a_root_trains_like_a_file(create_job, dataset_root):
    job = create_job(training_file=str(dataset_root / "pets"))
    assert sorted(job.class_names) == ["cat", "dog", "red_panda"]


def test_domains_validation_set_and_names_reach_the_config(create_job, config_of, service, domain_archive, archive):
    names = {"red_panda": "lesser panda"}
    job = create_job(
        training_file=service.upload(domain_archive),
        extra_body={
            "num_steps": 2,
            "test_domains": ["sketch"],
            "class_names": names,
            "templates": "pets",
            "skip_bad_images": True,
        },
        seed=7,
    )
    config = config_of(job.id)
    assert config["class_names"] == {"cat": "cat", "dog": "dog", "red_panda": "lesser panda"}
    assert (config["test_domains"], config["templates"]) == (["sketch"], ["a photo of a {}, a type of pet."])
    assert (config["seed"], job.seed, config["skip_bad_images"]) == (7, 7, True)
    assert create_job(validation_file=service.upload(archive)).validation_file.startswith("file-")


def test_matrix_of_the_job_is_stored_before_the_job_is(service, create_job):
    job = create_job()
    with reading(service.engine) as session:
        row = get_similarity(session, "default", job.similarity["id"])
    stored = ClassSimilarity.load(service.artifacts.local_path(row.artifact_uri))
    assert stored.class_names == ("cat", "dog", "red_panda")
    assert stored.sha256 == row.sha256 == job.similarity["sha256"]
    assert create_job().similarity["id"] == row.id  # not computed again


def test_second_try_of_a_post_gets_the_first_job(service, file_id):
    body = json.dumps({"model": "tiny", "training_file": file_id, "num_steps": 3})

    def post(**headers):
        return service.http.post(JOBS, content=body, headers={"content-type": "application/json"} | headers)

    first = post().json()["id"]
    assert post().json()["id"] != first  # two requests of a person, not two tries of a client
    newest = post().json()["id"]
    assert post(**{"x-stainless-retry-count": "1"}).json()["id"] == newest


def test_tries_that_overlap_make_one_job(service, file_id):
    body = json.dumps({"model": "tiny", "training_file": file_id, "num_steps": 3, "suffix": "overlap"})
    headers = {"content-type": "application/json", "idempotency-key": "overlap"}
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(service.http.post(JOBS, content=body, headers=headers).json()["id"])
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_idempotency_key_names_one_body(service, file_id):
    def post(**fields):
        body = {"model": "tiny", "training_file": file_id, "num_steps": 3} | fields
        return service.http.post(JOBS, json=body, headers={"idempotency-key": "key-1"})

    assert post().json()["id"] == post().json()["id"]
    other = post(num_steps=4)
    assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency_key_reused")


def test_request_is_kept_with_its_hash(service, file_id):
    body = json.dumps({"model": "tiny", "training_file": file_id, "num_steps": 3})
    job_id = service.http.post(JOBS, content=body, headers={"content-type": "application/json"}).json()["id"]
    with reading(service.engine) as session:
        job = get_job(session, "default", job_id)
    assert job.request == json.loads(body)
    assert job.request_sha256 == hashlib.sha256(body.encode()).hexdigest()


def test_unknown_model_is_refused_with_the_nearest(refused):
    error = refused(model="tinny")
    assert (error.param, error.code) == ("model", "model_not_found")
    assert "'tiny'" in error.message


def test_model_that_is_not_on_this_machine_is_refused_with_what_to_do(refused):
    error = refused(model="vit-b-16-openai")
    assert (error.param, error.code) == ("model", "model_not_local")
    assert "alignclip models pull vit-b-16-openai" in error.message


def test_model_that_cannot_be_aligned_is_refused(refused):
    assert refused(model="pooled").code == "model_unfit"


def test_unknown_training_file_is_refused(refused):
    error = refused(training_file="file-nothing")
    assert (error.status_code, error.param) == (400, "training_file")


def test_path_outside_the_roots_is_refused(refused, dataset_root):
    for path in ("/etc", f"{dataset_root}/../", f"{dataset_root}/elsewhere", "https://example.org/pets.zip"):
        error = refused(training_file=path)
        assert (error.param, error.code) == ("training_file", "dataset_rejected")


def test_class_without_images_is_refused_by_name(refused, service, make_archive, pictures):
    for empty in ({"fox/": b""}, {"fox/notes.txt": b"no picture"}):
        error = refused(training_file=service.upload(make_archive(pictures | empty)))
        assert (error.param, error.code) == ("training_file", "invalid_dataset")
        assert "'fox'" in error.message


def test_class_names_that_do_not_fit_the_folders_are_refused(refused):
    names = {"too many": ["cat", "dog", "red panda", "fox"], "too few": ["cat", "dog"], "a map": {"fox": "a fox"}}
    for given in names.values():
        error = refused(extra_body={"num_steps": 2, "class_names": given})
        assert (error.param, error.code) == ("class_names", "invalid_dataset")


def test_one_class_only_is_refused(refused, service, make_archive, picture):
    error = refused(training_file=service.upload(make_archive({"cat/1.png": picture, "cat/2.png": picture})))
    assert (error.param, error.code) == ("training_file", "invalid_dataset")
    assert "'cat'" in error.message


def test_images_beside_folders_are_refused(refused, service, make_archive, pictures, picture):
    error = refused(training_file=service.upload(make_archive(pictures | {"stray.png": picture})))
    assert error.param == "training_file"
    assert "stray.png" in error.message


def test_more_classes_than_allowed_are_refused(start_service, archive):
    small = start_service(max_classes=2)
    with pytest.raises(BadRequestError) as caught:
        small.openai.fine_tuning.jobs.create(model="tiny", training_file=small.upload(archive))
    assert caught.value.param == "class_names"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"smothing": 0.1}, "smothing", "'smoothing'"),
        ({"trainning_file": "x"}, "trainning_file", "'training_file'"),
        ({"epochs": 3}, "epochs", "n_epochs"),
        ({"base_model": "tiny"}, "base_model", "model"),
        ({"n_epochs": 2, "num_steps": 8}, "n_epochs", "give one"),
        ({"batch_size": 2, "global_batch_size": 8}, "batch_size", "give one"),
        ({"smoothing": 0.9}, "smoothing", "0.5"),
        ({"num_steps": "many"}, "num_steps", "'many'"),
        ({"n_epochs": 0}, "n_epochs", "1"),
        ({"n_epochs": 2, "algorithm": "zero_shot", "num_steps": None}, "n_epochs", "trains nothing"),
        ({"seed": -1}, "seed", "0"),
        ({"seed": "1"}, "seed", "integer"),
        ({"seed": 1.5}, "seed", "integer"),
        ({"skip_bad_images": 1}, "skip_bad_images", "boolean"),
        ({"suffix": "a/b"}, "suffix", "pattern"),
        ({"suffix": "a" * 65}, "suffix", "64"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "512"),
        ({"metadata": {str(number): "v" for number in range(17)}}, "metadata", "16"),
        ({"algorithm": "alignclp"}, "algorithm", "alignclip"),
        ({"preset": "papers"}, "preset", "paper"),
        ({"templates": ["a photo"]}, "templates", "{}"),
        ({"templates": "pet"}, "templates", "pets"),
        ({"templates": []}, "templates", "empty"),
        ({"class_names": 5}, "class_names", "list"),
        ({"crop_scale": 3}, "crop_scale", "tuple"),
        ({"crop_scale": [0.9, 0.2]}, "crop_scale", "0.9"),
        ({"unseen_classes": ["fox"]}, "unseen_classes", "'fox'"),
        ({"unseen_classes": ["cat", "dog"]}, "unseen_classes", "fewer than two"),
        ({"test_domains": ["sketch"]}, "test_domains", "no domain folders"),
        ({"num_aligned_layers": 9}, "num_aligned_layers", "6 blocks"),
        ({"dv_start_block": 6}, "dv_start_block", "0 to 5"),
        ({"frozen_modules": ["conv9"]}, "frozen_modules", "conv1"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations", "at most 0"),
        ({"method": {"type": "dpo"}}, "method.type", "supervised"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"lamda": 1}}}}, "lamda", "Unknown"),
        (
            {"smoothing": 0.1, "method": {"type": "supervised", "supervised": {"hyperparameters": {"smoothing": 0.2}}}},
            "smoothing",
            "twice",
        ),
        ({"learning_rate_multiplier": 0}, "learning_rate_multiplier", "greater than 0"),
        ({"validation_file": "file-nothing"}, "validation_file", "file-nothing"),
        ({"test_datasets": ["file-nothing"]}, "test_datasets.0", "file-nothing"),
        ({"training_file": ""}, "training_file", "1 character"),
    ],
)
def test_field_that_cannot_be_used_is_refused_by_name(refused, fields, param, words):
    error = refused(extra_body=fields)
    assert error.param == param
    assert words in error.message
    assert (error.type, error.status_code) == ("invalid_request_error", 400)


def test_validation_set_with_other_classes_is_refused(refused, service, make_archive, picture):
    other = service.upload(make_archive({"fox/1.png": picture, "cat/1.png": picture}))
    error = refused(validation_file=other)
    assert (error.param, "'fox'" in error.message) == ("validation_file", True)


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"", "application/json", 400, "empty_body"),
        (b"{", "application/json", 400, "invalid_json"),
        (b"[1]", "application/json", 400, "invalid_request"),
        (b"{}", "application/json", 400, "invalid_request"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"[" * 100_000, "application/json", 400, None),
    ],
)
def test_body_that_is_no_object_is_refused(http, content, kind, status, code):
    answer = http.post(JOBS, content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_several_words_for_a_class_are_one_class(service, create_job):
    body = {"num_steps": 8, "class_names": {"dog": ["dog", "hound"]}}
    job = create_job(extra_body=body)
    assert job.class_names["dog"] == "dog|hound"
    plain = create_job()
    assert job.similarity["sha256"] != plain.similarity["sha256"]
    with pytest.raises(BadRequestError, match="have the same name 'cat'"):
        create_job(extra_body=body | {"class_names": {"dog": ["dog", "cat"]}})


def test_an_image_tower_alone_is_refused_with_what_tunes_it(start_service, tmp_path, archive):
    folder = tmp_path / "resnet50-imagenet"
    folder.mkdir()
    width = {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}
    config = {"architecture": "resnet50", "model_args": width, "pretrained_cfg": AS_TORCHVISION}
    write_folder(folder, config, timm.create_model("resnet50", num_classes=0, **width).state_dict())
    service = start_service(models_dir=tmp_path)
    file_id = service.upload(archive)
    job = {"model": folder.name, "training_file": file_id, "algorithm": "finetune", "head": "linear"}
    grid = {"model": folder.name, "dataset": file_id, "protocol": "few_shot", "methods": ["finetune:head=linear"]}
    for place, body in (("fine_tuning/jobs", job), ("fine_tuning/estimate", job), ("evaluations", grid)):
        refused = service.http.post(f"/v1/{place}", json=body)
        error = refused.json()["error"]
        assert (refused.status_code, error["param"], error["code"]) == (400, "model", "model_unfit"), place
        assert "has no text tower, so a job here, which compares its classes by their texts, cannot" in error["message"]
        assert "`alignclip evaluate` can tune it with finetune:head=linear" in error["message"]
