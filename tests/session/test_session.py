"""invite() and join() in one process: real relay, real sockets, every way it can go wrong."""

# ruff: noqa: SIM117 (what is around stands apart from what is tested)

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import icesignal
import pytest
import trio
import trio.testing
from icesignal import wire

import iceagent
from iceagent.agent import IceServer
from iceagent.link import AuthenticationError, generate_identity
from iceagent.net.tasks import open_background
from iceagent.session import establish as establishing
from iceagent.session import relay as relays
from iceagent.session import signaling
from iceagent.session.endings import PEER_LOST
from iceagent.session.errors import (
    CodeError,
    NobodyCame,
    PeerLeft,
    PeerLost,
    RelayError,
    RelayMissing,
    VersionMismatch,
)
from iceagent.session.progress import Progress, Stage
from iceagent.tunnel.errors import RefusedError


@asynccontextmanager
async def linked(**options: Any) -> AsyncIterator[tuple[iceagent.Link, iceagent.Link]]:
    """Yield the inviter's and the joiner's link."""
    async with iceagent.invite(**options) as invitation, trio.open_nursery() as nursery:

        async def accept(task_status: trio.TaskStatus[iceagent.Link]) -> None:
            async with invitation.accept() as link:
                task_status.started(link)
                await finished.wait()

        async def start_accepting() -> None:
            accepted.append(await nursery.start(accept))
            ready.set()

        accepted: list[iceagent.Link] = []
        ready, finished = trio.Event(), trio.Event()
        nursery.start_soon(start_accepting)
        async with iceagent.join(invitation.code, **options) as joiner:
            await ready.wait()
            yield accepted[0], joiner
        finished.set()


async def test_streams_and_datagrams_both_ways():
    """Both sides have the same rights once they are connected."""
    async with linked() as sides:
        for here, there in (sides, sides[::-1]):
            async with await here.open_stream("greeting") as stream:
                await stream.send_all(b"hello")
                await stream.send_eof()
                async with await there.accept_stream() as accepted:
                    assert accepted.name == "greeting"
                    assert b"".join([part async for part in accepted]) == b"hello"
            await here.send_datagram(b"ping")
            assert await there.receive_datagram() == b"ping"
            assert here.max_datagram_size > 1000


async def test_the_path_is_a_line_for_people_and_values_for_programs():
    """ "It is slow and I cannot see why" must not be said of this tool."""
    async with linked() as (inviter, joiner):
        assert inviter.path is not None
        assert joiner.path is not None
        assert joiner.path.direct
        assert str(joiner.path).startswith(f"direct udp {inviter.path.local}")
        async for path in joiner.paths():
            assert path.same_route(joiner.path)
            break
        assert joiner.statistics().rtt_s is None or joiner.statistics().rtt_s > 0


async def test_forwards_through_methods_of_the_link():
    """DESIGN's promise to users: `link.forward_local("2222:localhost:22")`."""

    async def upper(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in stream:
                await stream.send_all(data.upper())

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, upper, 0)
        port = listeners[0].socket.getsockname()[1]
        async with linked() as (inviter, joiner), inviter.serve_forwards([f"tcp:127.0.0.1:{port}"]):
            async with joiner.forward_local(f"0:127.0.0.1:{port}") as forward:
                async with await trio.open_tcp_stream("127.0.0.1", int(forward.bind.rpartition(":")[2])) as client:
                    await client.send_all(b"x")
                    assert await client.receive_some() == b"X"
            with pytest.raises(RefusedError):
                async with joiner.forward_local("0:127.0.0.1:1"):
                    pass
        nursery.cancel_scope.cancel()


async def test_a_clean_close_is_seen_at_once():
    """The other side must not have to wait for consent to expire."""
    async with iceagent.invite() as invitation, trio.open_nursery() as nursery:

        async def accept() -> None:
            async with invitation.accept() as link:
                await link.wait_closed()
                with pytest.raises(trio.BrokenResourceError):
                    await link.accept_stream()
                with pytest.raises(trio.BrokenResourceError):
                    await link.receive_datagram()

        nursery.start_soon(accept)
        async with iceagent.join(invitation.code):
            pass


