"""Coverage-guided fuzzing of everything that reads bytes of the network: `make fuzz SECONDS=60`.

Each target calls one parser, or one machine, as its caller does; what it may raise is what its docstring names.
Anything else that comes out is a finding: atheris writes the input to `build/fuzz/`, and the third form runs it again.

    python tests/fuzz/fuzz.py                      the targets' names
    python tests/fuzz/fuzz.py TARGET -max_total_time=60
    python tests/fuzz/fuzz.py TARGET build/fuzz/crash-…
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["iceagent", "icesignal", "dns"]):
    from icesignal import code, proxy, wire

    from iceagent.agent.hard_nat.traversal import read_announcement, write_announcement
    from iceagent.core import ice, sdp, stun, turn
    from iceagent.core.address import TransportAddress
    from iceagent.core.constants import MAX_CANDIDATE_EXTENSIONS, MAX_REMOTE_CANDIDATES
    from iceagent.core.ice import Credentials, IceAgent, Role, host_candidate
    from iceagent.core.portmap import natpmp, pcp
    from iceagent.core.stun.server import BindingServer
    from iceagent.core.turn.server.auth import read_unverified
    from iceagent.link.auth import LinkAuthenticator
    from iceagent.link.config import LinkRole
    from iceagent.link.control import ControlError, ControlFrameReader
    from iceagent.link.datagrams import Reassembler
    from iceagent.net import framing, mdns_packets
    from iceagent.net.api import Batch
    from iceagent.net.demultiplexer import Demultiplexer, named_ufrag
    from iceagent.net.shared_port import _sort
    from iceagent.session import description
    from iceagent.session.datagrams import split_varint_untrusted
    from iceagent.tunnel import wire as tunnel_wire

HERE = TransportAddress("192.0.2.1", 1000)
THERE = TransportAddress("192.0.2.2", 2000)
KEY = stun.short_term_key("p" * 22)


def _zeros(size: int) -> bytes:
    return bytes(size)


def stun_message(data: bytes) -> None:
    """Decode, and look at all of it."""
    try:
        message = stun.decode(data)
    except stun.StunError:
        return
    message.verify_fingerprint()
    message.verify_integrity(KEY)
    assert message.unknown_comprehension_required is not None
    stun.encode(stun.Message(message.message_class, message.method, message.transaction_id, message.attributes))


def stun_server(data: bytes) -> None:
    """Answer whatever comes."""
    BindingServer().handle_datagram(0.0, HERE, THERE, data)


def ice_agent(data: bytes) -> None:
    """Datagrams, each behind its two bytes of length, from a stranger to an agent that is checking."""
    agent = IceAgent(role=Role.CONTROLLED, randbytes=_zeros, credentials=Credentials("ufrag", "p" * 22))
    agent.add_local_candidate(0.0, host_candidate(HERE))
    agent.set_remote_credentials(0.0, Credentials("other", "q" * 22))
    agent.add_remote_candidate(0.0, host_candidate(THERE))
    while len(data) >= 2:
        size, data = int.from_bytes(data[:2], "big") % 256, data[2:]
        agent.handle_datagram(0.1, HERE, THERE, data[:size])
        data = data[size:]
    while agent.poll_transmit() or agent.poll_event():
        pass
    assert agent.selected_pair is None, "a stranger selected a pair"
    assert not agent.is_validated(HERE, THERE), "a stranger validated a pair"


def candidate_line(data: bytes) -> None:
    """A candidate in SDP; what is understood is written and read again."""
    try:
        candidate = ice.Candidate.from_sdp(data.decode("utf-8", "replace"))
    except ValueError:
        return
    if len(candidate.extensions) < MAX_CANDIDATE_EXTENSIONS - 2:  # it is written with raddr and rport
        ice.Candidate.from_sdp(candidate.to_sdp())


def sdp_attributes(data: bytes) -> None:
    """The ICE attributes of a description."""
    try:
        sdp.parse_attributes(data.decode("utf-8", "replace"))
    except ValueError:
        return


def turn_client(data: bytes) -> None:
    """What a TURN server says, datagram by datagram and in batches."""
    client = turn.TurnClient(HERE, THERE, turn.TurnCredentials("user", "password"), randbytes=_zeros)
    client.start(0.0)
    client.permit(0.0, THERE.host)
    client.unwrap(0.1, data)
    client.unwrap_batch(0.1, data, max(1, len(data) // 3))
    while client.poll_transmit() or client.poll_event():
        pass


def turn_stream(data: bytes) -> None:
    """A stream cut into messages, whatever the pieces it comes in."""
    whole, pieces = turn.StreamFrames(), turn.StreamFrames()
    middle = len(data) // 2
    one = whole.feed(data)
    other = pieces.feed(data[:middle]) + pieces.feed(data[middle:])
    assert one == other or whole.broken


def turn_envelope(data: bytes) -> None:
    """What the TURN server reads before it knows who speaks (trap 37), of all that has the header of a message."""
    if stun.looks_like_stun(data):
        read_unverified(data)


def nat_pmp(data: bytes) -> None:
    """NAT-PMP, both directions."""
    for decode in (natpmp.decode_response_untrusted, natpmp.decode_request_untrusted):
        try:
            decode(data)
        except ValueError:
            continue


def pcp_messages(data: bytes) -> None:
    """PCP, both directions."""
    for decode in (pcp.decode_response_untrusted, pcp.decode_request_untrusted):
        try:
            decode(data)
        except ValueError:
            continue


def signaling(data: bytes) -> None:
    """Frames of the signaling relay, both directions."""
    for decode in (wire.decode_client_untrusted, wire.decode_relay_untrusted):
        try:
            frame = decode(data)
        except wire.BadFrame:
            continue
        wire.encode(frame)


def signaling_payload(data: bytes) -> None:
    """What a peer says inside the sealed channel."""
    try:
        message = wire.unpack_map_untrusted(data)
    except wire.BadFrame:
        return
    try:
        description.parse_untrusted(message)
    except description.VersionMismatch:
        return


def invitation_code(data: bytes) -> None:
    """A code as people type it."""
    try:
        found = code.parse_code(data.decode("utf-8", "replace"))
    except ValueError:
        return
    assert code.parse_code(str(found)) == found


def proxy_header(data: bytes) -> None:
    """The PROXY protocol, versions 1 and 2, and `X-Forwarded-For`."""
    with contextlib.suppress(proxy.ProxyHeaderError):
        proxy.parse_proxy_header_untrusted(data)
    proxy.forwarded_for("192.0.2.1", [data], ())


def link_control(data: bytes) -> None:
    """The link's control stream, and its authentication."""
    peer = LinkAuthenticator(
        LinkRole.SERVER, bytes(32), own_fingerprint=bytes(32), peer_fingerprint=bytes(32), randbytes=_zeros
    )
    try:
        for kind, body in ControlFrameReader().feed_untrusted(data):
            peer.handle_frame_untrusted(kind, body)
    except ControlError:
        return


