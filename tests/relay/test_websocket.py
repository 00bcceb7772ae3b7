"""The relay's side of a websocket: one task, writes at once, and an end in any case."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from client_frames import frame
from icesignal import websocket
from icesignal.frames import Opcode
from icesignal.transport import ABNORMAL, CLOSE_TIMEOUT_S, ConnectionEnded
from icesignal.websocket import ServedWebsocket, Websockets
from wsproto import frame_protocol

ANSWER = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


@dataclass
class Client:
    """The other end, whose frames another library reads."""

    stream: trio.SocketStream
    reader: frame_protocol.FrameProtocol = field(
        default_factory=lambda: frame_protocol.FrameProtocol(client=True, extensions=[])
    )
    heard: list[tuple[str, bytes]] = field(default_factory=list)

    async def hear(self, number: int) -> list[tuple[str, bytes]]:
        """Return so many frames, control frames among them."""
        while len(self.heard) < number:
            data = bytes(await self.stream.receive_some(65_536))
            if not data:
                break
            self.reader.receive_bytes(data)
            for one in self.reader.received_frames():
                payload = one.payload  # of a close frame code and reason
                data = int(payload[0]).to_bytes(2, "big") if isinstance(payload, tuple) else bytes(payload)  # type: ignore[arg-type]
                self.heard.append((one.opcode.name, data))
        found, self.heard = self.heard[:number], self.heard[number:]
        return found


@asynccontextmanager
async def served(**options: object) -> AsyncIterator[tuple[ServedWebsocket, Client]]:
    """Run both ends; the client is through its handshake."""
    ours, theirs = socket.socketpair()
    ends = [trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in (ours, theirs)]
    websockets = Websockets()
    async with ends[1], websockets.run(), websockets.accept(ends[0], ANSWER, b"", **options) as connection:  # type: ignore[arg-type]
        assert await ends[1].receive_some(len(ANSWER)) == ANSWER
        yield connection, Client(ends[1])


async def test_messages_go_both_ways_and_pings_are_answered() -> None:
    """Text is handed over as what it is; a ping between two fragments is answered before the message is whole."""
    async with served() as (connection, client):
        await client.stream.send_all(frame(0x81, b"text") + frame(0x02, b"in ") + frame(0x89, b"?"))
        assert await connection.receive() == "text"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.stream.send_all, frame(0x80, b"pieces"))
            assert await connection.receive() == b"in pieces"
        connection.send_nowait(b"answer")
        assert await client.hear(2) == [("PONG", b"?"), ("BINARY", b"answer")]


async def test_what_the_system_does_not_take_is_written_later_in_order() -> None:
    """The first message is cut by the socket's buffer; the client reads all of them whole, and then it is drained."""
    drained = trio.Event()

    async with served() as (connection, client):
        connection.on_drained = drained.set
        sent = [bytes((number,)) * 60_000 for number in range(30)]
        for message in sent:
            connection.send_nowait(message)
        assert not connection.is_drained
        await trio.testing.wait_all_tasks_blocked()
        assert not drained.is_set()
        received = b""
        while len(received) < 30 * 60_000:
            received += b"".join(payload for _, payload in await client.hear(1))
        assert received == b"".join(sent)
        await drained.wait()