async def test_a_restart_is_carried_over_the_sealed_channel_and_the_link_does_not_notice(monkeypatch):
    """Whoever restarts, the other side takes part; both end on a new pair, with the stream that was open."""
    agents = []
    open_agent = establishing.open_agent

    @asynccontextmanager
    async def remembering(*args, **options):
        async with open_agent(*args, **options) as agent:
            agents.append(agent)
            yield agent

    monkeypatch.setattr(establishing, "open_agent", remembering)
    async with linked() as (inviter, joiner):
        async with await joiner.open_stream("long") as stream, await inviter.accept_stream() as accepted:
            for number, agent in enumerate(agents, start=1):
                agent.restart()
                with trio.fail_after(60):
                    while any(one._driver.ice.generation != number or one._driver.ice.restarting for one in agents):
                        await trio.sleep(0.01)
                    await stream.send_all(b"hello")
                    assert await accepted.receive_some() == b"hello"


async def test_a_wrong_code_is_an_error_on_both_sides():
    """One guess; then the code is dead for both."""
    async with iceagent.invite() as invitation, trio.open_nursery() as nursery:

        async def accept() -> None:
            with pytest.raises(CodeError):
                async with invitation.accept():
                    pass

        nursery.start_soon(accept)
        nameplate, _, rest = invitation.code.partition("-")
        wrong = f"{nameplate}-zebra-zebra@{rest.partition('@')[2]}"
        with pytest.raises(CodeError):
            async with iceagent.join(wrong):
                pass


async def test_nobody_came():
    """A caller that gives a time limit gets an error of its own."""
    async with iceagent.invite() as invitation:
        with pytest.raises(NobodyCame, match=r"0\.05 s"):
            async with invitation.accept(timeout_s=0.05):
                pass


async def test_no_relay_and_no_such_relay(monkeypatch):
    """Two mistakes with two remedies."""
    monkeypatch.delenv(relays.ENVIRONMENT, raising=False)
    with pytest.raises(RelayMissing, match="--relay"):
        async with iceagent.join("7-guitar-ozone"):
            pass
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}"
        for attempt in (iceagent.join("7-guitar-ozone", relay=url), iceagent.invite(relay=url)):
            with pytest.raises(RelayError, match="cannot be reached"):
                async with attempt:
                    pass


async def test_malformed_codes_and_relays_are_said_to_be(monkeypatch):
    """Before anything is sent anywhere."""
    monkeypatch.delenv(relays.ENVIRONMENT, raising=False)
    with pytest.raises(CodeError, match="7-guitar-ozone"):
        async with iceagent.join("guitar"):
            pass
    with pytest.raises(iceagent.LocalError, match="ws://"):
        async with iceagent.join("7-guitar-ozone", relay="gopher://x"):
            pass


async def test_the_argument_goes_before_the_code_and_the_code_before_the_environment(monkeypatch):
    """A code with an address leads to where its maker waits; the environment is only a habit."""
    monkeypatch.setenv(relays.ENVIRONMENT, "ws://environment:1")
    code, bare = icesignal.parse_code("7-guitar-ozone@192.0.2.1:80"), icesignal.parse_code("7-guitar-ozone")
    assert relays.relay_for(code, "ws://argument:1") == "ws://argument:1"
    assert relays.relay_for(code, None) == "ws://192.0.2.1:80"
    assert relays.relay_for(bare, None) == "ws://environment:1"
    async with relays.open_relay(None) as place:
        assert place == relays.RelayPlace("ws://environment:1")


async def test_an_embedded_relay_is_reached_under_the_address_in_the_code(monkeypatch):
    """The code must lead another machine here, not to its own loopback."""
    monkeypatch.delenv(relays.ENVIRONMENT, raising=False)
    async with relays.open_relay(None) as place:
        assert place.address is not None
        assert place.address.startswith(relays.best_address()) or place.address.startswith("[")
        async with icesignal.open_client(f"ws://{place.address}") as client:
            assert client.is_connected