def link_datagrams(data: bytes) -> None:
    """Fragments of datagrams, 40 bytes each."""
    reassembler = Reassembler(4096)
    for at in range(0, len(data), 40):
        reassembler.feed_untrusted(data[at : at + 40])
    split_varint_untrusted(data)


def tunnel_frames(data: bytes) -> None:
    """Requests and answers of a tunnel stream."""
    for decoder in (tunnel_wire.decode_request_untrusted, tunnel_wire.decode_answer_untrusted):
        try:
            found = decoder(data)
            if isinstance(found, tunnel_wire.StreamRequest):
                found.target()
        except tunnel_wire.WireError:
            continue


def tcp_frames(data: bytes) -> None:
    """What a TCP candidate reads, however the stream is cut: the first byte says how."""
    step, data = data[0] + 1 if data else 1, data[1:]
    got: list[list[bytes]] = []
    for size in (len(data) or 1, step):
        reader, frames = framing.FrameReader(), []
        with contextlib.suppress(framing.FrameError):
            for at in range(0, len(data), size):
                frames += reader.feed(data[at : at + size], 2048)
                assert reader.pending <= 2 + 2048
            got.append(frames)
    assert len(got) < 2 or got[0] == got[1]


def mdns_message(data: bytes) -> None:
    """A packet of a neighbour; what is understood of it is bounded."""
    message = mdns_packets.parse_untrusted(data)
    if message is not None:
        assert len(message.questions) + len(message.records) <= mdns_packets.MAX_ENTRIES
        for record in message.records:
            TransportAddress(record.host, 1).ip  # noqa: B018 - raises unless it is an address


