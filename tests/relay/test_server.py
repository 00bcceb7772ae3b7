"""The relay as a server: what it answers, whom it turns away, and that nothing brings it down."""

from __future__ import annotations

import contextlib
import logging
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import randbytes

import icesignal
import msgpack
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from icesignal import transport, websocket, wire
from icesignal.logs import FewLines
from icesignal.server import Server, serve
from icesignal.sources import Limits, Rate
from icesignal.wire import CloseCode, RelayErrorCode

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def session(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.mark.parametrize(
    ("request_line", "status", "says"),
    [
        (b"GET /healthz", 200, b"ok"),
        (b"GET /readyz", 200, b"ready"),
        (b"GET /metrics", 200, b"# TYPE icesignal_connections_open gauge\nicesignal_connections_open 1\n"),
        (b"GET /", 200, b"<h1>icesignal relay</h1>"),
        (b"GET /healthz?x=1", 200, b"ok"),
        (b"HEAD /healthz", 200, b""),
        (b"GET /v1", 426, b"websocket"),
        (b"GET /nothing", 404, b"Not Found"),
        (b"POST /", 405, b"Method Not Allowed"),
        (b"DELETE /metrics", 405, b""),
    ],
)
async def test_the_port_answers_plain_http(relay: Server, http_exchange, request_line, status, says) -> None:
    """Load balancers and people look at the same port."""
    answer = await http_exchange(relay.port, request_line + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert says in body
    if request_line.startswith(b"HEAD"):
        assert body == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS on the plain port
        (b"garbage\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 20_000, 431),
        (UPGRADE.replace(b"GET", b"POST"), 405),
        (UPGRADE.replace(b"Version: 13", b"Version: 8"), 426),
        (UPGRADE.replace(b"AAAA==", b"AA=="), 400),
        (UPGRADE.replace(b"AAAAAAAAAAAAAAAAAAAAAA==", b"\xff"), 400),
        (UPGRADE.replace(b"keep-alive, Upgrade", b"close"), 400),
        (UPGRADE.replace(b"GET / ", b"GET /elsewhere "), 404),
    ],
)
async def test_what_is_no_request_is_told_so(relay: Server, http_exchange, data: bytes, status: int) -> None:
    """A clear status instead of a silent hang-up."""
    assert (await http_exchange(relay.port, data)).startswith(b"HTTP/1.1 %d " % status)
    assert relay.counters["internal_errors"] == 0


async def test_an_odd_but_valid_upgrade_is_accepted(relay: Server, http_exchange) -> None:
    """Only what matters reaches the websocket library: no extension is accepted, no odd Host can confuse it."""
    odd = UPGRADE.replace(b"Host: x", b"Host: xn--\xff.\xff").replace(
        b"Upgrade: websocket", b"Upgrade: WebSocket\r\nSec-WebSocket-Extensions: permessage-deflate"
    )
    stream = await trio.open_tcp_stream("127.0.0.1", relay.port)
    async with stream:
        await stream.send_all(odd)
        answer = await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"deflate" not in answer


async def test_slow_headers_are_shed(autojump_clock: object) -> None:
    """A connection that dribbles its request must not hold a place for ever."""
    async with serve(limits=Limits(header_timeout_s=3)) as relay:
        stream = await trio.open_tcp_stream("127.0.0.1", relay.port)
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost:")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 408 ")
        assert relay.counters["headers_too_slow"] == 1


async def test_a_port_in_use_raises_what_the_system_said(relay: Server) -> None:
    """The command line turns this into its exit code."""
    with pytest.raises(OSError) as caught:
        async with serve(port=relay.port):
            pass
    assert caught.value.errno is not None