def test_loopback_is_offered_only_to_peers_that_meet_there():
    """A loopback candidate is useless, and tells of services, to a peer on another machine."""
    servers = [{"urls": ["stun:127.0.0.1:3478", "turn:127.0.0.1:3478"], "username": "u"}]
    config = relays.agent_config(None, "127.0.0.1", servers)
    (server,) = config.servers
    assert isinstance(server, IceServer)
    assert server.url == "stun:127.0.0.1:3478"
    assert config.include_loopback is True
    assert relays.agent_config(None, "localhost", []).include_loopback is True
    assert relays.agent_config(None, "192.0.2.1", []).include_loopback is None
    chosen = iceagent.AgentConfig(include_loopback=False)
    assert relays.agent_config(chosen, "127.0.0.1", []).include_loopback is False


async def test_a_relay_that_dies_after_connecting_is_not_missed(caplog):
    """It has introduced the two; they need it no more."""
    async with trio.open_nursery() as nursery:
        stop = trio.Event()

        async def run_relay(task_status: trio.TaskStatus[str]) -> None:
            async with icesignal.serve(host="127.0.0.1", port=0) as server:
                task_status.started(server.url)
                await stop.wait()

        url = await nursery.start(run_relay)
        async with linked(relay=url) as (inviter, joiner):
            stop.set()
            await trio.sleep(0.05)
            await joiner.send_datagram(b"still here")
            assert await inviter.receive_datagram() == b"still here"
            assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_an_error_of_the_body_leaves_as_it_was_raised():
    """Users write `except ValueError`; a group around it would pass them by."""
    with pytest.raises(ValueError, match="mine"):
        async with iceagent.invite():
            raise ValueError("mine")
    async with iceagent.invite() as invitation, open_background() as nursery:

        async def accept() -> None:
            async with invitation.accept() as link:
                with pytest.raises(PeerLeft, match="application failed"):
                    await link.wait_closed()
            told.set()

        told = trio.Event()
        nursery.start_soon(accept)
        with pytest.raises(ValueError, match="mine"):
            async with iceagent.join(invitation.code):
                raise ValueError("mine")
        await told.wait()


async def test_a_peer_that_leaves_before_there_is_a_path(monkeypatch):
    """Signaling is over, and it is said who ended it."""
    async with iceagent.invite() as invitation, trio.open_nursery() as nursery:

        async def accept() -> None:
            with pytest.raises(PeerLeft, match="before a path was found"):
                async with invitation.accept():
                    pass

        nursery.start_soon(accept)
        parsed = icesignal.parse_code(invitation.code)
        async with icesignal.open_join(None, parsed):
            pass


def hang_up(client: icesignal.Client) -> None:
    """End a client's connection as the system does for a program that is killed; it does not come back."""
    client._keeper.pause = lambda seconds: trio.sleep_forever()  # type: ignore[method-assign]
    assert client._keeper.connection is not None
    client._keeper.connection._stream._stream.socket.shutdown(socket.SHUT_WR)  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_described", [False, True])
async def test_a_peer_killed_before_there_is_a_path_is_missed_at_the_relay(monkeypatch, is_described):
    """Its checks would not be missed for 39.5 s; its system ends its connection to the relay with it."""
    monkeypatch.setattr(signaling, "GONE_S", 0.3)
    progress = Progress()
    async with iceagent.invite(progress=progress) as invitation, trio.open_nursery() as nursery:

        async def accept() -> None:
            with pytest.raises(PeerLeft, match=r"it hung up at the relay.*Start it again"):
                async with invitation.accept():
                    pass
            nursery.cancel_scope.cancel()

        async def look() -> None:
            while True:
                told.add(str(progress).rpartition("; ")[2])
                await trio.sleep(0.05)

        told: set[str] = set()
        nursery.start_soon(look)
        nursery.start_soon(accept)
        parsed = icesignal.parse_code(invitation.code)
        assert parsed.relay_url is not None
        async with icesignal.open_client(parsed.relay_url) as client, icesignal.open_join(client, parsed) as channel:
            if is_described:
                description = {"type": "description", "version": 2, "ufrag": "abcd", "pwd": "p" * 24}
                await channel.send({**description, "fingerprint": bytes(32)})
                candidate = "candidate:1 1 udp 2130706431 192.0.2.9 9 typ host"
                await channel.send({"type": "candidates", "candidates": [candidate], "end": True})
            while progress.stage is not (Stage.PATH if is_described else Stage.PEER):
                await progress.wait_changed()
            hang_up(client)
            await trio.sleep_forever()
    assert "its connection to the relay is gone" in told