class _Session:
    def __init__(self) -> None:
        self.got: list[bytes] = []

    def deliver(self, batch: Batch) -> None:
        self.got += batch.datagrams()


def shared_port(data: bytes) -> None:
    """Batches at a port of two sessions: they are sorted, whatever their form, and strangers leave no trace."""
    table: Demultiplexer[Any] = Demultiplexer()
    member, other = table.join(_Session()), table.join(_Session())
    table.add_ufrag(member, "ufrag")
    table.add_ufrag(other, "other")
    table.note_sent(0.0, member, THERE, CHECK)
    entries = table.entries
    size, data = (data[0] or 1, data[1:]) if data else (1, data)
    batch = Batch(THERE, data, size)
    _sort(0.1, table, batch)
    assert table.entries == entries
    table.note_authenticated(0.1, member, THERE, ANSWER, valid=True)
    claimed = table.entries
    _sort(0.2, table, batch)
    assert table.entries == claimed
    assert all(one in batch.datagrams() for one in (*member.session.got, *other.session.got))
    assert all(named_ufrag(one) == "other" for one in other.session.got)


def trickled_candidates(data: bytes) -> None:
    """Lines of a peer's candidates, the first byte of each a stream, for an agent with two streams; and restarts."""
    agent = ice.StreamSet(role=Role.CONTROLLED, randbytes=_zeros, layout=(1, 2))
    agent.add_local_candidate(0.0, host_candidate(HERE))
    agent.set_remote_credentials(0.0, Credentials("other", "q" * 22))
    for line in data.split(b"\n"):
        stream, text = (line[0] % 4, line[1:].decode("utf-8", "replace")) if line else (0, "")
        try:
            trickled = sdp.trickled_candidate(text)
            candidate = None if trickled is None else ice.Candidate.from_sdp(trickled)
        except ValueError:
            continue
        agent.add_remote_candidate(0.1, candidate, stream - 1)
        announced = None if candidate is None else read_announcement(candidate)
        if candidate is not None and announced is not None:
            assert read_announcement(write_announcement(announced, candidate)) == announced
    for core in agent.agents.values():
        assert len(core.remote_candidates) <= MAX_REMOTE_CANDIDATES


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        stun_message,
        stun_server,
        ice_agent,
        candidate_line,
        sdp_attributes,
        turn_client,
        turn_stream,
        turn_envelope,
        nat_pmp,
        pcp_messages,
        signaling,
        signaling_payload,
        invitation_code,
        proxy_header,
        link_control,
        link_datagrams,
        tunnel_frames,
        tcp_frames,
        mdns_message,
        shared_port,
        trickled_candidates,
    )
}

