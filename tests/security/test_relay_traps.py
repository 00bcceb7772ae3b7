"""The relay under people who want it for themselves: traps 47 to 51, and 42 where ports are involved."""

from __future__ import annotations

import errno
import gc
import itertools
import re
import signal
import subprocess
import sys
import tracemalloc
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from secrets import token_bytes

import icesignal
import pytest
import trio
from icesignal import http, wire
from icesignal.engines import MemoryEngine
from icesignal.nameplates import FEW_GUESSES, Nameplates
from icesignal.proxy import address_untrusted, forwarded_for, forwarded_values
from icesignal.rooms import RoomLimits, RoomTable
from icesignal.server import Server, serve
from icesignal.sources import Limits, Rate, Shares, SourceTable, levels_of, parse_networks
from icesignal.wire import CloseCode, RelayErrorCode
from relay_client import RawClient, connect_raw, speaking_for

from iceagent.session.relay import open_relay

LOOPBACK = ["127.0.0.0/8"]


def allocate() -> wire.Allocate:
    return wire.Allocate(session=token_bytes(16))


def join(nameplate: str) -> wire.Join:
    return wire.Join(session=token_bytes(16), nameplate=nameplate)


async def until_hung_up(stream: trio.SocketStream) -> bytes:
    """Return what came before the end, whichever way it ended."""
    said = b""
    try:
        while data := await stream.receive_some():
            said += data
    except trio.BrokenResourceError:
        pass
    return said


# -- 39: no listing