async def test_a_peer_that_only_lost_its_relay_is_waited_for(monkeypatch):
    """Whoever is away for most of two minutes, as between two networks, lives, and has its place when it is back."""
    monkeypatch.setattr(signaling, "GONE_S", 0.0)
    progress = Progress()
    async with iceagent.invite(progress=progress) as invitation, trio.open_nursery() as nursery:

        async def accept() -> None:
            with pytest.raises(PeerLeft, match="before a path was found: the other side is done"):
                async with invitation.accept():
                    pass

        nursery.start_soon(accept)
        back = trio.Event()
        async with icesignal.open_join(None, invitation.code) as channel:
            client = channel._client
            monkeypatch.setattr(client._keeper, "pause", lambda seconds: back.wait())
            while progress.stage is not Stage.PEER:
                await progress.wait_changed()
            assert client._keeper.connection is not None
            client._keeper.connection.abort(wire.CloseCode.GOING_AWAY)
            while not progress.is_peer_away():
                await trio.sleep(0.01)
            for _ in range(5):
                await trio.testing.wait_all_tasks_blocked()
            back.set()
            assert (await channel.receive())["type"] == "description"
            channel.close()


async def test_the_timeline_of_a_session_is_kept_however_it_ends():
    """The story is wanted most when it is over; who did not ask for it pays nothing for it."""
    kept, unasked = Progress(keep_timeline=True), Progress()

    async def fail(invitation: iceagent.Invitation) -> None:
        async with invitation.accept():
            assert kept.timeline is None
            raise KeyError

    async def accept(invitation: iceagent.Invitation) -> None:
        with pytest.raises(KeyError):
            await fail(invitation)

    async with iceagent.invite(progress=kept) as invitation, trio.open_nursery() as nursery:
        nursery.start_soon(accept, invitation)
        async with iceagent.join(invitation.code, progress=unasked) as link:
            with suppress(PeerLeft):
                await link.wait_closed()
    assert kept.timeline is not None
    document = json.loads(kept.timeline)
    assert document["kind"] == "iceagent-timeline"
    assert document["verdict"]["kind"] == "connected"
    assert unasked.timeline is None


async def test_another_version_of_the_session_protocol_is_named():
    """ "Cannot connect" would send the user looking at the network."""
    async with iceagent.invite() as invitation, trio.open_nursery() as nursery:

        async def accept() -> None:
            with pytest.raises(VersionMismatch, match="same version"):
                async with invitation.accept():
                    pass

        nursery.start_soon(accept)
        async with icesignal.open_join(None, invitation.code) as channel:
            await channel.send({"type": "description", "version": 99})
            with pytest.raises(icesignal.SignalError):  # noqa: PT012 (its description may come before)
                while True:
                    await channel.receive()


async def test_an_impostor_with_another_certificate_gets_nothing(monkeypatch):
    """The fingerprint travels sealed; whoever answers on the network must have the key that belongs to it."""
    init = signaling.Signaling.__init__
    wrong = generate_identity().fingerprint

    def announce_another(self, channel, agent, _fingerprint, *more) -> None:
        init(self, channel, agent, wrong, *more)

    monkeypatch.setattr(signaling.Signaling, "__init__", announce_another)
    async with iceagent.invite() as invitation, open_background() as nursery:

        async def accept() -> None:
            with pytest.raises((iceagent.RemoteError, iceagent.NetworkError)):
                async with invitation.accept():
                    pass
            refused.set()

        refused = trio.Event()
        nursery.start_soon(accept)
        with pytest.raises(AuthenticationError):
            async with iceagent.join(invitation.code):
                pass
        await refused.wait()


def test_consent_that_expired_is_a_sentence():
    """What a user reads when the other machine went away."""
    assert "30 s" in PEER_LOST
    assert issubclass(PeerLost, iceagent.NetworkError)


async def test_a_session_that_was_closed_here_was_not_left_by_the_peer():
    """Whoever waits for the end elsewhere in the program learns that it has come, and blames nobody."""
    async with trio.open_nursery() as nursery:
        async with linked() as (_, joiner):
            nursery.start_soon(joiner.wait_closed)
            await trio.sleep(0.05)
