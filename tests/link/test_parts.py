"""The parts of a link that do no I/O: control frames, proofs, credit, stream buffers, first packets."""

from __future__ import annotations

import hashlib
import random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from iceagent.core.address import TransportAddress
from iceagent.link import Ledger, LinkConfig, LinkRole, generate_identity
from iceagent.link.auth import AuthState, LinkAuthenticator, proof
from iceagent.link.backends import create_endpoint
from iceagent.link.control import (
    ControlError,
    ControlFrameReader,
    FrameType,
    decode_credit,
    decode_welcome,
    encode_credit,
    encode_frame,
    encode_welcome,
)
from iceagent.link.credit import CreditExceeded, ReceiveCredit, SendCredit
from iceagent.link.quic import initial_cids_untrusted
from iceagent.link.streams import BadHeader, StreamState, encode_header
from iceagent.net.batch import Batch

KEY = b"k" * 32
PEER = TransportAddress("192.0.2.1", 1)


def authenticators(client_key: bytes = KEY, server_key: bytes = KEY, *, server_seen: bytes = b"s" * 32):
    """Return client and server; `server_seen` is the server's certificate as the client saw it."""
    rng = random.Random(1)
    client = LinkAuthenticator(
        LinkRole.CLIENT, client_key, own_fingerprint=b"c" * 32, peer_fingerprint=server_seen, randbytes=rng.randbytes
    )
    server = LinkAuthenticator(
        LinkRole.SERVER, server_key, own_fingerprint=b"s" * 32, peer_fingerprint=b"c" * 32, randbytes=rng.randbytes
    )
    return client, server


def converse(client: LinkAuthenticator, server: LinkAuthenticator) -> None:
    """Carry frames between the two until both are silent."""
    readers = ControlFrameReader(), ControlFrameReader()
    to_server, to_client = client.start(), server.start()
    while to_server or to_client:
        frames = readers[0].feed_untrusted(to_server)
        to_server = b""
        to_client += b"".join(server.handle_frame_untrusted(*frame) for frame in frames)
        frames = readers[1].feed_untrusted(to_client)
        to_client = b""
        to_server += b"".join(client.handle_frame_untrusted(*frame) for frame in frames)


def test_ends_with_the_same_key_trust_each_other() -> None:
    """The point of it all."""
    client, server = authenticators()
    converse(client, server)
    assert client.state is server.state is AuthState.DONE


@pytest.mark.parametrize("keys", [(KEY, b"x" * 32), (b"x" * 32, KEY)])
def test_another_key_is_never_trusted_by_either(keys) -> None:
    """Whichever end has the wrong key, neither may reach DONE."""
    client, server = authenticators(*keys)
    converse(client, server)
    assert client.state is AuthState.FAILED
    assert server.state is not AuthState.DONE


def test_a_man_in_the_middle_with_another_certificate_is_noticed() -> None:
    """He can relay the proofs, but they name the certificate that TLS showed the client."""
    client, server = authenticators(server_seen=b"m" * 32)
    converse(client, server)
    assert client.state is AuthState.FAILED
    assert server.state is not AuthState.DONE


def test_a_reflected_proof_is_refused() -> None:
    """Sending the client's own frames back must not pass for the server's: the role is in the proof."""
    client, _ = authenticators()
    hello = ControlFrameReader().feed_untrusted(client.start())[0]
    client.handle_frame_untrusted(*hello)
    nonces = (hello[1], hello[1])
    client.handle_frame_untrusted(FrameType.PROOF, proof(KEY, LinkRole.CLIENT, b"s" * 32, b"c" * 32, nonces))
    assert client.state is AuthState.FAILED


@pytest.mark.parametrize("kind", [FrameType.PROOF, FrameType.WELCOME, FrameType.CREDIT])
def test_nothing_is_accepted_out_of_order(kind) -> None:
    """A peer that skips its nonce or its proof is refused."""
    client, server = authenticators()
    client.start()
    for end in (client, server):
        assert end.handle_frame_untrusted(kind, bytes(32)) == b""
        assert end.state is AuthState.FAILED
        end.handle_frame_untrusted(FrameType.HELLO, bytes(32))
        assert end.state is AuthState.FAILED


@given(cuts=st.lists(st.integers(1, 40), max_size=40))
def test_control_frames_survive_any_cutting(cuts) -> None:
    """QUIC delivers a stream in whatever pieces it likes."""
    wire = encode_welcome(65536) + encode_credit(8, 1 << 40) + encode_frame(FrameType.HELLO, bytes(32)) + b"\x63\0\1x"
    wire += encode_credit(4, 5)
    reader, frames = ControlFrameReader(), []
    for cut in cuts:
        frames += reader.feed_untrusted(wire[:cut])
        wire = wire[cut:]
    frames += reader.feed_untrusted(wire)
    assert [kind for kind, _ in frames] == [FrameType.WELCOME, FrameType.CREDIT, FrameType.HELLO, FrameType.CREDIT]
    assert decode_welcome(frames[0][1]) == 65536
    assert decode_credit(frames[1][1]) == (8, 1 << 40)