async def test_what_is_sent_in_one_turn_goes_out_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write costs more than all else that a frame does: a goodbye goes with what it follows, a place with members."""
    writes: list[int] = []

    def write(descriptor: int, frame: bytes) -> int:
        writes.append(1)
        return real_write(descriptor, frame)

    def write_all(descriptor: int, frames: list[bytes]) -> int:
        writes.append(len(frames))
        return real_writev(descriptor, frames)

    real_write, real_writev = os.write, os.writev
    async with served() as (connection, client):
        monkeypatch.setattr(websocket.os, "write", write)
        monkeypatch.setattr(websocket.os, "writev", write_all)
        for number in range(600):
            connection.send_nowait(b"%d" % number)
        await trio.testing.wait_all_tasks_blocked()
        assert writes == [websocket.FRAMES_AT_ONCE, 600 - websocket.FRAMES_AT_ONCE]
        connection.send_nowait(b"last")
        connection.close(1000)
        assert writes[2:] == [2]
        assert [data for _, data in await client.hear(601)] == [*(b"%d" % number for number in range(600)), b"last"]
        await client.stream.aclose()


async def test_what_waits_for_its_turn_is_not_lost_when_a_client_is_sent_away() -> None:
    """An abort drops what a client does not take, not what it had taken if it had been written at once."""
    async with served() as (connection, client):
        connection.send_nowait(b"acknowledged")
        connection.abort(4004, "too fast")
        assert await client.hear(2) == [
            ("BINARY", b"acknowledged"),
            ("CLOSE", (4004).to_bytes(2, "big")),
        ]
        await client.stream.aclose()


async def test_who_sends_much_at_once_leaves_others_their_turn() -> None:
    """After some messages of one read, others run before the next."""
    async with served() as (connection, client):
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        number = 20 * websocket.MESSAGES_AT_ONCE
        await client.stream.send_all(number * frame(0x82, b"x"))
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            for _ in range(number):
                assert await connection.receive() == b"x"
            assert turns >= 10
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        pytest.param(b"\x82\x01x", 1002, id="no mask"),
        pytest.param(frame(0x81, b"\xff"), 1007, id="no text"),
        pytest.param(frame(0x82, size=b"\x7f" + (1 << 20).to_bytes(8, "big")), 1009, id="too long"),
        pytest.param(frame(0x88, b"\x03"), 1002, id="half a code"),
    ],
)
async def test_what_is_no_websocket_is_closed_with_its_code(said: bytes, code: int) -> None:
    """And nothing that follows it is heard."""
    async with served() as (connection, client):
        await client.stream.send_all(said + frame(0x82, b"more"))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def listen() -> None:
                assert await client.hear(1) == [("CLOSE", code.to_bytes(2, "big"))]
                await client.stream.aclose()

            with pytest.raises(ConnectionEnded) as caught:
                await connection.receive()
        assert caught.value.code == code


async def test_a_goodbye_is_answered_and_told() -> None:
    """With the client's code, which is not that of a program that was killed."""
    async with served() as (connection, client):
        await client.stream.send_all(frame(0x88, (1001).to_bytes(2, "big") + b"sleep"))
        with pytest.raises(ConnectionEnded) as caught:
            await connection.receive()
        assert (caught.value.code, caught.value.reason, caught.value.hung_up) == (1001, "sleep", False)
        assert await client.hear(1) == [("CLOSE", (1001).to_bytes(2, "big"))]


async def test_who_is_killed_has_hung_up() -> None:
    """As has who resets the connection; who was sent away has not."""
    async with served() as (connection, client):
        await client.stream.aclose()
        with pytest.raises(ConnectionEnded) as caught:
            await connection.receive()
        assert (caught.value.code, caught.value.hung_up) == (ABNORMAL, True)
    async with served() as (connection, client):
        connection.close(4003, "too slow")
        assert await client.hear(1) == [("CLOSE", (4003).to_bytes(2, "big"))]
        await client.stream.aclose()
        with pytest.raises(ConnectionEnded) as caught:
            await connection.receive()
        assert (caught.value.code, caught.value.hung_up) == (4003, False)


async def test_the_end_waits_for_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """A client that takes nothing and says nothing: the goodbye is over in a moment, sent or not."""
    for messages in (0, 30):
        async with served() as (connection, _):
            for _ in range(messages):
                connection.send_nowait(bytes(60_000))
            began = trio.current_time()
        assert trio.current_time() - began <= 2 * CLOSE_TIMEOUT_S


async def test_a_cancelled_relay_still_says_goodbye() -> None:
    """With the code that says come back."""
    with trio.CancelScope() as scope:
        async with served() as (connection, client):
            heard: list[tuple[str, bytes]] = []
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def listen() -> None:
                    with trio.CancelScope(shield=True):
                        heard.extend(await client.hear(1))
                        await client.stream.aclose()

                try:
                    scope.cancel()
                    await trio.sleep_forever()
                finally:
                    connection.close(1001)
    assert heard == [("CLOSE", (1001).to_bytes(2, "big"))]


