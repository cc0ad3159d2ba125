"""Requests share forward passes, and none suffers for another's: neither its images, nor its slowness, nor its size."""

import socket
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest
import torch

from api.batching import Batcher

LONG = 600.0  # seconds that no test waits


@pytest.fixture
def make_batcher():
    """Makes a batcher that notes the sizes of its batches."""
    made = []

    def make(**fields):
        sizes = []
        given = {"max_images": 8, "max_wait_seconds": LONG} | fields
        batcher = Batcher(**given, observe=lambda num_images, waited: sizes.append(num_images))
        made.append(batcher)
        return batcher, sizes

    yield make
    for batcher in made:
        batcher.close()


def images(*values):
    return torch.tensor(values).view(-1, 1, 1, 1).float()


def double(pixels):
    return 2 * pixels.flatten(1)


def test_only_request_waits_for_nobody(make_batcher):
    batcher, sizes = make_batcher()
    with batcher.arriving("model", double) as submit:
        features = submit(images(1, 2))
    assert features.result(30).tolist() == [[2], [4]]
    assert sizes == [2]


def test_requests_that_arrive_together_share_a_batch_and_get_each_their_own(make_batcher):
    batcher, sizes = make_batcher()
    with batcher.arriving("model", double) as submit_one, batcher.arriving("model", double) as submit_other:
        one, other = submit_one(images(1)), submit_other(images(5, 6))
        assert not one.done()  # the other is still on its way
    assert (one.result(30).tolist(), other.result(30).tolist()) == ([[2]], [[10], [12]])
    assert sizes == [3]


def test_full_batch_starts_at_once_and_the_rest_follows(make_batcher):
    batcher, sizes = make_batcher(max_images=2)
    with batcher.arriving("model", double), batcher.arriving("model", double) as submit:
        first, second = submit(images(1)), submit(images(2))
        assert (first.result(30).item(), second.result(30).item()) == (2, 4)  # though others are still on their way
        third = submit(images(3))
        assert not third.done()
    assert third.result(30).item() == 6
    assert sizes == [2, 1]


def test_nobody_waits_for_a_slow_decoder_for_long(make_batcher):
    batcher, sizes = make_batcher(max_wait_seconds=0.01)
    with batcher.arriving("model", double), batcher.arriving("model", double) as submit:
        assert submit(images(1)).result(30).item() == 2
    assert sizes == [1]


def test_models_do_not_share_batches(make_batcher):
    batcher, sizes = make_batcher()
    with batcher.arriving("one", double) as submit_one, batcher.arriving("other", torch.neg) as submit_other:
        one, other = submit_one(images(1)), submit_other(images(1))
    assert (one.result(30).item(), other.result(30).item()) == (2, -1)
    assert sizes == [1, 1]


def test_images_that_break_the_pass_break_their_own_request_alone(make_batcher):
    def fragile(pixels):
        if (pixels == 13).any():
            raise MemoryError("thirteen")
        return double(pixels)

    batcher, _ = make_batcher()
    with batcher.arriving("model", fragile) as submit:
        good, bad, other = submit(images(1)), submit(images(13)), submit(images(2))
    assert (good.result(30).item(), other.result(30).item()) == (2, 4)
    with pytest.raises(MemoryError, match="thirteen"):
        bad.result(30)


def test_request_that_was_given_up_is_not_computed(make_batcher):
    batcher, sizes = make_batcher()
    with batcher.arriving("model", double) as submit:
        gone, kept = submit(images(1)), submit(images(2))
        assert gone.cancel()
    assert kept.result(30).item() == 4
    assert sizes == [1]
    with pytest.raises(CancelledError):
        gone.result(0)


def test_batcher_that_closes_leaves_nobody_waiting(make_batcher):
    batcher, _ = make_batcher()
    with batcher.arriving("model", double) as submit:
        waiting = submit(images(1))
        batcher.close()
    with pytest.raises(RuntimeError, match="stops"):
        waiting.result(30)
    assert not batcher._thread.is_alive()


def test_concurrent_clients_share_passes_and_a_broken_image_harms_nobody(start_service, pictures):
    service = start_service(max_batch_wait_seconds=0.2)
    names = list(pictures)
    classify(service, pictures[names[0]])  # loads the model
    alone = {name: classify(service, pictures[name]).json()["data"] for name in names}
    before = count(service, "alignclip_batch_images_count")

    def ask(name):
        return classify(service, b"broken" if name is None else pictures[name])

    asked = [name for name in names for _ in range(2)] + [None] * 6
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, asked))
    for name, answer in zip(asked, answers, strict=True):
        if name is None:
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_image")
        else:
            assert scores(answer.json()["data"]) == pytest.approx(scores(alone[name]), abs=1e-5)
    assert count(service, "alignclip_batch_images_count") - before < 2 * len(names)  # fewer passes than requests
    assert count(service, "alignclip_batch_wait_seconds_count") >= 3 * len(names)


def test_client_that_sends_slowly_keeps_nobody_waiting(service, picture):
    head = (
        "POST /v1/models/tiny/classify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acl-test-key\r\n"
        "Content-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    )
    port = int(service.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(head.encode() + picture[:10])
        assert classify(service, picture).status_code == 200


def classify(service, content):
    form = {"files": {"image": content}, "data": {"labels": ["cat", "dog"]}}
    return service.http.post("/v1/models/tiny/classify", **form)


def count(service, name):
    lines = service.http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def scores(data):
    return [best["score"] for best in data[0]["predictions"]]


def test_images_that_come_after_the_end_are_refused_at_once(make_batcher):
    batcher, _ = make_batcher()
    with batcher.arriving("model", double) as submit:
        batcher.close()
        with pytest.raises(RuntimeError, match="stops"):
            submit(images(1))