@given(data=st.lists(st.binary(max_size=100), max_size=30))
def test_a_control_stream_of_any_bytes_is_refused_or_read(data) -> None:
    """Nothing but ControlError may come out, and no more than one frame is held."""
    reader = ControlFrameReader()
    try:
        for part in data:
            reader.feed_untrusted(part)
            assert len(reader._buffer) <= 1027
    except ControlError:
        pass


def test_credit_is_granted_in_large_steps_as_the_application_reads() -> None:
    """Half a window at a time: few frames, and never more outstanding than the window."""
    ledger = Ledger(100_000_000)
    credit = ReceiveCredit(ledger, minimum=1000, window=10_000)
    assert credit.next_grant() == 10_000
    credit.note_received(10_000)
    grants = []
    for _ in range(100):
        credit.note_consumed(100)
        grants.append(credit.next_grant())
    assert [grant for grant in grants if grant is not None] == [15_000, 20_000]
    with pytest.raises(CreditExceeded):
        credit.note_received(10_001)


def test_stalled_streams_never_take_all_the_memory_there_is() -> None:
    """Each stream gets at most a share of what is left, and always its minimum: the next one still moves."""
    ledger = Ledger(1_000_000)
    windows = []
    for _ in range(30):
        credit = ReceiveCredit(ledger, minimum=1000, window=200_000)
        limit = credit.next_grant()
        windows.append(limit or credit.limit)
    assert windows[0] == 200_000
    assert windows == sorted(windows, reverse=True)
    assert windows[-1] >= 1000
    assert ledger.promised <= 1_000_000 + 30 * 1000


def test_links_share_the_ceiling_of_the_process() -> None:
    """Ten links of 32 MiB each would be too much; what one link holds, another cannot promise."""
    process = Ledger(1_000_000)
    first, second = Ledger(1_000_000, process), Ledger(1_000_000, process)
    greedy = [ReceiveCredit(first, minimum=1000, window=900_000) for _ in range(5)]
    for credit in greedy:
        credit.next_grant()
    late = ReceiveCredit(second, minimum=1000, window=900_000)
    late.next_grant()
    assert late.limit < 250_000
    for credit in greedy:
        credit.close()
    second.detach()
    assert process.promised == 0


@given(steps=st.lists(st.tuples(st.sampled_from(["receive", "consume", "finish", "close"]), st.integers(0, 5000))))
def test_the_ledger_is_exact_whatever_happens_to_streams(steps) -> None:
    """The books must balance: what is promised is what may still arrive plus what waits to be read."""
    ledger = Ledger(20_000)
    credit = ReceiveCredit(ledger, minimum=1000, window=8000)
    closed = finished = False
    for kind, count in steps:
        if kind == "receive" and not finished:
            credit.note_received(min(count, credit.limit - credit.received))
        elif kind == "consume":
            credit.note_consumed(min(count, credit.received - credit.consumed))
            if not finished:
                credit.next_grant()
        elif kind == "finish":
            finished = True
            credit.finish()
        elif kind == "close":
            closed = True
            credit.close()
        assert ledger.promised == (0 if closed else credit.limit - credit.consumed)
        assert credit.limit >= credit.received >= credit.consumed


def test_send_credit_only_grows() -> None:
    """Grants may arrive in any order after retransmission."""
    credit = SendCredit(100)
    assert credit.raise_to(500)
    assert not credit.raise_to(300)
    credit.sent = 500
    assert credit.available == 0


def stream(*, is_local: bool = False) -> StreamState:
    credit = ReceiveCredit(Ledger(10**9), minimum=10**6, window=10**6)
    return StreamState(4, is_local=is_local, name="", credit=credit, send_limit=0)


@given(data=st.binary(max_size=3000), cuts=st.lists(st.integers(1, 500)), reads=st.lists(st.integers(1, 700)))
def test_what_goes_into_a_stream_comes_out_in_order(data, cuts, reads) -> None:
    """Whatever the pieces in which it arrives and is read."""
    state = stream()
    wire = encode_header("näme".encode()) + data
    completed = 0
    for cut in cuts:
        completed += state.feed_untrusted(wire[:cut])
        wire = wire[cut:]
    completed += state.feed_untrusted(wire)
    assert completed == 1
    assert state.name == "näme"
    out = [state.take(size) for size in reads]
    assert all(len(part) <= size for part, size in zip(out, reads, strict=True))
    out.append(state.take(10_000))
    assert b"".join(out) == data
    assert state.size == 0


