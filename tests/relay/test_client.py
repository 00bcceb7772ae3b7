"""The client: it reaches the relay or says why not, and its session survives what happens to connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import icesignal
import pytest
import trio
from icesignal import wire
from icesignal.client_session import ClientSession
from icesignal.dial import with_own_host
from icesignal.engines import MemoryEngine
from icesignal.member_session import INBOX_MESSAGES
from icesignal.rooms import RoomLimits
from icesignal.server import Server, serve
from icesignal.url import parse_relay_url
from icesignal.wire import CloseCode
from relay_client import Restartable, connect_raw, cut, sealed_pair


@asynccontextmanager
async def pair(url: str) -> AsyncIterator[tuple[icesignal.Client, icesignal.Client]]:
    async with icesignal.open_client(url) as inviter, icesignal.open_client(url) as joiner:
        nameplate = await inviter.allocate(b"A")
        await joiner.join(nameplate, b"B")
        assert await inviter.wait_peer() == b"B"
        yield inviter, joiner


async def until(predicate: Callable[[], bool], look_every_s: float = 0.001) -> None:
    while not predicate():
        await trio.sleep(look_every_s)


@pytest.mark.parametrize(
    ("text", "host", "port", "tls"),
    [
        ("ws://192.0.2.1:8080", "192.0.2.1", 8080, False),
        ("192.0.2.1:8080", "192.0.2.1", 8080, False),
        ("wss://relay.example", "relay.example", 443, True),
        ("ws://[2001:db8::1]:80/v1", "2001:db8::1", 80, False),
    ],
)
def test_relay_urls_are_understood(text: str, host: str, port: int, tls: bool) -> None:
    """As people write them."""
    url = parse_relay_url(text)
    assert (url.host, url.port, url.is_tls) == (host, port, tls)


@pytest.mark.parametrize(
    "text", ["http://x", "ws://", "ws://x:99999", "", "ws://[::1", "ws://a..b", "ws://\udcff:1", f"ws://{'x' * 64}"]
)
def test_malformed_relay_urls_are_value_errors(text: str) -> None:
    """With an example of a right one."""
    with pytest.raises(ValueError, match="ws://192"):
        parse_relay_url(text)


@pytest.mark.parametrize(
    ("url", "host", "filled"),
    [
        ("stun::3478", "relay.example", "stun:relay.example:3478"),
        ("stun::3478", "2001:db8::1", "stun:[2001:db8::1]:3478"),
        ("stun:", "192.0.2.1", "stun:192.0.2.1"),
        ("turn::3478?transport=tcp", "192.0.2.1", "turn:192.0.2.1:3478?transport=tcp"),
        ("turns:?transport=tcp", "192.0.2.1", "turns:192.0.2.1?transport=tcp"),
        ("stun:other.example:3478", "relay.example", "stun:other.example:3478"),
        ("stun:[2001:db8::2]:3478", "relay.example", "stun:[2001:db8::2]:3478"),
    ],
)
def test_an_empty_host_means_the_relay_s_own(url: str, host: str, filled: str) -> None:
    """A relay behind a wildcard address does not know its name; whoever reached it does."""
    entries = [wire.RTCIceServer(urls=[url], username="u", credential="c")]
    assert with_own_host(entries, host) == [{"urls": [filled], "username": "u", "credential": "c"}]


async def test_a_closed_port_is_unreachable_with_a_reason() -> None:
    """At once, in a sentence that names the relay and what to do."""
    async with serve() as relay:
        url = relay.url
    with pytest.raises(icesignal.RelayUnreachable, match=r"connection refused.*iceagent serve") as caught:
        async with icesignal.open_client(url):
            pass
    assert url in str(caught.value)


@pytest.mark.parametrize("manner", ["silent", "silent after the request", "hangs up", "another protocol", "other http"])
async def test_what_is_no_relay_is_unreachable_within_the_timeout(manner: str, autojump_clock: object) -> None:
    """10 s at most, whatever is on the other end."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def handler(stream: trio.SocketStream) -> None:
        if manner == "silent after the request":
            await stream.receive_some()
        if manner == "another protocol":
            await stream.send_all(b"220 mail.example ESMTP\r\n")
        if manner == "other http":
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        if manner != "hangs up":
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, listeners)
        began = trio.current_time()
        with pytest.raises(icesignal.RelayUnreachable):
            async with icesignal.open_client(f"ws://127.0.0.1:{port}"):
                pass
        assert trio.current_time() - began <= 10.5
        nursery.cancel_scope.cancel()


