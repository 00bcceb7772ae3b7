"""Frames: what is written is read again, and nothing else that comes from the network gets past the door."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icesignal import wire
from icesignal.wire import BadFrame, BadFrameReason

SESSION = b"s" * 16
EXAMPLES: list[wire.Frame] = [
    wire.Allocate(session=SESSION, opening=b"x" * 1024),
    wire.Join(session=SESSION, nameplate="123456789", opening=b""),
    wire.Meet(session=SESSION, name=b"n" * 32, role="joiner", opening=b"o"),
    wire.Resume(session=SESSION, token=b"t" * 16, epoch=1, seq=2**53 - 1),
    wire.Send(client_seq=1, payload=b"p" * wire.MAX_PAYLOAD_BYTES),
    wire.Close(reason="code-wrong"),
]
_JOINED: dict[str, Any] = {
    "room": "7",
    "role": "inviter",
    "token": b"t" * 16,
    "epoch": 1,
    "seq": 0,
    "peer": "away",
    "hung_up": True,
    "opening": b"o",
    "client_seq": 3,
    "resume_s": 120,
    "ice_servers": [
        wire.RTCIceServer(urls=["stun::3478"]),
        wire.RTCIceServer(urls=["turn:a"], username="u", credential="c"),
    ],
}
RELAY_EXAMPLES: list[wire.Frame] = [
    wire.Welcome(versions=[1, 2], relay="icesignal"),
    wire.Joined(**_JOINED),
    wire.Resumed(**_JOINED),
    wire.Resync(**_JOINED),
    wire.Message(epoch=1, seq=2, payload=b"p"),
    wire.Ack(client_seq=1, epoch=1, seq=1),
    wire.Peer(state="present", opening=b""),
    wire.Peer(state="away", hung_up=True, opening=b""),
    wire.Closed(reason="left"),
    wire.Error(code="busy", message="full"),
]


def pack(**fields: object) -> bytes:
    return msgpack.packb({"v": 1, **fields})


@pytest.mark.parametrize("frame", EXAMPLES, ids=lambda frame: frame.type)
def test_client_frames_survive_the_wire(frame: wire.Frame) -> None:
    """A frame at its upper bounds still fits one message, or large payloads would never arrive."""
    data = wire.encode(frame)
    assert len(data) <= wire.MAX_MESSAGE_BYTES
    assert wire.decode_client_untrusted(data) == frame


@pytest.mark.parametrize("frame", RELAY_EXAMPLES, ids=lambda frame: frame.type)
def test_relay_frames_survive_the_wire(frame: wire.Frame) -> None:
    """The relay's half of the table."""
    decoded = wire.decode_relay_untrusted(wire.encode(frame))
    assert decoded == frame
    assert type(decoded) is type(frame)


def test_a_frame_on_the_wire_is_a_map_with_type_and_version() -> None:
    """Other implementations read docs/relay-protocol.md, not this code."""
    assert msgpack.unpackb(wire.encode(wire.Close(reason="done"))) == {"type": "close", "v": 1, "reason": "done"}


