"""Whole sessions on the virtual network by `network=`: the way to the relay and the relay are there, too."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import icesignal
import pytest
import trio
from virtual_links import RELAY, echo, homes

import iceagent
from iceagent import vnet
from iceagent.session.reunion import Reunion
from iceagent.vnet import Network


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let none be opened, and have an environment that leads elsewhere."""

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("a real socket is opened")

    class OnlyPairs(socket.socket):
        def __init__(self, family: int = -1, kind: int = -1, proto: int = -1, fileno: int | None = None) -> None:
            if family != getattr(socket, "AF_UNIX", None):  # Trio wakes itself up with a pair of these
                refuse()
            super().__init__(family, kind, proto, fileno)

    monkeypatch.setattr(socket, "socket", OnlyPairs)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


async def answer(invitation: iceagent.Invitation) -> None:
    """Echo to whoever comes."""
    async with invitation.accept() as link:
        await echo(link)


async def heard(link: iceagent.Link, text: bytes) -> bytes:
    """Return what comes back of a text."""
    async with await link.open_stream("echo") as stream:
        await stream.send_all(text)
        await stream.send_eof()
        return b"".join([bytes(data) async for data in stream])


@pytest.mark.usefixtures("no_sockets")
async def test_two_homes_talk_and_no_real_socket_is_opened(vnet: vnet.NetworkFactory) -> None:
    """Neither for the way to the relay, whatever proxy this machine's environment names."""
    async with (
        homes(vnet()) as (here, there),
        trio.open_nursery() as nursery,
        iceagent.invite(relay=RELAY, network=here) as invitation,
    ):
        nursery.start_soon(answer, invitation)
        async with iceagent.join(invitation.code, relay=RELAY, network=there) as link:
            assert link.path is not None
            assert link.path.direct
            assert await heard(link, b"hello") == b"hello"


@pytest.mark.usefixtures("no_sockets")
async def test_without_a_relay_one_runs_on_the_inviters_host(
    vnet: vnet.NetworkFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code has the address of that host, and its end is noticed there."""
    monkeypatch.delenv("ICEAGENT_RELAY", raising=False)
    net = vnet()
    here, there = net.host(net.internet), net.host(net.internet)
    async with net, trio.open_nursery() as nursery:
        async with iceagent.invite(network=here) as invitation:
            nursery.start_soon(answer, invitation)
            assert f"@{here.address}:" in invitation.code
            async with iceagent.join(invitation.code, network=there) as link:
                assert await heard(link, b"hello") == b"hello"
            place = icesignal.parse_relay_url(invitation.relay_url)
            config = iceagent.AgentConfig(network=there)
            rendezvous: Any = None
            reunion = Reunion([RELAY], config, rendezvous, (place.host, place.port))
            assert not await reunion.has_peers_relay_ended()
        assert await reunion.has_peers_relay_ended()


@pytest.mark.usefixtures("no_sockets")
async def test_a_listener_that_stays_serves_joiners_there(vnet: vnet.NetworkFactory) -> None:
    """One after the other, each with its own code."""
    async with homes(vnet()) as (here, there), trio.open_nursery() as nursery:
        codes, waiting = trio.open_memory_channel[str](9)

        async def stay() -> None:
            await iceagent.serve_joiners(
                echo, on_code=lambda made: codes.send_nowait(made.code), relay=RELAY, network=here
            )

        nursery.start_soon(stay)
        for text in (b"one", b"two"):
            async with iceagent.join(await waiting.receive(), relay=RELAY, network=there) as link:
                assert await heard(link, text) == text
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("no_sockets")
async def test_machines_pair_and_meet_by_name_there(vnet: vnet.NetworkFactory, tmp_path: Path) -> None:
    """With identities of their own, since both are this user's."""
    ours, theirs = (iceagent.Identity.load(tmp_path / name / "identity") for name in ("ours", "theirs"))
    async with homes(vnet()) as (here, there):
        async with iceagent.pair(relay=RELAY, name="laptop", identity=ours, network=here) as made:

            async def accept(pairing: iceagent.Pairing) -> None:
                await pairing.wait_peer()
                await pairing.accept()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept, made)
                async with iceagent.pair(
                    made.code, relay=RELAY, name="office", identity=theirs, network=there
                ) as given:
                    await accept(given)
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                async with iceagent.listen("laptop", relay=RELAY, identity=ours, network=here) as link:
                    await echo(link)

            nursery.start_soon(wait)
            async with iceagent.join(peer="office", relay=RELAY, identity=theirs, network=there) as link:
                assert await heard(link, b"by name") == b"by name"


def test_time_is_virtual_and_the_same_every_time() -> None:
    """To the microsecond: a test may insist on it."""

    async def main() -> float:
        async with (
            homes(Network(7)) as (here, there),
            trio.open_nursery() as nursery,
            iceagent.invite(relay=RELAY, network=here) as invitation,
        ):
            nursery.start_soon(answer, invitation)
            started_at = trio.current_time()
            async with iceagent.join(invitation.code, relay=RELAY, network=there) as link:
                await heard(link, b"hello")
                return trio.current_time() - started_at

    first, second = (vnet.run(main, seed=7) for _ in range(2))
    assert first == pytest.approx(second, abs=1e-6)
    assert first < 5


async def test_two_networks_are_one_too_many(vnet: vnet.NetworkFactory) -> None:
    """Nobody could say which one is meant."""
    net = vnet()
    config = iceagent.AgentConfig(network=net.host(net.internet))
    with pytest.raises(iceagent.LocalError, match="name two networks; give one of them"):
        async with iceagent.invite(relay=RELAY, config=config, network=net.host(net.internet)):
            pass