def test_tiny_pieces_are_put_together() -> None:
    """A peer that sends byte by byte must not cost fifty times its credit in objects."""
    state = stream(is_local=True)
    for _ in range(100_000):
        state.feed_untrusted(b"x")
    assert len(state.chunks) < 10
    assert state.take(1 << 20) == b"x" * 100_000


@pytest.mark.parametrize("head", [b"\x04\x01", b"\xff\xff", b"\x00\x02\xff\xfe"])
def test_a_malformed_name_is_refused(head) -> None:
    """Too long or not UTF-8."""
    with pytest.raises(BadHeader):
        stream().feed_untrusted(head)


def test_the_first_packet_tells_the_connection_id() -> None:
    """RFC 9001 appendix A.2: a client Initial with connection id 8394c8f03e515708."""
    packet = bytes.fromhex("c000000001088394c8f03e5157080000449e7b9aec34").ljust(1200, b"\0")
    assert initial_cids_untrusted(packet) == (bytes.fromhex("8394c8f03e515708"), b"")
    assert initial_cids_untrusted(packet[:1199]) is None
    assert initial_cids_untrusted(b"\x40" + packet[1:]) is None
    assert initial_cids_untrusted(packet[:4] + b"\x02" + packet[5:]) is None


@given(data=st.binary(max_size=1500))
def test_the_first_packet_may_be_anything(data) -> None:
    """No bytes raise."""
    initial_cids_untrusted(data)
    initial_cids_untrusted(data.ljust(1200, b"\xc0"))


def test_an_identity_is_a_certificate_with_its_fingerprint() -> None:
    """The fingerprint that signaling carries is the one TLS will show; the key stays out of logs."""
    identity = generate_identity()
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    assert identity.fingerprint == hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
    assert "PRIVATE" not in repr(identity)
    assert generate_identity().fingerprint != identity.fingerprint


class _AnswersStopSending:
    """A handler that, as the link's does, answers STOP_SENDING with a reset; all else it ignores."""

    def __init__(self, endpoint) -> None:
        self.endpoint = endpoint
        self.asked = 0

    def on_stop_sending(self, stream_id: int, code: int) -> None:
        self.asked += 1
        self.endpoint.reset_stream(stream_id, code)
        self.endpoint.stop_stream(stream_id, code)
        self.endpoint.send_stream(stream_id, b"too late")
        self.endpoint.send_datagram(b"too late")
        self.endpoint.ping(1)

    def __getattr__(self, name: str):
        return lambda *_: None


@pytest.mark.parametrize("backend", ["qh3", "aioquic"])
def test_final_messages_that_ask_for_an_answer_do_no_harm(backend: str) -> None:
    """STOP_SENDING and CONNECTION_CLOSE in one batch: nobody is left to hear the answer to the first."""
    identities = {role: generate_identity() for role in LinkRole}
    client, server = (
        create_endpoint(backend, role, identities[role], identities[role.other].fingerprint, LinkConfig())
        for role in (LinkRole.CLIENT, LinkRole.SERVER)
    )
    ignore = _AnswersStopSending(client)
    client.connect(0.0)

    def carry(source, target, now: float) -> None:
        target.receive_untrusted(
            [Batch(PEER, datagram, len(datagram)) for datagram in source.datagrams_to_send(now)], now
        )

    for step in range(8):
        carry(client, server, step / 100)
        carry(server, client, step / 100)
        client.drain_events(ignore)
        server.drain_events(_AnswersStopSending(server))
        if step == 4:
            stream_id = client.open_stream()
            client.send_stream(stream_id, b"hello")
        if step == 5:
            server.send_stream(stream_id, b"x" * 5000)
    client.stop_stream(stream_id, 20)
    final_messages = client.datagrams_to_send(1.0)
    client.close(0, "done")
    final_messages += client.datagrams_to_send(1.0)
    server.receive_untrusted([Batch(PEER, datagram, len(datagram)) for datagram in final_messages], 1.0)
    handler = _AnswersStopSending(server)
    server.drain_events(handler)
    assert handler.asked == 1
    assert server.close_reason is not None


def test_a_fault_of_the_quic_library_in_an_open_link_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What it threw away may be anybody's; before, a connection stood still and no line told why."""

    class Broken:
        _close_event = None

        def datagrams_to_send(self, now: float) -> None:
            raise ValueError("reserved stream is missing")

        def get_timer(self) -> None:
            return None

    identity = generate_identity()
    endpoint = create_endpoint("qh3", LinkRole.CLIENT, identity, identity.fingerprint, LinkConfig())
    endpoint._connection = Broken()
    assert endpoint.datagrams_to_send(1.0) == []
    assert not caplog.records, "a handshake is begun anew"
    endpoint.handshake_done = True
    assert endpoint.datagrams_to_send(2.0) == []
    assert "reserved stream is missing" in caplog.text
    assert endpoint.library_errors == 2