async def test_trap_39_there_are_no_pages_but_those_that_are_known() -> None:
    """A new page has to be thought about here: what it says, anybody may read."""
    known = {"/": 200, "/healthz": 200, "/readyz": 200, "/metrics": 200, "/v1": 426}
    written = set(re.findall(r'case "(/[^"]*)"', Path(http.__file__).read_text(encoding="utf-8")))
    assert written == set(known)
    async with serve() as relay, connect_raw(relay.url) as client:
        room = await client.ask(allocate())
        assert isinstance(room, wire.Joined)
        for path, status in {**known, "/rooms": 404, f"/{room.room}": 404, "/debug": 404, "//": 404}.items():
            async with await trio.open_tcp_stream("127.0.0.1", relay.port) as stream:
                await stream.send_all(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
                head, _, body = (await until_hung_up(stream)).partition(b"\r\n\r\n")
            assert int(head[9:12]) == status
            assert b"nameplate" not in body


# -- 47: refused connections hold nothing


async def test_trap_47_a_refused_connection_holds_nothing(autojump_clock: object) -> None:
    """400 a second of one address, held for 5 s each, were all descriptors there are: nobody else got in."""
    async with serve(limits=Limits(connections=Rate(1, 0))) as relay, AsyncExitStack() as stack:
        admitted = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", relay.port))
        await trio.sleep(0.5)
        began, tasks = trio.current_time(), trio.lowlevel.current_statistics().tasks_living
        for _ in range(50):  # says nothing, and does not hang up by itself
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", relay.port))
            assert (await until_hung_up(stream)).startswith(b"HTTP/1.1 429 ")
        await trio.sleep(0.5)
        assert trio.current_time() - began < 2.0, "each at once, not after a timeout"
        assert trio.lowlevel.current_statistics().tasks_living == tasks, "none of them is still being served"
        assert relay.statistics()["connections_open"] == 1
        assert relay.counters["connections_refused"] == 50
        assert admitted


@pytest.mark.parametrize("header", [b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 80\r\n", b""])
async def test_trap_47_a_refused_client_of_a_proxy_holds_nothing(header: bytes, autojump_clock: object) -> None:
    """By a PROXY header it was known who asks before the request: refused, he was waited for 5 s all the same."""
    request = b"GET /nothing HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n"
    limits = Limits(connections=Rate(1, 0))
    async with serve(limits=limits, trusted_proxies=LOOPBACK) as relay, AsyncExitStack() as stack:

        async def ask() -> bytes:
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", relay.port))
            await stream.send_all(header + request)  # and does not hang up by itself
            return await until_hung_up(stream)

        assert (await ask()).startswith(b"HTTP/1.1 404 ")
        began = trio.current_time()
        for _ in range(20):
            assert (await ask()).startswith(b"HTTP/1.1 429 ")
        assert relay.counters["connections_refused"] == 20
        await trio.sleep(0.2)
        assert relay.statistics()["connections_open"] <= 1, "the first one at most, which was answered"
        assert trio.current_time() - began < 4.0, "each at once, not after a timeout"


async def test_trap_47_one_source_cannot_take_the_relay_offline(autojump_clock: object) -> None:
    """Whoever has had enough is gone before a place is made for him, be it at the cost of others."""
    limits = Limits(max_connections=4, max_connections_per_source=2, work_tries=0)
    async with serve(limits=limits, trusted_proxies=LOOPBACK) as relay, AsyncExitStack() as stack:
        member = await stack.enter_async_context(connect_raw(relay.url, source="198.51.100.1"))
        await member.ask(allocate())
        for _ in range(20):
            stream = await speaking_for("203.0.113.7")("127.0.0.1", relay.port)
            stack.push_async_callback(trio.aclose_forcefully, stream)
        await trio.sleep(0.5)
        async with connect_raw(relay.url, source="192.0.2.1") as other:
            assert isinstance(await other.ask(allocate()), wire.Joined)
        assert member.connection.is_open


async def test_trap_47_connections_that_do_nothing_make_place_for_others(autojump_clock: object) -> None:
    """Half a handshake, half a request, a websocket that asks nothing: a full relay sheds the oldest of them first."""
    async with serve(limits=Limits(max_connections=4, work_tries=0)) as relay, AsyncExitStack() as stack:
        for part in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\x16\x03\x01", b"P"):
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", relay.port))
            await stream.send_all(part)
        await trio.sleep(0.1)
        members: list[RawClient] = []
        for _ in range(4):
            member = await stack.enter_async_context(connect_raw(relay.url))
            assert isinstance(await member.ask(allocate()), wire.Joined)
            members.append(member)
        assert relay.counters["connections_shed"] == 4
        with pytest.raises(icesignal.RelayRefused, match="503"):  # who is in a room is never shed
            await stack.enter_async_context(connect_raw(relay.url))
        assert all(member.connection.is_open for member in members)


async def test_trap_47_talk_alone_does_not_keep_a_place(autojump_clock: object) -> None:
    """A frame that asks for nothing, every few seconds, must not hold a connection that is in no room."""
    async with serve(limits=Limits(first_frame_s=10)) as relay, connect_raw(relay.url) as client:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def talk() -> None:
                for _ in range(20):
                    client.say_bytes(wire.encode(wire.Welcome(versions=[1])))
                    await trio.sleep(2)

            assert await client.end() == CloseCode.IDLE
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 12


async def test_trap_47_accepting_goes_on_after_any_error(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No descriptors, no memory, or what nobody thought of: a listener that has stopped is a relay that is gone."""
    accept = trio.SocketListener.accept
    errors = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EIO, errno.EINVAL, *[errno.EMFILE] * 50]

    async def fails_first(listener: trio.SocketListener) -> trio.SocketStream:
        if errors:
            raise OSError(errors.pop(0), "no")
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", fails_first)
    async with serve() as relay:
        await trio.sleep(30)
        async with icesignal.open_client(relay.url) as client:
            assert await client.allocate()
    assert caplog.text.count("no connection can be accepted") == 1, "a log that strangers can grow is bounded"


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "program",
    [
        ["-c", "from icesignal.main import main; main()", "--listen", "127.0.0.1:0", "--json"],
        ["-m", "iceagent", "serve", "--listen", "127.0.0.1:0", "--json"],
    ],
)
async def test_trap_47_a_relay_takes_the_descriptors_it_may_have(program: list[str]) -> None:
    """1,024 is what shells give; the system lets each process have more if it asks."""
    command = ["sh", "-c", 'ulimit -Sn 300 && ulimit -Hn 2000 && exec "$0" "$@"', sys.executable, *program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "listening" in process.stdout.readline()
            limits = Path(f"/proc/{process.pid}/limits").read_text(encoding="ascii")
            assert re.search(r"Max open files +2000 ", limits)
        finally:
            process.send_signal(signal.SIGTERM)


async def test_trap_47_there_are_never_more_connections_than_descriptors(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """Where the system gives few, the relay says no in words, and goes on."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (8, 8))
    async with serve(limits=Limits(work_tries=0)) as relay, AsyncExitStack() as stack:
        for _ in range(4):
            member = await stack.enter_async_context(connect_raw(relay.url))
            await member.ask(allocate())
        assert not relay.is_ready
        with pytest.raises(icesignal.RelayRefused, match="503"):
            await stack.enter_async_context(connect_raw(relay.url))


# -- 48: a full log can be resumed


@pytest.mark.parametrize(("count", "size"), [(256, 4_096), (17, 60_000), (256, 100)])
async def test_trap_48_a_full_log_can_be_resumed(count: int, size: int) -> None:
    """The replay overflowed the outbox and was answered with 4003, each time anew."""
    limits = Limits(bytes=Rate(1e12, 1e12))
    async with serve(limits=limits) as relay, connect_raw(relay.url) as inviter, AsyncExitStack() as stack:
        room = await inviter.ask(allocate())
        assert isinstance(room, wire.Joined)
        entry = join(room.room)
        async with connect_raw(relay.url) as joiner:
            joined = await joiner.ask(entry)
            assert isinstance(joined, wire.Joined)
        for number in range(1, count + 1):
            inviter.say(wire.Send(client_seq=number, payload=number.to_bytes(4, "big") + bytes(size - 4)))
            while not isinstance(await inviter.hear(), wire.Ack):
                pass
        joiner = await stack.enter_async_context(connect_raw(relay.url))
        resumed = await joiner.ask(wire.Resume(session=entry.session, token=joined.token, epoch=joined.epoch, seq=0))
        assert isinstance(resumed, wire.Resumed)
        messages = []
        with trio.fail_after(60):
            messages = [await joiner.hear() for _ in range(count)]
        numbers = [int.from_bytes(one.payload[:4], "big") for one in messages if isinstance(one, wire.Message)]
        assert numbers == list(range(1, count + 1))
        assert joiner.connection.is_open


async def test_trap_48_what_waits_for_a_reader_waits_in_the_log() -> None:
    """A reader that stands still costs a window, not a copy of the log; the final messages come whole all the same."""
    limits = RoomLimits(window_bytes=8_192)
    table = RoomTable(randbytes=token_bytes, limits=limits)
    table.handle_frame(0.0, 1, wire.Allocate(session=b"a" * 16))
    given = [output.frame for output in iter(table.poll_output, None)]
    assert isinstance(given[0], wire.Joined)
    table.handle_frame(0.0, 2, wire.Join(session=b"b" * 16, nameplate=given[0].room))
    list(iter(table.poll_output, None))
    for number in range(1, 101):
        table.handle_frame(0.0, 1, wire.Send(client_seq=number, payload=bytes(1_024)))

    def messages_given() -> int:
        outputs = list(iter(table.poll_output, None))
        return sum(isinstance(output.frame, wire.Message) for output in outputs if output.connection == 2)

    assert messages_given() == 8
    table.handle_drained(0.0, 2)
    assert messages_given() == 8
    table.handle_frame(0.0, 1, wire.Close(reason="done"))
    assert messages_given() == 84


async def test_trap_48_who_falls_out_of_the_log_is_told_to_resume() -> None:
    """It was given nothing for so long that the log has moved on: a resync is due, and never silence."""
    table = RoomTable(randbytes=token_bytes, limits=RoomLimits(window_bytes=1, log_messages=10))
    table.handle_frame(0.0, 1, wire.Allocate(session=b"a" * 16))
    (output,) = iter(table.poll_output, None)
    assert isinstance(output.frame, wire.Joined)
    table.handle_frame(0.0, 2, wire.Join(session=b"b" * 16, nameplate=output.frame.room))
    (joined, _) = iter(table.poll_output, None)
    assert isinstance(joined.frame, wire.Joined)
    for number in range(1, 20):
        table.handle_frame(0.0, 1, wire.Send(client_seq=number, payload=b"x"))
    outputs = [one for one in iter(table.poll_output, None) if one.connection == 2 and not one.is_confirmed]
    assert [type(one.frame) for one in outputs] == [wire.Message, type(None)]
    assert outputs[-1].close == CloseCode.TOO_SLOW
    resume = wire.Resume(session=b"b" * 16, token=joined.frame.token, epoch=joined.frame.epoch, seq=1)
    table.handle_frame(0.0, 3, resume)
    assert isinstance(next(iter(table.poll_output, None)).frame, wire.Resync)


async def test_trap_48_what_a_client_says_again_fits_its_own_outbox(autojump_clock: object) -> None:
    """The same on the other side: 64 unacknowledged messages of 60 KiB were more than a new connection took."""
    payload = bytes(wire.MAX_PAYLOAD_BYTES)
    async with serve() as relay, icesignal.open_client(relay.url) as one, icesignal.open_client(relay.url) as two:
        await two.join(await one.allocate())
        assert one._keeper.connection is not None
        one._keeper.connection._stream._stream.socket.close()  # type: ignore[attr-defined]
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def say() -> None:
                for _ in range(40):
                    await one.send(payload)

            with trio.fail_after(60):
                for _ in range(40):
                    assert await two.receive() == payload
            nursery.cancel_scope.cancel()


# -- 49: one network is one network


def network_of(number: int) -> str:
    """Return an address in another /64 of the same /56 for each number up to 255."""
    return f"2001:db8:0:{number:x}::1"


async def claims_of(relay: Server, nameplates: list[str], sources: list[str]) -> int:
    """Have each source in turn join and leave as long as it may; return how many strangers' codes that killed."""
    left, killed = list(nameplates), 0
    for source in sources:
        while left:
            async with connect_raw(relay.url, source=source) as attacker:
                answer = await attacker.ask(join(left[-1]))
            if not isinstance(answer, wire.Joined):
                assert isinstance(answer, wire.Error)
                assert answer.code == RelayErrorCode.RATE
                break
            killed += 1
            left.pop()
    return killed


async def test_trap_49_one_network_does_not_claim_everybodys_codes() -> None:
    """48 networks of 64 bits in one of 56 claimed 60 of 60 codes in half a second."""
    limits = Limits(claims=Rate(Limits().claims.burst, 0))  # not what the time of the test adds
    async with serve(limits=limits, trusted_proxies=LOOPBACK) as relay, AsyncExitStack() as stack:
        nameplates = []
        for _ in range(60):
            inviter = await stack.enter_async_context(icesignal.open_client(relay.url))
            nameplates.append(await inviter.allocate())
        assert await claims_of(relay, nameplates, [network_of(number) for number in range(48)]) <= 20


async def test_trap_49_a_claim_that_leaves_is_paid_for() -> None:
    """It kills the code as a wrong guess does, and cost a fifth of one."""
    async with serve(limits=Limits(claims=Rate(3, 0))) as relay, AsyncExitStack() as stack:
        for number in range(4):
            inviter = await stack.enter_async_context(connect_raw(relay.url))
            room = await inviter.ask(allocate())
            assert isinstance(room, wire.Joined)
            async with connect_raw(relay.url) as joiner:
                answer = await joiner.ask(join(room.room))
                assert isinstance(answer, wire.Joined if number < 3 else wire.Error)
                if number == 1:
                    joiner.say(wire.Send(client_seq=1, payload=b"what a guesser says proves nothing"))


async def test_trap_49_a_claim_that_was_right_costs_nothing() -> None:
    """A household may use as many codes as it likes: the inviter's second word shows that the joiner knew the code."""
    async with serve(limits=Limits(claims=Rate(1, 0), joins=Rate(100, 0), dear_tries=0)) as relay:
        for _ in range(5):
            async with icesignal.open_invitation(relay.url) as invitation, trio.open_nursery() as nursery:
                nursery.start_soon(speak_twice, invitation)
                async with icesignal.open_join(relay.url, invitation.code) as joined:
                    assert await joined.receive() == {"second": "word"}


async def speak_twice(invitation: icesignal.Invitation) -> None:
    channel = await invitation.wait_peer()  # its first message was its proof
    await channel.send({"second": "word"})


async def test_trap_49_one_network_does_not_hold_all_rooms() -> None:
    """101 networks of 64 bits filled 10,000 rooms in 20 s."""
    engine = MemoryEngine(limits=RoomLimits(max_rooms=30, rooms_per_source=4))
    async with serve(engine=engine, trusted_proxies=LOOPBACK) as relay, AsyncExitStack() as stack:

        async def rooms_of(source: str) -> int:
            for number in itertools.count():
                client = await stack.enter_async_context(connect_raw(relay.url, source=source))
                answer = await client.ask(allocate())
                if isinstance(answer, wire.Error):
                    assert answer.code == RelayErrorCode.RATE
                    return number
            raise AssertionError

        assert await rooms_of(network_of(0)) == 4
        assert sum([await rooms_of(network_of(number)) for number in range(1, 8)]) == 4, "a /56 has twice as many"
        assert sum([await rooms_of(f"2001:db8:0:{n}00::1") for n in range(1, 8)]) == 8, "a /48 four times"
        assert await rooms_of("2001:db8:1::1") == 4


def test_trap_49_memory_of_logs_is_shared_out() -> None:
    """A room's log is bounded, and so is what all of a network's rooms hold: the rest is for others."""
    shares = Shares(max_rooms=10, max_log_bytes=1_000)
    first, second = levels_of(network_of(1)), levels_of(network_of(2))
    for levels in (first, second):
        shares.open(levels)
    shares.store(first, 1_000)
    assert not shares.may_store(first, 1)
    assert shares.may_store(second, 1_000)
    shares.store(second, 1_000)
    assert not shares.may_store(levels_of(network_of(3)), 1), "the /56 has had its share"
    assert shares.may_store(levels_of("192.0.2.1"), 1_000)
    shares.close(first, 1_000)
    assert shares.may_store(levels_of(network_of(3)), 1_000)
    shares.close(second, 1_000)
    assert len(shares) == 0, "who has no room is forgotten"


async def test_trap_49_one_network_does_not_fill_all_logs() -> None:
    """The same at the door: whoever has had his share is told to wait, and others are not."""
    table = RoomTable(randbytes=token_bytes, limits=RoomLimits(log_bytes_per_source=1_256))

    def say(connection: int, frame: wire.Frame, source: str) -> wire.Frame | None:
        table.handle_frame(0.0, connection, frame, levels_of(source))
        return next(one.frame for one in iter(table.poll_output, None))

    answers: list[wire.Frame | None] = []
    for connection in range(4):
        source = "192.0.2.1" if connection == 3 else network_of(connection)
        say(connection, allocate(), source)
        answers += [say(connection, wire.Send(client_seq=1, payload=bytes(1_000)), source)]
    assert [type(answer) for answer in answers] == [wire.Ack, wire.Ack, wire.Error, wire.Ack]


def test_trap_49_small_messages_are_no_free_memory() -> None:
    """A payload of one byte takes 200: 10,000 rooms full of them held 500 MB where 256 MiB may be, and told of 3."""
    total, rooms = 256 << 10, 20
    table = RoomTable(randbytes=token_bytes, limits=RoomLimits(total_log_bytes=total))

    def say(connection: int, frame: wire.Frame) -> wire.Frame | None:
        table.handle_frame(0.0, connection, frame)
        return next(one.frame for one in iter(table.poll_output, None))

    accepted = 0
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for connection in range(rooms):
            say(connection, allocate())
            for number in range(1, 251):
                answer = say(connection, wire.Send(client_seq=number, payload=bytes([number])))
                accepted += isinstance(answer, wire.Ack)
            answer = None
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before - rooms * 4_096  # rooms and sessions, which have bounds
    finally:
        tracemalloc.stop()
    assert 500 < accepted < 250 * rooms, "the logs are full"
    assert held <= total
    assert held <= table.log_bytes <= total, "what it tells is what they take"
    for connection in range(rooms):
        table.handle_frame(0.0, connection, wire.Close(reason="left"))
    assert table.log_bytes == 0


def test_trap_49_sources_pay_at_every_level_or_not_at_all() -> None:
    """What the network is refused is not taken from the source either."""
    table = SourceTable(Limits(joins=Rate(2, 0)))
    assert [table.party(0.0, network_of(n)).take("joins", 0.0) for n in range(6)] == [True] * 4 + [False] * 2
    assert table.get(0.0, levels_of(network_of(5))[0][0]).buckets["joins"].tokens == 2


def test_trap_49_new_nameplates_grow_while_there_is_guessing() -> None:
    """Short numbers are for people; a guesser shall find nothing at the numbers he can go through."""
    plates = Nameplates(token_bytes, rest_s=600, max_resting=1_000)
    first = plates.take(0.0)
    assert len(first) == 4
    plates.claim(first)
    for _ in range(int(FEW_GUESSES) * 16):
        plates.note_guess(0.0)
    assert len(plates.take(0.0)) == 7
    assert len(plates.take(3_600.0)) == 4, "and short again when it is over"


async def test_trap_49_guesses_of_every_kind_count() -> None:
    """Unknown numbers, taken places, and places that were taken and left."""
    table = RoomTable(randbytes=token_bytes)

    def say(connection: int, frame: wire.Frame) -> wire.Frame:
        table.handle_frame(0.0, connection, frame)
        frames = [one.frame for one in iter(table.poll_output, None) if one.connection == connection]
        assert frames[0] is not None
        return frames[0]

    room = say(1, allocate())
    assert isinstance(room, wire.Joined)
    assert len(room.room) == 4
    say(2, join(room.room))
    say(3, join(room.room))  # crowded
    for number in range(4, 10):
        say(number, join("999999999"))
    table.handle_frame(0.0, 2, wire.Close(reason="left"))
    longer = say(20, allocate())
    assert isinstance(longer, wire.Joined)
    assert len(longer.room) == 5


# -- 50: web pages

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%s"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def status_with(relay: Server, *origins: bytes) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", relay.port) as stream:
        await stream.send_all(UPGRADE % b"".join(b"Origin: %s\r\n" % origin for origin in origins))
        return bytes(await stream.receive_some())[9:12]


async def test_trap_50_web_pages_are_refused_unless_configured() -> None:
    """Any page could have its visitors burn codes, each from an address and a budget of his own."""
    async with serve() as relay:
        for origin in (b"https://evil.example", b"null", b"http://127.0.0.1", b"", b"\xff", b"file://"):
            assert await status_with(relay, origin) == (b"101" if not origin else b"403")
        assert await status_with(relay) == b"101", "programs send none"
        async with icesignal.open_client(relay.url):
            pass
        assert relay.counters["origins_refused"] == 5
    async with serve(allow_origins=["https://Page.example:443/", "http://dev.example:8000"]) as relay:
        assert await status_with(relay, b"https://page.example") == b"101"
        assert await status_with(relay, b"http://dev.example:8000") == b"101"
        for origin in (b"http://page.example", b"https://page.example:444", b"https://page.example.evil.example"):
            assert await status_with(relay, origin) == b"403"
        assert await status_with(relay, b"https://page.example", b"https://evil.example") == b"403"
    async with serve(allow_origins=["*"]) as relay:
        assert await status_with(relay, b"https://anything.example") == b"101"


@pytest.mark.parametrize(
    "origin", ["page.example", "https://page.example/path", "https://u@page.example", "https://x:y"]
)
async def test_trap_50_a_malformed_origin_stops_the_start(origin: str) -> None:
    """One that never matches would be looked for long."""
    with pytest.raises(ValueError, match="origin"):
        async with serve(allow_origins=[origin]):
            pass


# -- 51: the relay of one command


async def test_trap_51_the_relay_of_one_command_serves_its_room_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers stored 179 MiB in the relay of somebody's `listen`."""
    monkeypatch.delenv("ICEAGENT_RELAY", raising=False)
    async with open_relay(None) as place:
        assert place.address is not None
        outside = f"ws://{place.address}"
        async with connect_raw(outside) as stranger:
            for frame in (allocate(), wire.Meet(session=token_bytes(16), name=b"n" * 32, role="inviter")):
                answer = await stranger.ask(frame)
                assert isinstance(answer, wire.Error)
                assert answer.code == RelayErrorCode.FORBIDDEN
        wrong = outside.replace("ws://", "ws://owner:wrong@")
        async with icesignal.open_client(wrong) as stranger_with_a_guess:
            with pytest.raises(icesignal.RelayRefused, match="use another relay"):
                await stranger_with_a_guess.allocate()
        async with icesignal.open_invitation(place.url, address=place.address) as invitation:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(invitation.wait_peer)
                async with icesignal.open_join(None, invitation.code):
                    pass
            assert len(invitation.nameplate) >= 4, "its code carries an address; the number is not to be gone through"
            await _meet_again_at_a_relay_with_an_owner(place.url, outside)
        assert "owner" not in repr(place)
        assert place.shown == outside


async def _meet_again_at_a_relay_with_an_owner(inside: str, outside: str) -> None:
    """The two of a session may, once the owner is there; nobody else knows where."""
    name, key = token_bytes(32), token_bytes(32)
    owner, guest = (icesignal.Rendezvous(role, name, key) for role in ("inviter", "joiner"))
    with pytest.raises(icesignal.RelayRefused):
        async with icesignal.open_rendezvous(outside, guest):
            pass
    met = trio.Event()

    async def wait() -> None:
        async with icesignal.open_rendezvous(inside, owner):
            met.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        while not met.is_set():
            with suppress(icesignal.RelayRefused):  # before the owner is
                async with icesignal.open_rendezvous(outside, guest):
                    await met.wait()


# -- 42: who is behind a proxy

PROXIES = parse_networks(["10.0.0.0/8", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("198.51.100.7:5678", "198.51.100.7"),
        ("  198.51.100.7 :1", None),
        ('"198.51.100.7:5678"', "198.51.100.7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:5678", "2001:db8::7"),
        ('"[2001:db8::7]:5678"', "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6"),
        ("::ffff:198.51.100.7", "::ffff:c633:6407"),  # which `source_of` counts as IPv4
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%eth0]:80", "fe80::1"),
        ("unknown", None),
        ("_hidden", None),
        ("198.51.100.7:99999999", None),
        ("198.51.100.300", None),
        ("", None),
        ("[::1", None),
        ("::1]:80", None),
    ],
)
def test_trap_42_addresses_are_read_with_and_without_ports(text: str, address: str | None) -> None:
    """With a port none was read, all clients of that gateway were one source, and 36 of 100 got 429."""
    assert address_untrusted(text) == address


@pytest.mark.parametrize(
    ("x_forwarded_for", "forwarded", "source"),
    [
        ([b"198.51.100.7:4711"], [], "198.51.100.7"),
        ([b"203.0.113.9", b"198.51.100.7:4711"], [], "198.51.100.7"),
        ([], [b'for="[2001:db9::7]:4711";proto=https'], "2001:db9::7"),
        ([], [b"For=203.0.113.9", b"proto=http; for=198.51.100.7;by=10.0.0.1"], "198.51.100.7"),
        ([], [b"for=198.51.100.7", b"for=unknown"], "10.0.0.1"),
        ([], [b"by=198.51.100.7"], "10.0.0.1"),
        ([], [b"notfor=198.51.100.7"], "10.0.0.1"),
        ([b"198.51.100.7"], [b"for=198.51.100.7"], "198.51.100.7"),
        ([b"198.51.100.7"], [b"for=203.0.113.9"], "10.0.0.1"),  # one of them is the client's own invention
    ],
)
def test_trap_42_the_chain_is_that_of_the_proxy(
    x_forwarded_for: list[bytes], forwarded: list[bytes], source: str
) -> None:
    """Believed is what the configured proxy says, in either of the two headers there are."""
    assert forwarded_for("10.0.0.1", forwarded_values(x_forwarded_for, forwarded), PROXIES) == source
    assert forwarded_for("192.0.2.1", forwarded_values(x_forwarded_for, forwarded), PROXIES) == "192.0.2.1"


async def test_trap_42_a_hundred_clients_of_one_gateway_are_a_hundred_sources() -> None:
    """Each with a port, as some gateways write it."""
    limits = Limits(connections=Rate(2, 0))
    async with serve(limits=limits, trusted_proxies=LOOPBACK) as relay:
        for number in range(100):
            async with await trio.open_tcp_stream("127.0.0.1", relay.port) as stream:
                client = b"X-Forwarded-For: 198.51.%d.1:4711\r\n" % number
                await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n%s\r\n" % client)
                assert (await until_hung_up(stream)).startswith(b"HTTP/1.1 200 ")