async def test_a_wish_is_refused_in_its_own_words(relay: Server) -> None:
    """Unknown, used and taken nameplates are three different errors; the client may try another."""
    async with icesignal.open_client(relay.url) as client:
        with pytest.raises(icesignal.CodeUnknown):
            await client.join("999999999")
        nameplate = await client.allocate()
        assert client.room == nameplate
        with pytest.raises(RuntimeError, match="another client"):
            await client.allocate()
        async with icesignal.open_client(relay.url) as second, icesignal.open_client(relay.url) as third:
            await second.join(nameplate)
            with pytest.raises(icesignal.Crowded):
                await third.join(nameplate)


async def test_payloads_cross_both_ways_in_order(relay: Server) -> None:
    """More of them than may be unacknowledged at once."""
    async with pair(relay.url) as (inviter, joiner):

        async def talk(client: icesignal.Client) -> None:
            for number in range(150):
                await client.send(b"%d" % number)

        async def listen(client: icesignal.Client) -> None:
            assert [await client.receive() for _ in range(150)] == [b"%d" % number for number in range(150)]

        async with trio.open_nursery() as nursery:
            for client in (inviter, joiner):
                nursery.start_soon(talk, client)
                nursery.start_soon(listen, client)


@pytest.mark.parametrize("payload", [b"", bytes(wire.MAX_PAYLOAD_BYTES + 1)])
async def test_a_payload_out_of_bounds_is_the_caller_s_error(relay: Server, payload: bytes) -> None:
    """Told at once, not by the relay later."""
    async with pair(relay.url) as (inviter, _joiner):
        with pytest.raises(ValueError, match="1 to 61440"):
            await inviter.send(payload)


async def test_a_cut_connection_resumes_without_a_trace(relay: Server) -> None:
    """Messages said while one side was away arrive once and in order, both ways."""
    async with pair(relay.url) as (inviter, joiner):
        await inviter.send(b"before")
        assert await joiner.receive() == b"before"
        for turn in range(3):
            cut(joiner)
            await inviter.send(b"during %d" % turn)
            await joiner.send(b"mine %d" % turn)
            assert await joiner.receive() == b"during %d" % turn
            assert await inviter.receive() == b"mine %d" % turn
        assert relay.statistics()["engine_resumes"] == 3


async def test_who_is_cut_off_after_each_resume_asks_ever_more_seldom(relay: Server, autojump_clock: object) -> None:
    """A relay that cannot bear what a client says, or does not want to, is not to be dialled several times a second."""
    async with pair(relay.url) as (inviter, joiner):
        began_at, resumed = trio.current_time(), 0
        while trio.current_time() < began_at + 60:
            cut(joiner)
            await until(lambda count=resumed: relay.statistics().get("engine_resumes", 0) > count, 0.02)  # type: ignore[misc]
            resumed += 1
            await until(lambda: joiner.is_connected)
        assert resumed < 25
        await trio.sleep(10)  # one that stands is trusted again
        cut(joiner)
        again_at = trio.current_time()
        await inviter.send(b"back")
        assert await joiner.receive() == b"back"
        assert trio.current_time() < again_at + 1


async def test_a_connection_cut_during_an_entry_finds_its_place_again(relay: Server) -> None:
    """The answer was lost; the repeated wish must not meet itself as a third party."""
    async with icesignal.open_client(relay.url) as inviter, icesignal.open_client(relay.url) as joiner:
        nameplate = await inviter.allocate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(joiner.join, nameplate)
            await until(lambda: relay.statistics().get("engine_joined", 0) == 1 or not joiner.is_connected)
            cut(joiner)
        await joiner.send(b"here")
        assert await inviter.receive() == b"here"
        assert relay.statistics()["engine_rooms"] == 1


async def test_messages_lost_for_good_are_told_once(raw_to: object) -> None:
    """`MessagesLost` stands where they are missing, and what follows still arrives."""
    async with serve(engine=MemoryEngine(limits=RoomLimits(log_messages=2))) as relay, pair(relay.url) as (one, two):
        two._keeper.connection._stream._stream.socket.close()  # type: ignore[union-attr]
        await until(lambda: not two.is_connected)
        for number in range(6):
            await one.send(b"%d" % number)
        with pytest.raises(icesignal.MessagesLost):
            await two.receive()
        await one.send(b"after")
        assert await two.receive() == b"after"


async def test_a_reader_that_lags_gets_everything(relay: Server) -> None:
    """The inbox is bounded: the client lets go of the connection and resumes where it stopped."""
    total = INBOX_MESSAGES + 100
    async with pair(relay.url) as (inviter, joiner):
        session = joiner._session
        assert session is not None
        for number in range(total):
            await inviter.send(b"%d" % number)
            if number == INBOX_MESSAGES - 1:
                await until(lambda: len(session.inbox) == INBOX_MESSAGES)
        assert [await joiner.receive() for _ in range(total)] == [b"%d" % number for number in range(total)]
        assert session.counters["inbox_full"] >= 1


