"""However many requests come in one instant, so many get a place and no more; every end of a request gives it back."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import api.routes.explain
from alignclip_core.classifier import Classifier
from api.errors import RateLimited
from api.turns import Turns

LABELS = {"labels": ["cat", "dog"]}
TASKS = {"classify": LABELS, "embeddings": {"input": "a cat"}, "explain": {"label": "cat"}}


def test_requests_of_one_instant_get_the_places_that_there_are_and_no_more():
    most_at_work = num_at_work = 0

    async def work(turns):
        nonlocal most_at_work, num_at_work
        async with turns.turn():
            num_at_work += 1
            most_at_work = max(most_at_work, num_at_work)
            await asyncio.sleep(0)
            num_at_work -= 1

    async def ask():
        turns = Turns(max_working=2, max_waiting=3)
        ends = await asyncio.gather(*(work(turns) for _ in range(12)), return_exceptions=True)
        return turns.num_taken, [type(end) for end in ends]

    num_left, ends = asyncio.run(ask())
    assert ends == [type(None)] * 5 + [RateLimited] * 7
    assert (most_at_work, num_left) == (2, 0)


def test_place_comes_back_from_requests_that_fail_or_are_given_up_at_work_and_while_they_wait():
    async def fail(turns):
        async with turns.turn():
            await asyncio.sleep(0)
            raise ValueError

    async def work_for_ever(turns):
        async with turns.turn():
            await asyncio.Event().wait()

    async def ask():
        turns = Turns(max_working=1, max_waiting=1)
        failed = await asyncio.gather(fail(turns), fail(turns), return_exceptions=True)
        tasks = [asyncio.create_task(work_for_ever(turns)) for _ in range(2)]  # one works, one waits
        await asyncio.sleep(0)
        num_taken = turns.num_taken
        for task in reversed(tasks):
            task.cancel()
        await asyncio.wait(tasks)
        return [type(end) for end in failed], num_taken, turns.num_taken

    assert asyncio.run(ask()) == ([ValueError, ValueError], 2, 0)


@pytest.mark.parametrize("task", TASKS)
def test_more_than_may_wait_are_told_when_to_come_again(start_service, picture, monkeypatch, task):
    service = start_service(max_concurrent_classify=1, max_waiting_classify=1)
    assert ask(service, task, picture).status_code == 200
    hold = threading.Event()
    monkeypatch.setattr(Classifier, "features", held(Classifier.features, hold))
    monkeypatch.setattr(api.routes.explain, "explain", held(api.routes.explain.explain, hold))
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, service, task, picture) for _ in range(8)]
        try:
            wait_until(lambda: sum(each.done() for each in asked) >= 6)
            refused = [each.result() for each in asked if each.done()]
        finally:
            hold.set()
        answers = sorted(each.result().status_code for each in asked)
    assert [(each.status_code, each.json()["error"]["code"]) for each in refused] == [(429, "overloaded")] * 6
    assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
    assert answers == [200] * 2 + [429] * 6


def test_refused_and_broken_requests_leave_no_place_taken(service, picture):
    resources = service.app.state.resources
    for task in TASKS:
        assert ask(service, task, b"broken").status_code == 400
        assert ask(service, task, picture, model="nothing").status_code == 404
        assert ask(service, task, picture, also={"colour": "red"}).status_code == 400
    assert (resources.classify_turns.num_taken, resources.explain_turns.num_taken) == (0, 0)


def ask(service, task, content, *, model="tiny", also=()):
    form = {"files": {"image": content}, "data": TASKS[task] | dict(also)}
    return service.http.post(f"/v1/models/{model}/{task}", **form)


def held(function, hold):
    def wait_and_call(*arguments):
        assert hold.wait(120)
        return function(*arguments)

    return wait_and_call


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