@pytest.mark.parametrize(
    "arguments", [{"ice_servers": [{"url": "stun:x"}]}, {"ice_servers": [{"urls": []}]}, {"trusted_proxies": ["ten"]}]
)
async def test_malformed_configuration_stops_the_start(arguments: dict[str, list[object]]) -> None:
    """Before anything listens."""
    with pytest.raises(ValueError):
        async with serve(**arguments):  # type: ignore[arg-type]
            pass


async def test_an_oversized_message_closes_with_its_code(relay: Server, raw) -> None:
    """64 KiB, and not a byte is kept beyond."""
    async with raw() as client:
        client.say_bytes(bytes(wire.MAX_MESSAGE_BYTES + 1))
        assert await client.end() == CloseCode.TOO_BIG


async def test_a_largest_payload_fits(relay: Server, raw) -> None:
    """The limit of payloads leaves room for its frame."""
    async with raw() as client:
        await client.ask(wire.Allocate(session=session(1)))
        answer = await client.ask(wire.Send(client_seq=1, payload=bytes(wire.MAX_PAYLOAD_BYTES)))
        assert isinstance(answer, wire.Ack)


async def test_malformed_frames_are_answered_then_closed(relay: Server, raw) -> None:
    """A buggy client gets a hint; one that goes on is let go."""
    async with raw() as client:
        client.say_bytes(b"no")
        assert (await client.hear()).code == RelayErrorCode.MALFORMED
        for _ in range(20):
            client.say_bytes(b"no")
        assert await client.end() == CloseCode.PROTOCOL_ERROR


async def test_an_unknown_type_is_answered_and_harmless(relay: Server, raw) -> None:
    """A newer client may ask for what this relay does not know."""
    async with raw() as client:
        for _ in range(30):
            client.say_bytes(wire.encode(wire.Welcome(versions=[1])))
            assert (await client.hear()).code == RelayErrorCode.UNKNOWN_TYPE
        assert isinstance(await client.ask(wire.Allocate(session=session(1))), wire.Joined)


async def test_another_version_is_told_and_closed(relay: Server, raw) -> None:
    """Guessing what a future frame means would be worse."""
    async with raw() as client:
        client.say_bytes(wire.encode(wire.Close(reason="left")).replace(b"\xa1v\x01", b"\xa1v\x02"))
        assert (await client.hear()).code == RelayErrorCode.VERSION
        assert await client.end() == CloseCode.VERSION


async def test_a_connection_that_asks_nothing_is_closed(autojump_clock: object, raw_to) -> None:
    """Half of a denial of service is to come and say nothing."""
    async with serve(limits=Limits(first_frame_s=5)) as relay, raw_to(relay.url) as client:
        assert await client.end() == CloseCode.IDLE