async def test_who_takes_nothing_for_long_is_given_up(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code says resume: nothing is lost."""
    async with served() as (connection, _):
        for _ in range(30):
            connection.send_nowait(bytes(60_000))
        with pytest.raises(ConnectionEnded) as caught:
            await connection.receive()
        assert caught.value.code == 4003
        assert trio.current_time() == pytest.approx(websocket.WRITE_TIMEOUT_S, abs=1.0)


async def test_pings_cost_their_sender(autojump_clock: trio.testing.MockClock) -> None:
    """Each is paid for like a message."""
    paid: list[int] = []

    def allow(_: int, pings: int) -> bool:
        paid.append(pings)
        return sum(paid) < 3

    async with served(allow=allow) as (connection, client):
        await client.stream.send_all(4 * frame(0x89))
        with pytest.raises(ConnectionEnded) as caught:
            await connection.receive()
        assert caught.value.code == 4004
        assert sum(paid) == 3


async def test_pongs_do_not_pile_up_for_who_does_not_read() -> None:
    """A client that pings and takes nothing gets the newest pong, when it takes again."""
    async with served() as (connection, client):
        while not connection._is_writing:
            connection.send_nowait(bytes(60_000))
        waiting = connection._outbox_bytes
        await client.stream.send_all(b"".join(frame(0x89, b"%d" % number) for number in range(500)) + frame(0x82, b"x"))
        assert await connection.receive() == b"x"
        assert connection._outbox_bytes <= waiting
        frames = [("", b"")]
        while frames[-1][0] != "PONG":
            frames += await client.hear(1)
        assert frames[-1][1] == b"499"


async def test_ten_idle_days_are_no_message_without_end() -> None:
    """One pong each 20 s makes 43,200, of two bytes and a mask."""
    async with served() as (connection, client), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def idle() -> None:
            for _ in range(440):
                await client.stream.send_all(100 * frame(0x8A))
            await client.stream.send_all(frame(0x82, b"x"))

        assert await connection.receive() == b"x"


async def test_a_frame_that_is_half_written_is_finished_before_the_goodbye() -> None:
    """In the middle of it the code that says resume would be payload. It is not lost by a further reason either."""
    async with served() as (connection, client):
        sent = 0
        while not connection._is_cut:
            connection.send_nowait(bytes([65 + sent]) * 60_000)
            sent += 1
        connection.send_nowait(b"never written")
        connection.abort(4003, "slow")
        connection.abort(4004, "and fast")
        got = b""
        while len(got) < sent * 60_000:
            got += b"".join(payload for _, payload in await client.hear(1))
        assert got == b"".join(bytes([65 + number]) * 60_000 for number in range(sent))
        while not (heard := [one for one in await client.hear(1) if one[1]]):
            pass
        assert heard == [("CLOSE", (4003).to_bytes(2, "big"))]


async def test_an_error_of_one_owner_costs_that_one(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever is told that all is written may fail; the others are told all the same."""
    told: list[str] = []

    def fail() -> None:
        raise RuntimeError("unforeseen")

    def note() -> None:
        told.append("told")

    async with served() as (connection, client):
        connection.on_drained = fail
        connection.send_nowait(b"x")
        assert [kind for kind, _ in await client.hear(2)] == ["BINARY", "CLOSE"]
        other, theirs = socket.socketpair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(other))
        async with connection._websockets.accept(stream, ANSWER, b"") as second:
            second.on_drained = note
            second.send_nowait(b"x")
            await trio.testing.wait_all_tasks_blocked()
            theirs.close()
        await client.stream.aclose()
    assert told == ["told"]
    assert "unforeseen" in caplog.text


async def test_nothing_is_left_of_who_has_gone() -> None:
    """Also not in the list of those to be looked at, or of those that have written all."""
    websockets, told = Websockets(), trio.Event()
    async with websockets.run():
        for _ in range(3):
            ours, theirs = socket.socketpair()
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            async with websockets.accept(stream, ANSWER, b"") as connection:
                connection.on_drained = told.set
                connection.send_nowait(b"x")
                theirs.close()
            del connection, stream
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        assert not [one for one in gc.get_objects() if type(one) is ServedWebsocket]


def test_opcodes_are_those_of_the_other_library() -> None:
    """The numbers of RFC 6455 section 11.8."""
    assert {one.name: one.value for one in Opcode} == {one.name: one.value for one in frame_protocol.Opcode}