CHECK = stun.encode(
    stun.binding_request(bytes(12), stun.Username("ufrag:other"), stun.Priority(1), stun.IceControlling(5)), key=KEY
)
ANSWER = stun.encode(stun.success(stun.decode(CHECK), stun.XorMappedAddress(THERE)), key=KEY)
SEEDS: dict[str, list[bytes]] = {
    "stun_message": [CHECK, ANSWER],
    "stun_server": [CHECK, stun.encode(stun.binding_request(bytes(12)))],
    "ice_agent": [b"".join(len(one).to_bytes(2, "big") + one for one in (CHECK, ANSWER, b"data"))],
    "turn_client": [ANSWER, b"\x40\x00\x00\x04data"],
    "turn_stream": [ANSWER + b"\x40\x00\x00\x03abc\x00" + CHECK],
    "turn_envelope": [CHECK],
    "candidate_line": [
        b"candidate:1 1 UDP 2130706431 192.0.2.1 8998 typ host generation 0",
        b"a=candidate:2 1 tcp 1694498815 2001:db8::1 9 typ srflx raddr 10.0.0.1 rport 9 tcptype active",
        b"candidate:3 2 udp 99 1f4712db-ea17-4bcf-a596-105139dfd8bf.local 54596 typ host",
    ],
    "sdp_attributes": [
        b"a=ice-ufrag:abcd\r\na=ice-pwd:" + b"p" * 22 + b"\r\na=ice-options:trickle ice2\r\na=ice-lite\r\n"
    ],
    "tcp_frames": [b"\x03" + framing.frame(CHECK) + framing.frame(b"data"), b"\x00" + framing.frame(bytes(2048))],
    "mdns_message": [
        mdns_packets.encode_query("1f4712db.local"),
        mdns_packets.encode_answer(mdns_packets.Record("1f4712db.local", "fe80::1", 120)),
        mdns_packets.encode_answer(
            mdns_packets.Record("1f4712db.local", "192.0.2.1", 120),
            legacy_id=7,
            legacy=mdns_packets.MdnsQuestion("1f4712db.local", (4, 6)),
        ),
    ],
    "shared_port": [bytes((len(CHECK),)) + CHECK, bytes((len(ANSWER),)) + ANSWER, b"\x04datadata"],
    "trickled_candidates": [
        b"\x01candidate:1 1 UDP 2130706431 192.0.2.1 8998 typ host\n\x02candidate:1 2 UDP 2130706431 ::1 8998 typ host",
        b"\x01candidate:1 1 udp 1694498815 198.51.100.7 4000 typ srflx raddr 0.0.0.0 rport 9 x-nat hard x-nat-round 0",
        b"\x03candidate:2 1 tcp 1694498815 2001:db8::1 9 typ srflx raddr 10.0.0.1 rport 9 tcptype so\n\x01",
    ],
    "nat_pmp": [bytes.fromhex("008000000000000ac0000201"), bytes.fromhex("0001000003e803e800001c20")],
    "pcp_messages": [
        bytes.fromhex("020100000000 1c20") + bytes(16) + bytes(36),
        bytes.fromhex("0281000000001c20") + bytes(52),
    ],
    "signaling": [
        wire.encode(frame)
        for frame in (
            wire.Allocate(session=bytes(16)),
            wire.Ack(client_seq=1, epoch=1, seq=2),
            wire.Send(client_seq=1, payload=b"sealed"),
        )
    ],
    "signaling_payload": [b"\x82\xa4type\xaacandidates\xaacandidates\x91\xa1x"],
    "invitation_code": [b"7-guitar-ozone@198.51.100.7:41234", b"7-guitar-ozone"],
    "proxy_header": [b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)],
    "link_control": [b"\x01\x00\x20" + bytes(32)],
    "link_datagrams": [bytes.fromhex("01000000010002") + b"abc"],
    "tunnel_frames": [b"\x85\xa7version\x01\xa2op\xa4open\xa4kind\xa3tcp\xa4host\xa9localhost\xa4port\x16"],
}
"""Where mutation starts from; a parser of text is not found by chance."""


def main() -> None:
    """Fuzz the target named first; what follows is libFuzzer's."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        print("\n".join(TARGETS))
        raise SystemExit(0 if len(sys.argv) < 2 else 2)
    name = sys.argv.pop(1)
    corpus = Path("build/fuzz") / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = sys.argv[1:]
    if not any(not option.startswith("-") for option in options):
        options.append(str(corpus))
    atheris.Setup([sys.argv[0], f"-artifact_prefix=build/fuzz/{name}-", "-rss_limit_mb=1024", *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