def test_unknown_keys_are_ignored() -> None:
    """Adding a key must not need a new version."""
    assert wire.decode_client_untrusted(pack(type="close", reason="left", why=[1, {"a": 2}])) == wire.Close(
        reason="left"
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pack(type="frobnicate"), BadFrameReason.UNKNOWN_TYPE),
        (pack(type="joined"), BadFrameReason.UNKNOWN_TYPE),  # a relay's frame from a client
        (msgpack.packb({"type": "close", "v": 2, "reason": "left"}), BadFrameReason.VERSION),
        (msgpack.packb({"type": "close", "reason": "left"}), BadFrameReason.MALFORMED),
        (msgpack.packb({"type": "close", "v": True, "reason": "left"}), BadFrameReason.MALFORMED),
        (pack(type=7), BadFrameReason.MALFORMED),
        (pack(type="close", reason="bored"), BadFrameReason.MALFORMED),
        (pack(type="send", client_seq=0, payload=b"p"), BadFrameReason.MALFORMED),
        (pack(type="send", client_seq=2**53, payload=b"p"), BadFrameReason.MALFORMED),
        (pack(type="send", client_seq=1, payload=b""), BadFrameReason.MALFORMED),
        (pack(type="send", client_seq=1, payload="text"), BadFrameReason.MALFORMED),
        (pack(type="send", client_seq=1.0, payload=b"p"), BadFrameReason.MALFORMED),
        (pack(type="send", client_seq=1, payload=b"p" * (wire.MAX_PAYLOAD_BYTES + 1)), BadFrameReason.MALFORMED),
        (pack(type="allocate", session=b"short"), BadFrameReason.MALFORMED),
        (pack(type="join", session=SESSION, nameplate="07"), BadFrameReason.MALFORMED),
        (pack(type="join", session=SESSION, nameplate="7\n"), BadFrameReason.MALFORMED),
        (pack(type="join", session=SESSION, nameplate="1234567890"), BadFrameReason.MALFORMED),
        (pack(type="close", reason="left", **{f"k{n}": n for n in range(40)}), BadFrameReason.MALFORMED),
        (b"", BadFrameReason.MALFORMED),
        (b"\x80trailing", BadFrameReason.MALFORMED),
        (b"\x91" * 60_000, BadFrameReason.MALFORMED),  # nested 60,000 deep
        (b"\xdf\xff\xff\xff\xff", BadFrameReason.MALFORMED),  # a map that claims four billion entries
        (b"\xc6\xff\xff\xff\xff", BadFrameReason.MALFORMED),  # four gigabytes of bytes, it says
        (bytes(wire.MAX_MESSAGE_BYTES + 1), BadFrameReason.MALFORMED),
        ("text", BadFrameReason.MALFORMED),
    ],
)
def test_what_is_no_frame_is_refused_with_its_reason(data: bytes | str, reason: BadFrameReason) -> None:
    """Every bound of docs/relay-protocol.md section 3 is checked before a frame reaches the rooms."""
    with pytest.raises(BadFrame) as caught:
        wire.decode_client_untrusted(data)
    assert caught.value.reason is reason


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_random_bytes_raise_nothing_but_wire_error(data: bytes) -> None:
    """A stranger chooses these bytes."""
    for decode in (wire.decode_client_untrusted, wire.decode_relay_untrusted):
        with contextlib.suppress(BadFrame):
            decode(data)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["session", "nameplate", "opening", "name", "role", "token", "epoch", "seq", "payload", "x"]),
        json_like,
    ),
    st.sampled_from([frame.type for frame in EXAMPLES + RELAY_EXAMPLES]),
)
@settings(deadline=None)
def test_maps_of_wrong_values_raise_nothing_but_wire_error(fields: dict[str, object], kind: str) -> None:
    """Well-formed msgpack with keys of ours and values of any type is what a fuzzer finds next."""
    data = pack(**fields, type=kind)
    for decode in (wire.decode_client_untrusted, wire.decode_relay_untrusted):
        with contextlib.suppress(BadFrame):
            decode(data)


@given(st.sampled_from(EXAMPLES), st.data())
@settings(deadline=None)
def test_mutated_frames_raise_nothing_but_wire_error(frame: wire.Frame, data: st.DataObject) -> None:
    """One flipped byte gets further into a decoder than random bytes do."""
    raw = bytearray(wire.encode(frame)[:2000])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadFrame):
        wire.decode_client_untrusted(bytes(raw))


def test_error_texts_never_repeat_values() -> None:
    """The texts are logged and sent back; payloads must not be in them (trap 41)."""
    with pytest.raises(BadFrame) as caught:
        wire.decode_client_untrusted(pack(type="send", client_seq="hush-hush", payload=b"hush-hush"))
    assert "hush" not in str(caught.value)
