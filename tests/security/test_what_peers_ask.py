"""Trap 68 for tunnels: what one stream of an authenticated peer asks for costs that stream, and no other.

It is the peer's own session, but the others on it are served by the same task, and the command ends with it.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio
from fake_link import linked_sessions

from iceagent.net.sockaddr import zone_index
from iceagent.session.session import Session
from iceagent.tunnel import forward, serve, udp, wire
from iceagent.tunnel.forward import check_allowed, forward_local
from iceagent.tunnel.serve import serve_forwards
from iceagent.tunnel.spec import Target, TcpTarget, UdpTarget, UnixTarget

ZONES = ["9" * 30, str(2**64), str(2**32), str(2**31), "0" * 20 + "9" * 11]  # as long as a zone may be, at most


@pytest.mark.parametrize("zone", ZONES)
def test_a_number_that_no_interface_can_have_is_none(zone: str) -> None:
    """The system's functions say so with an OverflowError, or take its lowest bits."""
    with pytest.raises(OSError, match="names no interface"):
        zone_index(zone)
    assert zone_index(str(2**31 - 1)) == 2**31 - 1


async def ask(session: Session, target: Target) -> str:
    """Return the status of the answer to a wish, or what became of its stream."""
    stream = await session.streams.open_service("iceagent.tunnel")
    await wire.send_request(stream, wire.request_for(target, flow=6))
    try:
        return (await wire.receive_answer(stream)).status
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return "reset"


@pytest.mark.parametrize("kind", [TcpTarget, UdpTarget])
@pytest.mark.parametrize("zone", ZONES)
async def test_trap_68_no_host_that_a_peer_asks_for_ends_the_others(zone: str, kind: Any) -> None:
    """`listen --allow any` ended with an internal error."""
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
        assert await ask(joiner, kind(f"fe80::1%{zone}", 22)) == "failed"
        await check_allowed(joiner, TcpTarget("localhost", 22))


@pytest.mark.parametrize("allow", [["any"], ["tcp:localhost:22"]])
async def test_no_path_that_a_peer_asks_for_is_obeyed_by_a_terminal(
    allow: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever uses the library sees its log as it is; a line break would begin a line of the peer's own."""
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, allow):
        assert await ask(joiner, UnixTarget("/tmp/\x1b[2J\nerror: all is lost")) != "ok"
    told = [record.getMessage() for record in caplog.records if "unix:" in record.getMessage()]
    assert told
    assert all(one.isprintable() for one in told)


class Unforeseen(Exception):
    pass


async def fail(*_: object) -> Any:
    await trio.lowlevel.checkpoint()
    raise Unforeseen


async def test_trap_68_what_nobody_has_foreseen_ends_one_stream(
    monkeypatch: pytest.MonkeyPatch, expects_unforeseen: None
) -> None:
    """Whatever it may be. Its other end sees a reset."""
    async with linked_sessions() as (joiner, inviter), serve_forwards(inviter, ["any"]):
        monkeypatch.setattr(serve, "connect_target", fail)
        assert await ask(joiner, TcpTarget("localhost", 22)) == "reset"
        monkeypatch.setattr(serve, "serve_udp_flow", fail)
        assert await ask(joiner, UdpTarget("localhost", 22)) == "reset"
        await check_allowed(joiner, TcpTarget("localhost", 22))


async def test_trap_68_what_nobody_has_foreseen_ends_one_connection_of_a_forward(
    monkeypatch: pytest.MonkeyPatch, expects_unforeseen: None
) -> None:
    """Over TCP and over UDP; the next one is served."""
    monkeypatch.setattr(forward, "open_tunnel_stream", fail)
    monkeypatch.setattr(udp, "open_tunnel_stream", fail)
    async with (
        linked_sessions() as (joiner, inviter),
        serve_forwards(inviter, ["any"]),
        forward_local(joiner, "0:localhost:22") as over_tcp,
        forward_local(joiner, "0:localhost:22/udp") as over_udp,
    ):
        for _ in range(2):
            host, _, port = over_tcp.bind.rpartition(":")
            async with await trio.open_tcp_stream(host, int(port)) as client:
                with pytest.raises(trio.BrokenResourceError):
                    await client.receive_some()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
            host, _, port = over_udp.bind.rpartition(":")
            for _ in range(2):
                source.sendto(b"x", (host, int(port)))
                await trio.sleep(0.05)
        await check_allowed(joiner, TcpTarget("localhost", 22))
