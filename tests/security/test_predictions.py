"""Predictions: whatever one user asks for, others get theirs, and the server keeps its memory."""

import asyncio
import dataclasses
import json
import os
import sys

import pytest

from autotune.core.child_errors import error_json, error_of
from autotune.core.errors import AutotuneError, UsageError
from autotune.core.forms import low_rank
from autotune.core.layers import LayerShape
from autotune.core.types import Estimate
from autotune.service import prediction_pool
from autotune.service.app import create_app
from autotune.service.errors import BusyError, QuotaError
from autotune.service.prediction_pool import PredictionPool
from autotune.service.prediction_records import Prediction, Question
from tests.autotune.service.processes import descendants, gone, mentioning
from tests.security.conftest import connect, until
from tests.waiting import wait_for

SHAPE = LayerShape(tokens=2048, in_features=4096, out_features=4096, form=low_rank(1024))
KNOWN = Question(device="h200", shapes=(SHAPE,))

# In the command line of the children of these tests, and of no other test that runs beside them.
MARK = f"child-of-{os.getpid()}"
# A child that answers as the real one does, that hangs, grows, dies or talks nonsense.
CHILD = (
    f"# {MARK}"
    + """
import json, os, sys, time
sys.stdin.readline()
for line in sys.stdin:
    device = json.loads(line)["question"]["device"]
    if device == "hang":
        time.sleep(600)
    if device == "die":
        os._exit(3)
    large = 10**12 if device == "grow" else 1
    answer = {"device": str(os.getpid()), "backend": "b", "dtype": "d", "sources": [],
              "estimates": []}
    print(json.dumps({"answer": answer, "resident_bytes": large}), flush=True)
"""
)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(prediction_pool, "COMMAND", (sys.executable, "-c", CHILD))


def test_an_ordinary_question_leaves_its_process_for_the_next(tmp_path):
    async def scenario(pool):
        for tokens in (1024, 2048):
            shapes = (dataclasses.replace(SHAPE, tokens=tokens),)
            await pool.answer("alice", dataclasses.replace(KNOWN, shapes=shapes))
        return list(pool._idle)

    assert len(run(scenario)) == 1, "it has not grown too large"


def asking(device):
    return dataclasses.replace(KNOWN, device=device)


def run(scenario, **settings):
    """Run `scenario(pool)` on an event loop, and close the pool."""

    async def whole():
        pool = PredictionPool("/nowhere/latency.sqlite", **settings)
        try:
            return await scenario(pool)
        finally:
            pool.close()

    return asyncio.run(whole())


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (
            [dataclasses.replace(SHAPE, tokens=1 + number) for number in range(9)],
            "9 different numbers of tokens in one request; at most 8",
        ),
        (
            [dataclasses.replace(SHAPE, out_features=32 + number) for number in range(129)],
            "129 different dense layers in one request; at most 128",
        ),
    ],
)
def test_more_than_can_be_done_in_time_is_refused_before_anything_starts(client, shapes, said):
    layers = [
        {"tokens": s.tokens, "in_features": s.in_features, "out_features": s.out_features}
        for s in shapes
    ]
    answer = client.post("/v1/predict", json={"device": "h200", "shapes": layers})
    assert answer.status_code == 422
    assert said in answer.json()["error"]["message"]
    assert "prediction_worker" not in str(descendants(os.getpid()))


def test_a_thousand_ranks_of_one_layer_are_predicted(client):
    layer = {"tokens": 2048, "in_features": 4096, "out_features": 4096}
    shapes = [layer, *({**layer, "rank": rank} for rank in range(4, 4_000, 4))]
    answer = client.post("/v1/predict", json={"device": "h200", "shapes": shapes[:1000]})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["estimates"]) == 1000


def test_a_prediction_has_a_time_limit_and_its_process_ends(fake):
    async def scenario(pool):
        with pytest.raises(UsageError, match="takes longer than 1 s; ask for fewer layers"):
            await pool.answer("a", asking("hang"))
        pool.limit_s = 60
        return await pool.answer("a", asking("cpu"))

    assert run(scenario, limit_s=1).backend == "b"
    assert gone(MARK, 60)


def test_another_user_does_not_wait_for_a_long_prediction(fake):
    async def scenario(pool):
        long = [asyncio.create_task(pool.answer("a", asking("hang"))) for _ in range(8)]
        await until(lambda: pool._shares.taken == 8)
        with pytest.raises(QuotaError, match="one user may have 8 predictions"):
            await pool.answer("a", asking("cpu"))
        await pool.answer("b", asking("cpu"))
        assert not any(task.done() for task in long)
        for task in long:
            task.cancel()
        await asyncio.gather(*long, return_exceptions=True)

    run(scenario, limit_s=600)


