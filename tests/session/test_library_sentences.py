"""Sentences of the library that no other test provokes: each says what is wrong, and names what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from virtual_links import RELAY, echo, homes

import iceagent
from iceagent import vnet
from iceagent.agent import description
from iceagent.core import sdp
from iceagent.files.incoming import Incoming, make_folders, place_in
from iceagent.files.manifest import Entry
from iceagent.files.plan import plan_for
from iceagent.files.progress import FileProgress
from iceagent.files.target import Target
from iceagent.files.wire import Frame, begin, frame
from iceagent.link import LinkConfig
from iceagent.session.session import Session
from iceagent.session.standing import StandingListener
from iceagent.tunnel.proxy_protocol import ProxyProtocol
from iceagent.tunnel.spec import parse_forward

HTTP = b" HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        (b"\x16\x03\x01", "a program speaks neither SOCKS nor HTTP"),
        (b"\x05\x01\x00\x05\x01\x00\x09\x00", "address type 9 is unknown"),
        (b"GET /" + HTTP + b"\r\n", "GET is not CONNECT: "),
        (b"CONNECT a:1" + HTTP + b"Content-Length: 3\r\n\r\nabc", "a CONNECT with a body"),
        (b"CONNECT a" + HTTP + b"\r\n", "CONNECT wants HOST:PORT"),
    ],
)
def test_a_program_that_is_refused_at_a_dynamic_port(said: bytes, refusal: str) -> None:
    protocol = ProxyProtocol()
    protocol.receive(said)
    assert protocol.refusal is not None
    assert refusal in protocol.refusal


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a:b:1:h:2", "parts: 5, not three (PORT:HOST:PORT) or four (BIND:PORT:HOST:PORT)"),
        ("a:b:1:unix:/x", "the local side must be PORT or BIND:PORT"),
    ],
)
def test_a_forward_that_is_none(text: str, says: str) -> None:
    with pytest.raises(iceagent.SpecError) as raised:
        parse_forward(text)
    assert says in str(raised.value)


def receiver(folder: Path) -> Incoming:
    target, entries = Target(str(folder)), [Entry("a", "file", 3)]
    plan = plan_for(target, entries)
    make_folders(target, entries, plan)
    return Incoming(entries, plan, place_in(target, plan), FileProgress())


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (frame(Frame.DATA, b"x"), "bytes of no file"),
        (frame(Frame.END, bytes(32)), "the end of no file"),
        (frame(Frame.OFFER), "a frame out of place"),
        (frame(Frame.LAST), "not all files were sent"),
        (begin(0, 0) + frame(Frame.LAST), "the end in the middle of a file"),
    ],
)
def test_a_sender_that_breaks_the_protocol(tmp_path: Path, frames: bytes, says: str) -> None:
    incoming = receiver(tmp_path)
    with pytest.raises(iceagent.TransferFailed, match=says):
        incoming.feed(frames)
    incoming.close()


def test_a_target_in_which_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    target = Target(str(tmp_path))
    with pytest.raises(iceagent.LocalIOError, match="a must become a folder, and is no folder; take it away first"):
        plan_for(target, [Entry("a", "folder")])
    with pytest.raises(iceagent.LocalIOError, match="link must become a folder, and is a link"):
        plan_for(target, [Entry("link", "folder")])

    def fail(*_: object) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Target, "folder", fail)
    with pytest.raises(iceagent.LocalIOError, match="cannot look at a: Permission denied"):
        plan_for(target, [Entry("a", "file", 3)])


def test_settings_that_cannot_be() -> None:
    with pytest.raises(iceagent.LocalError, match=r"LinkConfig.packet_size must be 1200 to 1472 bytes"):
        LinkConfig(packet_size=500)
    with pytest.raises(iceagent.LocalError, match=r"must be \(lowest, highest\) within 1 to 65535"):
        iceagent.AgentConfig(port_range=(9, 1))
    with pytest.raises(ValueError, match="0 peers are none; give 1 or more"):
        StandingListener(Session, lambda _: _none(), most_peers=0)


def _none() -> Any:
    raise AssertionError


def test_descriptions_that_are_none() -> None:
    with pytest.raises(sdp.SdpError, match="pacing_ms is not a number within 0 and 10000"):
        description.Description.from_json('{"streams": [{}], "pacing_ms": -1}')
    text: Any = b"v=0"
    with pytest.raises(sdp.SdpError, match="SDP is text, not bytes"):
        description.Description.from_sdp(text)


async def test_nobody_came(vnet: vnet.NetworkFactory, tmp_path: Path) -> None:
    """Whoever waits says for how long it did."""
    identity = iceagent.Identity.load(tmp_path / "identity")
    async with homes(vnet()) as (here, _):
        async with iceagent.invite(relay=RELAY, network=here) as invitation:
            with pytest.raises(iceagent.NobodyCame, match="nobody came within 90 s"):
                async with invitation.accept(timeout_s=90):
                    pass
        async with iceagent.pair(relay=RELAY, identity=identity, network=here) as pairing:
            with pytest.raises(iceagent.NobodyCame, match="nobody came within 90 s"):
                await pairing.wait_peer(timeout_s=90)


async def test_what_a_link_does_not_do(vnet: vnet.NetworkFactory) -> None:
    """Names that are its own, datagrams that are too large, two readers; and nothing once its agent is closed."""
    async with (
        homes(vnet()) as (here, there),
        trio.open_nursery() as nursery,
        iceagent.invite(relay=RELAY, network=here) as invitation,
    ):

        async def answer() -> None:
            async with invitation.accept() as link:
                await echo(link)

        nursery.start_soon(answer)
        async with iceagent.join(invitation.code, relay=RELAY, network=there) as link:
            with pytest.raises(iceagent.LocalError, match="are reserved; choose another"):
                await link.open_stream("iceagent.x")
            with pytest.raises(iceagent.LocalError, match="a datagram of 100000 bytes is too large"):
                await link.send_datagram(bytes(100_000))
            async with await link.open_stream("echo") as stream, trio.open_nursery() as reading:
                reading.start_soon(stream.receive_some)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError, match="another task is "):
                    await stream.receive_some()
                await stream.send_all(b"x")  # comes back, and the first reader has it
        async with iceagent.open_agent(iceagent.AgentConfig(network=here), role=iceagent.Role.CONTROLLED) as agent:
            pass
        with pytest.raises(trio.ClosedResourceError, match="this agent is closed"):
            await agent.send(b"x")