async def test_another_connection_may_take_the_session(relay: Server, raw) -> None:
    """Fenced is final: two programs that share a session would otherwise steal it from each other for ever."""
    async with pair(relay.url) as (inviter, _joiner), raw() as thief:
        session: Any = inviter._session
        answer = await thief.ask(wire.Resume(session=session.entry.session, token=session._token, epoch=1, seq=0))
        assert isinstance(answer, wire.Resumed)
        with pytest.raises(icesignal.SessionLost, match=r"another connection.* with a new code"):
            await inviter.receive()


async def test_a_restarted_relay_ends_the_session_with_a_sentence() -> None:
    """Its memory is gone; the client must not try for ever."""
    async with trio.open_nursery() as nursery:
        relay = Restartable(nursery)
        await relay.start()
        async with icesignal.open_client(relay.url) as client:
            await client.allocate()
            await relay.stop()
            await relay.start()
            with pytest.raises(icesignal.SessionLost, match=r"restarted, the other side has left, .* with a new code"):
                await client.wait_peer()
        await relay.stop()


async def test_a_relay_that_is_gone_is_noticed_when_the_session_is_over(autojump_clock: object) -> None:
    """Nothing raises by itself; waiting calls do, once the relay would have forgotten the session."""
    async with trio.open_nursery() as nursery:
        relay = Restartable(nursery)
        await relay.start()
        async with sealed_pair(relay.url) as (inviter, joiner):
            await relay.stop()
            began = trio.current_time()
            await trio.sleep(60)
            assert not joiner.is_over
            await joiner.send({"queued": True})
            with pytest.raises(icesignal.RelayUnreachable):
                await joiner.receive()
            assert 119 <= trio.current_time() - began <= 140
            with pytest.raises(icesignal.RelayUnreachable):
                await joiner.send({})
            assert joiner.key("link") == inviter.key("link")


async def test_a_relay_that_comes_back_in_time_is_used_again() -> None:
    """The engine kept its rooms while the node was replaced: the session goes on, nothing is lost."""
    async with trio.open_nursery() as nursery:
        relay = Restartable(nursery, MemoryEngine())
        await relay.start()
        async with icesignal.open_client(relay.url) as client:
            await client.allocate(b"A")
            await relay.stop()
            await client.send(b"said while nobody listened")
            await relay.start()
            async with icesignal.open_client(relay.url) as joiner:
                assert await joiner.join(client.room, b"B") == client.room
                assert await joiner.receive() == b"said while nobody listened"
                assert await client.wait_peer() == b"B"
        await relay.stop()