async def test_a_half_open_connection_is_noticed(autojump_clock: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cable is cut: no FIN, no answer to pings. The relay frees the place and tells the peer."""
    monkeypatch.setattr(websocket, "PING_INTERVAL_S", 5.0)
    async with serve() as relay:
        stream = await trio.open_tcp_stream("127.0.0.1", relay.port)
        async with stream:
            await stream.send_all(UPGRADE)
            await stream.receive_some()
            await trio.sleep(20)  # reads nothing, answers nothing
            assert relay.statistics()["connections_open"] == 1
            await trio.sleep(8)
            assert relay.statistics()["connections_open"] == 0


async def test_shutdown_says_that_it_is_only_the_relay(raw_to) -> None:
    """1001 tells clients to resume elsewhere or later; a bounded goodbye, then nothing is left."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            ended: list[int] = []
            up, stop = trio.Event(), trio.Event()

            async def client(url: str) -> None:
                async with raw_to(url) as connection:
                    await connection.ask(wire.Allocate(session=session(1)))
                    up.set()
                    ended.append(await connection.end())

            async with serve() as relay:
                nursery.start_soon(client, relay.url)
                await up.wait()
            stop.set()
    assert ended == [CloseCode.GOING_AWAY]


async def test_a_cancelled_relay_says_that_it_is_only_the_relay(raw_to) -> None:
    """Ctrl-C cancels its tasks in any order; 1000 from one of them would end a session that could be resumed."""
    ended: list[int] = []
    connected = trio.Semaphore(0)

    async def client(url: str) -> None:
        async with raw_to(url) as connection:
            await connection.ask(wire.Allocate(session=randbytes(16)))
            connected.release()
            ended.append(await connection.end())

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with serve() as relay:
                    for _ in range(10):
                        nursery.start_soon(client, relay.url)
                    for _ in range(10):
                        await connected.acquire()
                    scope.cancel()
                    await trio.sleep_forever()
    assert ended == [CloseCode.GOING_AWAY] * 10


async def test_a_slow_consumer_is_told_to_resume(relay: Server, raw, raw_to, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its messages are not lost: they wait in the log. What is bounded is what waits in the relay's memory for it."""
    monkeypatch.setattr(websocket, "OUTBOX_BYTES", 100_000)
    async with raw() as inviter, raw() as joiner:
        joined = await inviter.ask(wire.Allocate(session=session(1)))
        await joiner.ask(wire.Join(session=session(2), nameplate=joined.room))
        assert isinstance(await inviter.hear(), wire.Peer)
        # The joiner's reader stands still, as a suspended process does.
        blocked = joiner.connection._stream
        gate = trio.Event()
        receive = blocked._stream.receive_some

        async def held(max_bytes: int | None = None) -> bytes:
            await gate.wait()
            return await receive(max_bytes)

        monkeypatch.setattr(blocked._stream, "receive_some", held)
        number = 0
        while not relay.counters["slow_consumers"]:
            number += 1
            await inviter.ask(wire.Send(client_seq=number, payload=bytes(60_000)))
            assert number < 500
        gate.set()
        assert await joiner.end() == CloseCode.TOO_SLOW
        async with raw_to(relay.url) as again:
            back = await again.ask(wire.Resume(session=session(2), token=b"?" * 16, epoch=1, seq=0))
            assert back.code == RelayErrorCode.BAD_TOKEN, "the session is there; only the token was a guess"


def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the server's and the client's context for a fresh self-signed certificate of localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "relay.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pem)
    client = ssl.create_default_context(cadata=signed.public_bytes(serialization.Encoding.PEM).decode())
    return server, client


async def test_a_relay_speaks_tls_and_its_certificate_is_checked(tmp_path: Path, http_exchange) -> None:
    """`wss` end to end; a certificate nobody vouches for is unreachable with the reason; plain HTTP is shed."""
    server, client = certificate(tmp_path)
    async with serve(ssl_context=server) as relay:
        assert relay.url.startswith("wss://")
        url = f"wss://localhost:{relay.port}"
        async with icesignal.open_invitation(url, ssl_context=client) as invitation, trio.open_nursery() as nursery:
            nursery.start_soon(invitation.wait_peer)
            async with icesignal.open_join(url, invitation.code, ssl_context=client):
                pass
        with pytest.raises(icesignal.RelayUnreachable, match="certificate"):
            async with icesignal.open_client(url):
                pass
        await http_exchange(relay.port, b"GET / HTTP/1.1\r\n\r\n")
        assert relay.counters["internal_errors"] == 0


# -- section 10's limits, and the traps that name them


async def test_trap_38_one_guess_and_no_third_party(relay: Server) -> None:
    """Two have met: the third gets `crowded` though it knows the code. A wrong guess: the code is dead for all."""
    async with icesignal.open_invitation(relay.url) as invitation, trio.open_nursery() as nursery:
        nursery.start_soon(invitation.wait_peer)
        async with icesignal.open_join(relay.url, invitation.code) as joined:
            with pytest.raises(icesignal.Crowded):
                async with icesignal.open_join(relay.url, invitation.code):
                    pass
            assert not joined.is_over
    async with icesignal.open_invitation(relay.url) as invitation, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(icesignal.CodeWrong):
                await invitation.wait_peer()

        nursery.start_soon(wait)
        for expected in (icesignal.CodeWrong, icesignal.CodeExpired, icesignal.CodeExpired):
            with pytest.raises(expected):
                async with icesignal.open_join(relay.url, f"{invitation.nameplate}-zebra-zebra"):
                    pass


async def test_trap_39_nothing_lists_nameplates(relay: Server, http_exchange, raw) -> None:
    """Neither page, metric nor frame tells which nameplates there are: a guesser has to guess those, too."""
    secret = []
    async with raw() as client:
        secret.append((await client.ask(wire.Allocate(session=session(1)))).room)
        async with raw() as other:
            bare = await http_exchange(relay.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            for kind in ("list", "nameplates", "rooms", "status"):
                other.say_bytes(msgpack.packb({"v": 1, "type": kind}))
                assert (await other.hear()).code == RelayErrorCode.UNKNOWN_TYPE
    names = {name for name in relay.statistics() if re.search(r"\d", name) and not name.startswith("ended_")}
    assert names == set(), "no counter is named after anything with a number in it"
    assert b"nameplate" not in bare


@pytest.mark.parametrize("limit", ["connections", "concurrent", "joins", "messages", "bytes"])
async def test_trap_40_each_source_has_its_budget(limit: str, raw_to, autojump_clock: trio.testing.MockClock) -> None:
    """Connections, joins, messages and bytes: one source cannot take the relay from the others."""
    small = {
        "connections": Limits(connections=Rate(1, 0)),
        "concurrent": Limits(max_connections_per_source=1),
        "joins": Limits(joins=Rate(1, 0)),
        "messages": Limits(messages=Rate(3, 0)),
        "bytes": Limits(bytes=Rate(200_000, 0)),
    }[limit]
    async with serve(limits=small) as relay, raw_to(relay.url) as client:
        if limit in ("connections", "concurrent"):
            with pytest.raises(icesignal.RelayRefused, match="429"):
                async with raw_to(relay.url):
                    pass
            return
        room = (await client.ask(wire.Allocate(session=session(1)))).room
        assert room
        if limit == "joins":
            async with raw_to(relay.url) as other:
                assert (await other.ask(wire.Allocate(session=session(2)))).code == RelayErrorCode.RATE
            return
        for number in range(1, 10):
            client.say(wire.Send(client_seq=number, payload=bytes(60_000)))
        with trio.fail_after(30):
            assert await client.end() == CloseCode.TOO_FAST


async def test_trap_40_a_wrong_guess_costs_more_than_a_right_one(raw_to) -> None:
    """Guessing nameplates or words runs a source dry five times as fast as using codes."""
    async with serve(limits=Limits(joins=Rate(10, 0))) as relay, raw_to(relay.url) as client:
        answers = [await client.ask(wire.Join(session=session(n), nameplate="999999999")) for n in range(3)]
        assert [answer.code for answer in answers] == [
            RelayErrorCode.UNKNOWN_NAMEPLATE,
            RelayErrorCode.UNKNOWN_NAMEPLATE,
            RelayErrorCode.RATE,
        ]


async def test_trap_40_ping_floods_are_charged(raw_to) -> None:
    """A ping costs the sender six bytes and the relay an answer: they count as messages."""
    async with serve(limits=Limits(messages=Rate(50, 0))) as relay, raw_to(relay.url) as client:
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                for number in range(2_000):
                    with trio.move_on_after(0.001):
                        await client.connection._websocket.ping(b"%d" % number)

            async def ends() -> None:
                assert await client.end() in (CloseCode.TOO_FAST, transport.ABNORMAL)
                nursery.cancel_scope.cancel()

            nursery.start_soon(ends)
            nursery.start_soon(_quietly, flood)
        assert relay.counters["pings_over_limit"] > 0


async def _quietly(task) -> None:
    with contextlib.suppress(Exception):
        await task()


async def test_trap_41_payloads_are_never_logged(relay: Server, caplog: pytest.LogCaptureFixture, raw, capfd) -> None:
    """At no level, by no logger, not even when the frame around them is broken."""
    caplog.set_level("DEBUG")
    secret = b"very-secret-payload"
    async with raw() as client:
        room = (await client.ask(wire.Allocate(session=b"secret-session!!", opening=b"secret-opening"))).room
        await client.ask(wire.Send(client_seq=1, payload=secret))
        client.say_bytes(wire.encode(wire.Send(client_seq=2, payload=secret)).replace(b"client_seq", b"client_sex"))
        assert (await client.hear()).code == RelayErrorCode.MALFORMED
    async with icesignal.open_invitation(relay.url) as invitation, trio.open_nursery() as nursery:
        nursery.start_soon(invitation.wait_peer)
        async with icesignal.open_join(relay.url, invitation.code) as joined:
            await joined.send({"secret": "very-secret-payload"})
            key = joined.key("secret")
    told = caplog.text + "".join(capfd.readouterr())
    assert "secret" not in told
    assert invitation.code not in told
    assert key.hex() not in told
    assert room


async def test_trap_42_only_configured_proxies_speak_for_others(
    http_exchange, autojump_clock: trio.testing.MockClock
) -> None:
    """X-Forwarded-For and PROXY headers move a connection to another source's budget only if we said so.

    In virtual time, as all that wait for a refusal: whoever is refused has 10 ms to take it.
    """
    forwarded = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: %s\r\n\r\n"
    plain = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    limits = Limits(connections=Rate(2, 0))
    async with serve(limits=limits) as relay:
        statuses = [(await http_exchange(relay.port, forwarded % b"198.51.100.%d" % n))[9:12] for n in range(1, 5)]
        assert statuses == [b"200", b"200", b"429", b"429"]
    async with serve(limits=limits) as relay:
        assert (await http_exchange(relay.port, b"PROXY TCP4 198.51.100.7 1.1.1.1 1 2\r\n" + plain))[9:12] == b"400"
    async with serve(limits=limits, trusted_proxies=["127.0.0.0/8"]) as relay:
        statuses = [(await http_exchange(relay.port, forwarded % b"198.51.100.%d" % n))[9:12] for n in range(1, 5)]
        assert statuses == [b"200"] * 4
        header = b"PROXY TCP4 203.0.113.9 1.1.1.1 1 2\r\n"
        statuses = [(await http_exchange(relay.port, header + plain))[9:12] for _ in range(3)]
        assert statuses == [b"200", b"200", b"429"]
        assert (await http_exchange(relay.port, b"PROXY TCP9 nonsense\r\n" + plain))[9:12] == b"400"


async def test_all_addresses_of_a_host_share_one_port() -> None:
    """A free port for each family would make half of the clients fail."""
    async with serve(host="localhost") as relay:
        assert len({port for _host, port in relay.addresses}) == 1
        async with icesignal.open_client(relay.url):
            pass


async def test_trap_65_errors_that_a_client_has_found_do_not_fill_the_disk(
    http_exchange, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a traceback; ten in a minute are enough to mend what it is."""

    async def fail(self: Server, stream: trio.SocketStream) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Server, "_handle_stream", fail)
    errors = logging.getLogger("icesignal.server.errors")
    now = 0.0
    monkeypatch.setattr(errors, "filters", [FewLines(clock=lambda: now)])
    async with serve() as relay:
        for _ in range(25):
            await http_exchange(relay.port, b"GET / HTTP/1.1\r\n\r\n")
        assert relay.counters["internal_errors"] == 25
        assert len(caplog.records) == 10
        now = 60.0
        await http_exchange(relay.port, b"GET / HTTP/1.1\r\n\r\n")
    assert "(15 more were left out before)" in caplog.records[-1].getMessage()
