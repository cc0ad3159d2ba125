"""Models are loaded once however many ask at once, kept while they fit, and refused when their files are not theirs."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from alignclip_core.encoder.text_tower import BATCH_SIZE
from api.model_cache import BoundedCache, KeyedLocks, ModelCache


@pytest.fixture
def make_cache(service, tmp_path):
    """Makes a cache over the service's models."""

    def make(**fields):
        return ModelCache(service.settings.model_copy(update=fields), service.artifacts, tmp_path)

    return make


def test_threads_that_ask_at_once_get_one_model(make_cache):
    cache = make_cache()
    card = cache.base_model("tiny")
    start = threading.Barrier(8)

    def load(_):
        start.wait()
        return cache.classifier(card), cache.text_encoder(card)

    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(load, range(8)))
    assert len({id(classifier) for classifier, _ in loaded}) == 1
    assert len({id(encoder) for _, encoder in loaded}) == 1


def test_model_that_does_not_fit_beside_another_takes_its_place(make_cache):
    roomy, tight = make_cache(), make_cache(model_cache_bytes=1)
    starter, tiny = roomy.base_model("starter"), roomy.base_model("tiny")
    for cache, is_kept in ((roomy, True), (tight, False)):
        first = cache.classifier(tiny)
        assert cache.classifier(tiny) is first  # one alone is kept whatever its size
        cache.classifier(starter)
        assert (cache.classifier(tiny) is first) == is_kept


def test_bounded_cache_drops_what_was_not_used_for_longest():
    cache = BoundedCache(10, len)
    cache.put("a", "1234")
    cache.put("b", "1234")
    assert cache.get("a") == "1234"
    cache.put("c", "1234")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("1234", None, "1234")
    cache.put("c", "12")
    cache.put("d", "1234")
    assert len(cache) == 3
    cache.drop("d")
    assert cache.get("d") is None


def test_keyed_lock_lets_other_keys_through_and_is_forgotten_after_use():
    locks = KeyedLocks()
    holds, waits = threading.Event(), threading.Event()
    order = []

    def second():
        holds.wait()
        with locks.holding("other"):
            order.append("other")
        waits.set()
        with locks.holding("key"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with locks.holding("key"):
        holds.set()
        waits.wait()
        order.append("first")
    thread.join()
    assert order == ["other", "first", "second"]
    assert locks._locks == {}


def test_embeddings_do_not_depend_on_what_was_asked_before(make_cache):
    cache, fresh = make_cache(), make_cache()
    card = cache.base_model("tiny")
    cache.class_embeddings(card, ["dog", "owl"], card.templates)
    mixed = cache.class_embeddings(card, ["cat", "dog", "owl"], card.templates)
    assert mixed.tolist() == [
        pytest.approx(row, abs=1e-6)
        for row in fresh.class_embeddings(card, ["cat", "dog", "owl"], card.templates).tolist()
    ]


def test_many_new_labels_leave_the_text_tower_to_others_between_batches(make_cache, monkeypatch):
    cache, fresh = make_cache(), make_cache()
    card = cache.base_model("tiny")
    labels = [f"class {number}" for number in range(2 * BATCH_SIZE + 1)]
    holds = []
    encoding = cache.encoding
    monkeypatch.setattr(cache, "encoding", lambda base_model: holds.append(base_model) or encoding(base_model))
    embeddings = cache.class_embeddings(card, labels, card.templates)
    assert len(holds) == 3
    torch.testing.assert_close(embeddings[-2:], fresh.class_embeddings(card, labels[-2:], card.templates))


def test_tuned_model_whose_weights_were_changed_is_refused(service, create_job, picture):
    job = create_job()
    model = service.finish(job.id)
    weights = service.artifacts.local_path(f"artifact:models/{job.id}") / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    answer = service.http.post(f"/v1/models/{model}/classify", files={"image": picture})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "artifact_corrupt")
    content[-1] ^= 1
    weights.write_bytes(content)  # put right again, it serves: a failed load is not remembered
    assert service.http.post(f"/v1/models/{model}/classify", files={"image": picture}).status_code == 200


def test_classify_requests_at_once_get_each_their_own_answer(service, pictures):
    names = list(pictures)
    alone = [best(service, pictures[name]) for name in names]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda name: best(service, pictures[name]), names)) == alone


def best(service, content):
    labels = ["cat", "dog", "owl", "fox"]
    answer = service.http.post("/v1/models/tiny/classify", files={"image": content}, data={"labels": labels}).json()
    return [(item["label"], round(item["score"], 4)) for item in answer["data"][0]["predictions"]]
