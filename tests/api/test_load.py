"""A load that ends by itself: 32 clients at once, and each gets the answer that it would get alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest

NUM_CLIENTS = 32
NUM_REQUESTS = 10  # of each client, one after the other
LABELS = (["cat", "dog"], ["fox", "owl", "red panda"])


def test_clients_under_load_get_the_answers_that_they_get_alone(start_service, pictures):
    service = start_service(max_batch_wait_seconds=0.05)
    questions = [(name, labels) for name in pictures for labels in LABELS]
    alone = [ask(service, pictures[name], labels) for name, labels in questions]
    before = num_passes(service)

    def be_a_client(number):
        asked = [(number + step) % len(questions) for step in range(NUM_REQUESTS)]
        return [(index, ask(service, pictures[questions[index][0]], questions[index][1])) for index in asked]

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        answers = [answer for client in pool.map(be_a_client, range(NUM_CLIENTS)) for answer in client]
    assert len(answers) == NUM_CLIENTS * NUM_REQUESTS
    for index, answer in answers:
        assert answer == pytest.approx(alone[index], abs=1e-5)
    assert num_passes(service) - before < len(answers)  # they shared forward passes
    assert service.app.state.resources.classify_turns.num_taken == 0


def ask(service, content, labels):
    """Label -> score."""
    answer = service.http.post("/v1/models/tiny/classify", files={"image": content}, data={"labels": labels})
    assert answer.status_code == 200, answer.text
    return {best["label"]: best["score"] for best in answer.json()["data"][0]["predictions"]}


def num_passes(service):
    lines = service.http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("alignclip_batch_images_count"))