def test_a_prediction_that_nobody_waits_for_ends_and_makes_room(fake):
    async def scenario(pool):
        given_up = [asyncio.create_task(pool.answer(name, asking("hang"))) for name in "abca"]
        await until(lambda: len(pool._busy) == 2)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        assert not pool._shares.taken
        return await asyncio.wait_for(pool.answer("a", asking("cpu")), 60)

    assert run(scenario, limit_s=600).backend == "b"
    assert gone(MARK, 60)


def test_giving_up_what_was_answered_leaves_the_process_to_the_next(fake):
    async def scenario(pool):
        answered = prediction_pool._Asked(asking("cpu"))
        await asyncio.to_thread(pool._ask, answered)
        following = asyncio.create_task(pool.answer("b", asking("hang")))
        await until(lambda: pool._busy)
        pool._give_up(answered)
        await asyncio.wait({following}, timeout=1)
        assert not following.done(), "the same process is at work for it"
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    run(scenario, limit_s=600)


def test_who_closes_the_connection_no_longer_waits(fake, serve, settings, database):
    port = serve(create_app(settings, database))
    shape = {"tokens": 1, "in_features": 8, "out_features": 8}
    body = json.dumps({"device": "hang", "shapes": [shape]})
    head = "POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with connect(port) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert wait_for(lambda: mentioning(MARK), 60)
    assert gone(MARK, 60)


def test_waiting_predictions_have_a_limit(fake):
    async def scenario(pool):
        mob = [
            asyncio.create_task(pool.answer(str(number % 5), asking("hang")))
            for number in range(45)
        ]
        await until(lambda: sum(task.done() for task in mob) == 13)
        refused = [task.exception() for task in mob if task.done()]
        pool.close()
        rest = await asyncio.gather(*mob, return_exceptions=True)
        return refused, rest

    refused, rest = run(scenario, limit_s=600)
    assert len(refused) == 13
    assert all(isinstance(each, QuotaError) for each in refused)
    assert all(isinstance(each, QuotaError | BusyError) for each in rest)


def test_a_process_that_died_or_grew_is_replaced(fake):
    async def scenario(pool):
        first = await pool.answer("a", asking("cpu"))
        assert await pool.answer("a", asking("cpu")) == first  # the same process
        assert (await pool.answer("a", asking("grow"))).device == first.device
        second = await pool.answer("a", asking("cpu"))
        with pytest.raises(BusyError, match="ended with exit code 3"):
            await pool.answer("a", asking("die"))
        third = await pool.answer("a", asking("cpu"))
        return {first.device, second.device, third.device}

    assert len(run(scenario)) == 3


def test_a_closed_pool_has_no_processes(fake):
    async def scenario(pool):
        waiting = asyncio.create_task(pool.answer("a", asking("hang")))
        await pool.answer("b", asking("cpu"))
        await asyncio.get_running_loop().run_in_executor(
            None, lambda: wait_for(lambda: len(mentioning(MARK)) == 2, 60)
        )
        pool.close()
        with pytest.raises(BusyError):
            await waiting
        with pytest.raises(BusyError, match="stopping"):
            await pool.answer("b", asking("cpu"))

    run(scenario)
    assert gone(MARK, 60)


def test_questions_answers_and_errors_survive_the_way():
    joint = dataclasses.replace(SHAPE, parts=(1024, 3072), dtype="bf16")
    question = Question(device="cpu", shapes=(SHAPE, SHAPE.dense, joint), dtype="fp32")
    assert Question.from_json(question.to_json()) == question
    estimate = Estimate(latency_s=1e-6, low_s=1e-7, high_s=1e-5, ratio=0.5, source="measured")
    answer = Prediction(
        device="cpu", backend="b", dtype="d", sources=("s", "t"), estimates=(estimate, estimate)
    )
    assert Prediction.from_json(json.loads(json.dumps(answer.to_json()))) == answer
    for kind in (UsageError, QuotaError, AutotuneError):
        error = error_of(error_json(kind("{option:machine.device} is wrong")))
        assert isinstance(error, AutotuneError)
        assert isinstance(error, UsageError) is (kind is UsageError)
        assert str(error) == "machine.device is wrong"
