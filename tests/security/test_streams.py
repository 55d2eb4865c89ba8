"""Event streams: a share for each user, also in a burst, and an end when the key is revoked."""

import asyncio

from autotune.service.errors import QuotaError
from autotune.service.keys import create_key, revoke_key
from autotune.service.streams import Watcher
from tests.autotune.service.conftest import TUNE
from tests.security.conftest import until
from tests.security.test_requests import call


async def nothing():
    """A request without a body, whose client stays."""
    await asyncio.sleep(0)
    for part in ():
        yield part
    await asyncio.sleep(3600)


def queued(client, **headers):
    body = {"kind": "tune", "spec": TUNE}
    return client.post("/v1/jobs", json=body, headers=headers).json()["id"]


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def open_streams(app, path, count, headers):
    return [
        asyncio.create_task(call(app, "GET", path, body=nothing(), headers=headers.items()))
        for _ in range(count)
    ]


def test_a_burst_of_streams_gets_no_more_than_a_share(client, database):
    alice, bob = (create_key(database, name)[1] for name in ("alice", "bob"))
    path = f"/v1/jobs/{queued(client, **bearer(alice))}/events"
    watcher = client.app.state.parts.watcher
    watcher.shares.each, watcher.shares.total = 5, 8

    async def burst():
        mine = open_streams(client.app, path, 40, bearer(alice))
        await until(lambda: sum(task.done() for task in mine) == 35)
        refused = sum(task.done() and task.result()[0] == 429 for task in mine)
        others = open_streams(client.app, path, 2, bearer(bob))
        await until(lambda: watcher.streams == 7)
        served = not any(task.done() for task in others)
        held = watcher.shares.taken
        for task in (*mine, *others):
            task.cancel()
        await asyncio.gather(*mine, *others, return_exceptions=True)
        return refused, served, held

    assert asyncio.run(burst()) == (35, True, 7)
    assert watcher.shares.taken == 0
    assert watcher.streams == 0


def test_a_place_is_given_back_when_a_stream_has_ended(client):
    job_id = queued(client)
    client.post(f"/v1/jobs/{job_id}/cancel")
    watcher = client.app.state.parts.watcher
    watcher.shares.each = 1
    for _ in range(3):
        assert '"state": "cancelled"' in client.get(f"/v1/jobs/{job_id}/events").text
    assert watcher.shares.taken == 0


def test_a_stream_ends_when_its_key_is_revoked(client, database, settings):
    (alice, token), (bob, _) = (create_key(database, name) for name in ("alice", "bob"))
    job_id = queued(client, **bearer(token))

    async def follow():
        watcher = Watcher(database, most=10, each=10)

        async def read(caller):
            return [event async for event in watcher.events(job_id, 0, caller=caller)]

        async with watcher.running():
            first, second = (asyncio.create_task(read(key.id)) for key in (alice, bob))
            early = asyncio.create_task(read(""))  # began before there was a key
            await until(lambda: watcher.streams == 3)
            revoke_key(database, alice.id)
            await asyncio.wait_for(asyncio.gather(first, early), 60)
            goes_on = not second.done()
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            return goes_on

    assert asyncio.run(follow())


def test_no_more_streams_than_the_server_has(database):
    watcher = Watcher(database, most=3, each=2)
    for owner in ("a", "a", "b"):
        watcher.shares.take(owner)
    for owner in ("a", "b", "c"):
        try:
            watcher.shares.take(owner)
        except QuotaError as error:
            assert "event streams" in str(error)
        else:
            raise AssertionError(owner)
