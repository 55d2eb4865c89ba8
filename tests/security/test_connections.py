"""What a client can do to a server before it has shown a key: nothing that others notice."""

import socket
import time

import pytest

from autotune.service.limits import client_group
from tests.security.conftest import answer_of, ask, connect
from tests.waiting import wait_for

STRANGER = "127.0.0.2"
HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /body HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


async def small(scope, receive, send):
    """An application that answers at once, with 5 MB at /large, and after the body at /body."""
    if scope["type"] != "http":
        return
    if scope["path"] == "/body":
        while (await receive()).get("more_body"):
            pass
    body = b"x" * (5_000_000 if scope["path"] == "/large" else 2)
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body})


def closed(connection):
    """Whether the server has closed a connection on which it had nothing to say."""
    connection.setblocking(False)
    try:
        return connection.recv(1000) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


START = {
    "one long value": HEAD + b"X: ",
    "one long name": HEAD,
    "a long address": b"GET /",
    "a long method": b"",
    "many fields": HEAD,
    "a long chunk extension": CHUNKED + b"1;",
    "endless trailers": CHUNKED + b"0\r\n",
}


@pytest.mark.parametrize("name", START)
def test_a_head_has_an_end(serve, name):
    port = serve(small)
    fields = name in ("many fields", "endless trailers")
    block = b"".join(b"X%d: y\r\n" % i for i in range(6000)) if fields else b"A" * 65536
    with connect(port) as connection:
        sent = 0
        with pytest.raises(ConnectionError):  # sockets in between hold a few MB
            connection.sendall(START[name])
            while sent < 50_000_000:
                connection.sendall(block)
                sent += len(block)
    assert ask(port).endswith(b"xx")


def test_a_long_head_is_refused_with_a_status(serve):
    with connect(serve(small)) as connection:
        connection.sendall(HEAD + b"X: " + b"A" * 70_000)
        assert answer_of(connection).startswith(b"HTTP/1.1 4")


def answered(port):
    """A connection with one answer, and then half a head; None if it was closed before."""
    connection = connect(port)
    try:
        connection.sendall(HEAD + b"\r\n" + HEAD)
        return connection if b"200 OK" in connection.recv(1000) else None
    except ConnectionError:
        return None


def test_who_sends_no_whole_head_is_disconnected(serve):
    port = serve(small, head_s=0.5)
    silent, half, crawling = (connect(port) for _ in range(3))
    half.sendall(HEAD)
    after_one = wait_for(lambda: answered(port), 60, 0.0)

    def crawl():
        try:
            crawling.send(b"G")
        except OSError:
            return True
        return closed(crawling)

    wait_for(crawl, 60, 0.1)
    for connection in (silent, half, after_one):
        wait_for(lambda c=connection: closed(c), 60, 0.1)


def test_who_does_not_read_an_answer_is_disconnected(serve):
    port = serve(small, head_s=0.5)

    def is_cut_off(unread_s):
        with connect(port, receive_bytes=10_000) as connection:
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            time.sleep(unread_s)
            return len(answer_of(connection)) < 5_000_000

    # The server may be late where cores are taken away; that it never comes is a failure.
    assert any(map(is_cut_off, (1.5, 15.0)))


def test_a_body_is_not_waited_for_after_the_answer(serve):
    """As after a refusal for lack of a key; whatever else is sent, the connection ends."""
    with connect(serve(small, head_s=0.5)) as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999999\r\n\r\nx"
        )
        with pytest.raises(ConnectionError):
            for _ in range(300):
                connection.sendall(b"x")
                time.sleep(0.05)


def test_one_address_has_a_limit_and_others_are_served(serve):
    port = serve(small, each=5)
    held = [connect(port, source=STRANGER) for _ in range(5)]
    assert ask(port, source=STRANGER).startswith(b"HTTP/1.1 429")
    assert ask(port, source="127.0.0.3").startswith(b"HTTP/1.1 200")
    assert all(ask(port).startswith(b"HTTP/1.1 200") for _ in range(3))
    held.pop().close()
    wait_for(lambda: ask(port, source=STRANGER).startswith(b"HTTP/1.1 200"), 20)


def test_silent_connections_make_room_for_new_ones(serve):
    """A proxy's address has no limit of its own, and even so nobody is shut out."""
    port = serve(small, most=20)
    with connect(port) as talking:
        head = (
            b"POST /body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        talking.sendall(head)
        assert talking.recv(100).startswith(b"HTTP/1.1 100")
        silent = [connect(port) for _ in range(60)]
        for _ in range(10):
            assert ask(port).startswith(b"HTTP/1.1 200")
        assert sum(map(closed, silent)) >= 41
        talking.sendall(b"bc")  # who was being served was not closed
        assert talking.recv(100).startswith(b"HTTP/1.1 200")


def test_connections_of_one_client_are_counted_together():
    same = {client_group(f"2001:db8:1:2:{i:x}::1") for i in range(50)}
    assert same == {"2001:db8:1:2::/64"}
    assert client_group("2001:db8:1:3::1") not in same
    assert client_group("192.0.2.7") == "192.0.2.7"
    assert client_group("no address") == "no address"


def test_a_websocket_is_not_spoken(serve):
    port = serve(small)
    more = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    assert ask(port, more=more).startswith(b"HTTP/1.1 200")


def test_the_sockets_of_closed_connections_are_released(serve):
    port = serve(small, each=3)
    for _ in range(20):
        assert ask(port, source=STRANGER).startswith(b"HTTP/1.1 200")
        with connect(port, source=STRANGER) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset
        wait_for(lambda: not ask(port, source=STRANGER).startswith(b"HTTP/1.1 429"), 20)
