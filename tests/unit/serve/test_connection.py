"""Connection: too much, too slow, too many; and answers in one write. Over real sockets, with uvicorn around it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import uvicorn
from uvicorn.server import ServerState

from staytrue.serve.connection import Connection, reply, sweep
from staytrue.serve.limits import ServerLimits

LIMITS = ServerLimits(head_s=5, request_s=9)
HEAD = b"HTTP/1.1 200 OK\r\nmade-by: reply\r\ncontent-length: "


async def echo(scope, receive, send):
    """Answers how many bytes came, in one write; `/slowly` as ASGI does it, `/never` not at all."""
    size = 0
    more = True
    while more:
        event = await receive()
        size += len(event.get("body", b""))
        more = event.get("more_body", False)
    if scope["path"] == "/never":
        await asyncio.sleep(3600)
    body = b"%d" % size
    if scope["path"] == "/slowly" or not reply(scope["staytrue.exchange"], HEAD, body):
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Line:
    """A client's end, and what the server knows."""

    def __init__(self, state):
        self.state = state

    async def open(self, port):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()
        await asyncio.sleep(0.02)  # not for a condition: two writes are to be two reads

    async def status(self):
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        self.head, self.body = head, await self.reader.readexactly(length)
        return int(head.split()[1])

    async def is_over(self):
        return await asyncio.wait_for(self.reader.read(1), 5) == b""


def served(test, *, kind=Connection):
    """Run `test(open)`, where `open()` is another connection to a server of its own."""

    async def run():
        loop = asyncio.get_running_loop()
        config = uvicorn.Config(echo, http=kind, ws="none", lifespan="off", log_level="critical", access_log=False)
        config.load()
        state = ServerState()
        server = await loop.create_server(lambda: kind(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        lines = []

        async def another():
            lines.append(await Line(state).open(port))
            return lines[-1]

        try:
            await asyncio.wait_for(test(another), 20)
        finally:
            for line in lines:
                line.writer.close()
                with contextlib.suppress(ConnectionError):
                    await line.writer.wait_closed()
            server.close()
            for task in state.tasks:
                task.cancel()
            await asyncio.sleep(0.02)

    asyncio.run(run())


def post(size, path="/", extra=b""):
    return b"POST %s HTTP/1.1\r\nhost: x\r\n%scontent-length: %d\r\n\r\n" % (path.encode(), extra, size) + b"b" * size


def test_answers_in_one_write_keep_the_connection_in_step():
    async def test(another):
        line = await another()
        for size in (0, 10, 200_000):
            await line.send(post(size))
            assert await line.status() == 200
            assert (int(line.body), b"made-by: reply" in line.head) == (size, True)
        await line.send(post(1, "/slowly") + post(2) + post(3, "/slowly"))
        assert [(await line.status(), line.body) for _ in range(3)] == [(200, b"1"), (200, b"2"), (200, b"3")]

    served(test)


def test_who_is_to_be_let_go_is_answered_as_usual_and_let_go():
    async def test(another):
        line = await another()
        await line.send(post(5, extra=b"connection: close\r\n"))
        assert (await line.status(), line.body) == (200, b"5")
        assert await line.is_over()

    served(test)


def test_a_head_that_does_not_end_is_431():
    async def test(another):
        line = await another()
        await line.send(b"GET / HTTP/1.1\r\nhost: x\r\nx: ")
        for _ in range(9):
            line.writer.write(b"a" * 8192)
        assert await line.status() == 431
        assert await line.is_over()

    served(test)


@pytest.mark.parametrize("size", [1_000, 65_000, 65_500, 66_000, 500_000])
def test_a_head_in_two_pieces_is_no_long_head_however_large_the_body_behind_it(size):
    async def test(another):
        line = await another()
        data = post(size)
        await line.send(data[:30])
        await line.send(data[30:])
        assert (await line.status(), int(line.body)) == (200, size)

    served(test)


def test_too_many_requests_in_one_go_are_turned_away():
    async def test(another):
        line = await another()
        await line.send(post(0, "/never") + post(0) * 150)
        assert await line.status() == 503
        assert await line.is_over()

    served(test)


def test_those_that_send_too_slowly_are_closed_and_those_that_wait_are_not():
    async def test(another):
        now_s = asyncio.get_running_loop().time()
        silent, half_head, half_body, idle, waiting = [await another() for _ in range(5)]
        await half_head.send(b"POST / HTTP/1.1\r\nhost")
        await half_body.send(post(100)[:-50])
        await idle.send(post(1))
        assert await idle.status() == 200
        await waiting.send(post(1, "/never"))
        connections = idle.state.connections

        assert sweep(connections, LIMITS, now_s + 1) == 0
        assert sweep(connections, LIMITS, now_s + LIMITS.head_s + 1) == 2
        assert [await silent.status(), await half_head.status()] == [408, 408]
        assert await half_head.is_over()
        # A body has longer, and then it is over too; `/never` may think for as long as it wants.
        assert sweep(connections, LIMITS, now_s + LIMITS.request_s + 1) >= 1
        assert await half_body.status() == 408
        await idle.send(post(2))
        assert (await idle.status(), idle.body) == (200, b"2")
        assert not waiting.reader.at_eof()

    served(test)


def test_of_too_many_connections_the_one_that_sends_for_longest_has_to_go():
    class Few(Connection):
        most = 3

    async def test(another):
        slow = await another()
        await slow.send(b"POST / HT")
        busy = [await another() for _ in range(2)]
        for line in busy:
            await line.send(post(1))
            assert await line.status() == 200

        fresh = await another()

        assert await slow.status() == 408
        await fresh.send(post(7))
        assert (await fresh.status(), fresh.body) == (200, b"7")
        for line in busy:
            await line.send(post(2))
            assert (await line.status(), line.body) == (200, b"2")
        # Nobody is slow now: who comes too late is told.
        assert await (await another()).status() == 503

    served(test, kind=Few)


def test_what_is_no_connection_of_ours_is_answered_the_usual_way():
    assert reply(None, HEAD, b"x") is False
