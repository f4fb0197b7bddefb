"""The load that the faults of serving are shown with: it sees what a server does wrong, and adds nothing of its own."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading

import pytest
from load import Load, ask, get, half_sent, post

PREDICT = post("/predict", b'{"rows": [{}]}')
GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nstaytrue-release: first\r\n\r\nok"


class Scripted:
    """A server that reads whole requests and answers each with what `answer(number)` says; None hangs up."""

    def __init__(self, answer):
        self.answer, self.asked, self.port = answer, 0, 0
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    async def _serve(self):
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        talks = asyncio.all_tasks() - {asyncio.current_task()}
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        await asyncio.sleep(0)  # the turn in which what was aborted is closed

    async def _talk(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length")), 0)
                await reader.readexactly(length)
                self.asked += 1
                answer = self.answer(self.asked - 1)
                if asyncio.iscoroutine(answer):
                    answer = await answer
                if answer is not None:
                    writer.write(answer)
                if answer is None or answer.endswith(b"..."):
                    break
        writer.transport.abort()

    def __enter__(self):
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()


def test_every_request_is_sent_once_and_written_down():
    with Scripted(lambda _: GOOD) as server:
        report = Load(server.port, lambda _: PREDICT, connections=8, requests=500).start().wait()

    assert server.asked == len(report.good) == 500
    assert sorted(answer.number for answer in report.answers) == list(range(500))
    assert report.releases == {"first": 500}
    assert report.connected == 8
    assert 0 < report.latency_s(0.5) <= report.latency_s(0.99) < 5


def test_an_answer_cut_short_is_a_fault_and_is_not_asked_for_again():
    def answer(number):
        return {10: None, 20: b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\nhalf...", 30: b"nonsense\r\n\r\n"}.get(
            number, GOOD
        )

    with Scripted(answer) as server:
        report = Load(server.port, lambda _: PREDICT, connections=4, requests=100).start().wait()

    assert server.asked == 100
    assert len(report.good) == 97
    assert sorted(fault.fault for fault in report.faults) == [
        "ConnectionError: closed after 0 bytes of the answer",
        "ConnectionError: closed after 46 bytes of the answer",
        "ConnectionError: not HTTP: nonsense",
    ]


def test_a_refusal_is_an_answer_and_what_the_check_says_is_a_fault():
    busy = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n"
    mixed = GOOD.replace(b"ok", b"no")

    with Scripted(lambda number: busy if number < 20 else mixed if number < 30 else GOOD) as server:
        load = Load(
            server.port,
            lambda _: PREDICT,
            connections=2,
            requests=100,
            check=lambda _, reply: "" if reply.status != 200 or reply.body == b"ok" else f"said {reply.body!r}",
        )
        report = load.start().wait()

    assert report.statuses == {503: 20, 200: 80}
    assert [fault.fault for fault in report.faults] == ["said b'no'"] * 10
    assert len(report.good) == 70


def test_a_body_in_chunks_is_one_body():
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndat\r\nB;x=y\r\na: 12345678\r\n0\r\n\r\n"

    with Scripted(lambda _: chunked) as server:
        reply = ask(server.port, get("/stream"))

    assert (reply.status, reply.body) == (200, b"data: 12345678")


def test_a_server_that_stalls_does_not_hide_behind_what_was_not_sent():
    async def stall():
        await asyncio.sleep(1)
        return GOOD

    with Scripted(lambda number: stall() if number == 50 else GOOD) as server:
        report = Load(server.port, lambda _: PREDICT, connections=1, rate=200, requests=200).start().wait()

    # One request stalled, but the two hundred that fell due in that second waited behind it: 149 of them were sent late.
    late = [answer for answer in report.answers if answer.latency_s > 0.3]
    assert len(report.good) == 200
    assert 100 < len(late) < 190  # a busy machine makes some more late, never nearly all
    assert report.answers[0].due_at + 199 / 200 == pytest.approx(max(a.due_at for a in report.answers))


def test_an_open_loop_asks_on_when_every_connection_is_busy():
    answered = []

    async def held(number):
        answered.append(asyncio.Event())
        if number == 49:  # the fiftieth lets all go: with fewer connections it would never come
            for event in answered:
                event.set()
        if number < 50:
            await answered[number].wait()
        return GOOD

    with Scripted(held) as server:
        load = Load(server.port, lambda _: PREDICT, connections=2, at_most=50, rate=500, requests=100, timeout_s=10)
        report = load.start().wait()

    assert report.connected == 50
    assert len(report.good) == 100


def test_what_happens_meanwhile_can_be_waited_for():
    with Scripted(lambda _: GOOD) as server, Load(server.port, lambda _: PREDICT, connections=2) as load:
        first = load.wait_for(10)
        then = load.wait_for(10)
        with pytest.raises(TimeoutError, match="1000000 answers did not come"):
            load.wait_for(10**6, deadline_s=0.1)

    assert max(a.due_at for a in first) <= min(a.due_at for a in then)


def test_a_server_that_is_gone_is_a_fault_of_each_request_until_it_is_back():
    with Scripted(lambda _: GOOD) as server:
        port = server.port
    report = Load(port, lambda _: PREDICT, connections=2, requests=10).start().wait()

    assert report.statuses == {0: 10}
    assert all(fault.fault.startswith("ConnectionRefusedError") for fault in report.faults)
    assert report.latency_s(0.99) == math.inf


def test_an_answer_that_does_not_come_is_a_fault():
    async def never():
        await asyncio.Event().wait()

    with Scripted(lambda number: never() if number == 0 else GOOD) as server:
        report = Load(server.port, lambda _: PREDICT, connections=1, requests=3, timeout_s=0.2).start().wait()

    assert [answer.fault for answer in report.answers] == ["TimeoutError: no whole answer within 0.2 s", "", ""]


def test_a_wrong_check_fails_the_test_and_not_the_thread_alone():
    with Scripted(lambda _: GOOD) as server:
        load = Load(server.port, lambda _: PREDICT, connections=1, check=lambda *_: 1 / 0).start()
        with pytest.raises(ExceptionGroup) as caught:
            load.wait()

    assert caught.value.subgroup(ZeroDivisionError)


def test_requests_sent_by_halves_wait_for_the_server_to_hang_up():
    with Scripted(lambda _: GOOD) as server:
        patient = half_sent(server.port, PREDICT, 20, deadline_s=0.3)
        asked_by_halves = server.asked

    assert [(hung.closed_s, hung.status) for hung in patient] == [(math.inf, 0)] * 20
    assert asked_by_halves == 0


def test_a_half_request_that_is_refused_tells_when_and_how():
    late = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n..."
    # To this server the head alone is a whole request: it hangs up while the body still drips in.
    head = get("/predict") + b"x" * 1000

    with Scripted(lambda _: late) as server:
        hung = half_sent(server.port, head, 5, sent=len(get("/predict")), drip_s=0.01, deadline_s=5)

    assert {one.status for one in hung} == {408}
    assert all(one.closed_s < 5 for one in hung)