async def test_who_waits_at_a_relay_that_is_gone_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The code on the screen leads nowhere meanwhile; nothing else would say so for two minutes."""
    async with trio.open_nursery() as nursery:
        relay = Restartable(nursery, MemoryEngine())
        await relay.start()
        async with icesignal.open_client(relay.url) as client:
            await client.allocate(b"A")
            await relay.stop()
            await until(lambda: "is lost; trying to get it back" in caplog.text)
            await relay.start()
            await until(lambda: "is back" in caplog.text)
        assert [record.levelname for record in caplog.records if record.name == "icesignal.client"] == [
            "WARNING",
            "WARNING",
        ]
        await relay.stop()


async def test_who_waits_at_a_relay_that_stays_away_is_told_again(
    caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    """One line and then two minutes of nothing would look as if the code were good again."""
    async with trio.open_nursery() as nursery:
        relay = Restartable(nursery)
        await relay.start()
        async with icesignal.open_client(relay.url) as client:
            await client.allocate(b"A")
            await relay.stop()
            with pytest.raises(icesignal.RelayUnreachable):
                await client.wait_peer()
        told = [record.getMessage() for record in caplog.records if record.name == "icesignal.client"]
        assert "is lost; trying to get it back" in told[0]
        assert 7 <= len(told) - 1 <= 12
        assert all("gone for" in line for line in told[1:])


async def test_lost_sealed_messages_are_repeated_end_to_end() -> None:
    """The relay lost its log; the peers still hold what they said, and nothing is missing or twice."""
    engine = MemoryEngine(limits=RoomLimits(log_messages=2))
    async with serve(engine=engine) as relay, sealed_pair(relay.url) as (inviter, joiner):
        client = joiner._client
        cut(client)
        await until(lambda: not client.is_connected)
        for number in range(20):
            await inviter.send({"n": number})
            await trio.sleep(0)
        assert [(await joiner.receive())["n"] for _ in range(20)] == list(range(20))
        assert joiner.counters["repeats_asked"] >= 1


async def test_an_idle_client_comes_back_when_it_is_needed(autojump_clock: object) -> None:
    """The relay closes connections that ask nothing; the client reconnects as soon as there is something to ask."""
    async with serve() as relay, icesignal.open_client(relay.url) as client:
        await trio.sleep(40)
        assert not client.is_connected
        assert await client.allocate()


@pytest.mark.parametrize("code", [CloseCode.TOO_SLOW, CloseCode.TOO_FAST, CloseCode.GOING_AWAY])
async def test_close_codes_that_say_resume_are_obeyed(relay: Server, code: CloseCode, autojump_clock: object) -> None:
    """The session is intact; only this connection had to go."""
    async with pair(relay.url) as (inviter, joiner):
        for peer in list(relay._peers):
            peer.close(code)
        await inviter.send(b"still here")
        assert await joiner.receive() == b"still here"


async def test_a_cancelled_client_leaves_at_once_and_says_so(relay: Server) -> None:
    """Ctrl-C: the goodbye is shielded and bounded, and the peer hears that it was left."""
    async with icesignal.open_client(relay.url) as inviter:
        nameplate = await inviter.allocate()
        with trio.fail_after(60), trio.CancelScope() as scope:
            async with icesignal.open_client(relay.url) as joiner:
                await joiner.join(nameplate)
                scope.cancel()
                await trio.sleep_forever()
        await inviter.wait_peer()
        with pytest.raises(icesignal.PeerLeft):
            await inviter.receive()


async def test_a_cancelled_wish_may_be_followed_by_another(relay: Server) -> None:
    """A timeout around `allocate` must not leave the client in a room that nobody knows of."""
    async with icesignal.open_client(relay.url) as client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.allocate()
        assert scope.cancelled_caught
        assert await client.allocate()


async def test_many_senders_share_one_channel_in_order(relay: Server) -> None:
    """Counters go out in the order in which they were used; nothing has to be repeated."""
    async with sealed_pair(relay.url) as (inviter, joiner):
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(inviter.send, {"n": number})
        assert sorted([(await joiner.receive())["n"] for _ in range(40)]) == list(range(40))
        assert joiner.counters["repeats_asked"] == 0


async def test_members_get_ice_servers_anew_and_nobody_else() -> None:
    """Credentials end before a long session does; and they are for members, not for passers-by."""
    made = 0

    def servers(source: str) -> list[dict[str, object]]:
        nonlocal made
        made += 1
        return [{"urls": ["turn:192.0.2.1:3478"], "username": f"{made}:x", "credential": "y", "ttl": 60}]

    async with serve(ice_servers=servers) as relay:
        async with pair(relay.url) as (inviter, _):
            (first,) = known = inviter.ice_servers
            assert first["ttl"] == 60
            (second,) = await inviter.renew_ice_servers()
            assert second["username"] != first["username"]
            assert await inviter.wait_ice_servers(known) == inviter.ice_servers == [second]
            inviter.close()
            with pytest.raises(icesignal.SignalError):
                await inviter.renew_ice_servers()
        async with connect_raw(relay.url) as stranger:
            answer = await stranger.ask(wire.AskServers())
            assert isinstance(answer, wire.Error)
            assert answer.code == wire.RelayErrorCode.NOT_JOINED


async def test_a_relay_that_does_not_offer_it_is_not_asked(monkeypatch: pytest.MonkeyPatch, relay: Server) -> None:
    """To a relay of before the frame would be an error, which ends a session."""
    monkeypatch.setattr(wire, "OFFERS_SERVERS", "what nobody offers")
    async with pair(relay.url) as (inviter, joiner):
        monkeypatch.setattr(wire, "OFFERS_SERVERS", "servers of another kind")
        with pytest.raises(icesignal.RelayRefused):
            await inviter.renew_ice_servers()
        await inviter.send(b"still here")
        assert await joiner.receive() == b"still here"


def test_a_place_is_given_once_for_each_connection() -> None:
    """What a relay says again and again fills nobody's memory, in a room of two neither."""
    session = ClientSession(wire.Join(session=bytes(16), nameplate="7", opening=bytes(33)))
    given = {
        "room": "7",
        "role": "joiner",
        "token": bytes(16),
        "epoch": 1,
        "seq": 0,
        "peer": "present",
        "opening": b"",
        "client_seq": 0,
        "resume_s": 120,
    }
    session.handle_frame(wire.Joined(**given))  # type: ignore[arg-type]
    for _ in range(3):
        session.handle_frame(wire.Resync(**given))  # type: ignore[arg-type]
    assert not session.inbox
    assert session.counters["unexpected_frames"] == 3
