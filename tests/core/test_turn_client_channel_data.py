"""ChannelData alone, in batches and in streams: RFC 8656 section 12."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceagent.core import stun, turn

CHANNEL = st.integers(turn.CHANNEL_MIN, turn.CHANNEL_MAX)


@given(CHANNEL, st.binary(max_size=100), st.booleans())
def test_channel_data_comes_back(channel, payload, pad):
    """What one side frames the other reads, padded (streams) or not (UDP)."""
    message = turn.encode_channel_data(channel, payload, pad=pad)
    assert turn.decode_channel_data(message) == (channel, payload)
    assert not pad or len(message) % 4 == 0


@given(st.binary(max_size=40), st.integers(1, 40))
def test_any_bytes_are_stripped_or_refused(data, segment_size):
    """Bytes from the network never raise, whatever the kernel says of their segments."""
    turn.decode_channel_data(data)
    turn.strip_channel_batch(data, segment_size)
    turn.StreamFrames().feed(data)


@given(CHANNEL, st.integers(1, 50), st.integers(2, 20), st.integers(0, 50))
def test_a_batch_of_one_channel_is_stripped_whole(channel, size, count, last):
    """A bulk flow costs one call per GRO buffer, not one per datagram."""
    payloads = [bytes([number]) * size for number in range(count)] + [b"z" * min(last, size)]
    messages = turn.encode_channel_batch(channel, payloads)
    assert turn.strip_channel_batch(b"".join(messages), size + 4) == (channel, payloads)


def test_a_batch_of_two_channels_is_left_to_the_slow_path():
    """Payloads must never reach the wrong peer's user."""
    messages = [turn.encode_channel_data(0x4000 + number, b"four") for number in (0, 0, 1)]
    assert turn.strip_channel_batch(b"".join(messages), 8) is None


@given(st.lists(st.tuples(CHANNEL, st.binary(max_size=30))), st.integers(1, 9))
def test_a_stream_is_cut_into_its_messages(messages, step):
    """TCP delivers any number of bytes at once; frames come whole and in order."""
    request = stun.encode(stun.binding_request(bytes(12)))
    sent = [turn.encode_channel_data(channel, payload, pad=True) for channel, payload in messages]
    stream = b"".join([request, *sent])
    frames = turn.StreamFrames()
    got = [frame for at in range(0, len(stream), step) for frame in frames.feed(stream[at : at + step])]
    assert got == [request, *sent]
    assert not frames.broken
    assert frames.take_rest() == b""


@pytest.mark.parametrize("data", [b"POST / HTTP/1.1\r\n\r\n", b"\x00\x01\x00\x03" + bytes(16), b"\x50\x00\x00\x00aaaa"])
def test_a_stream_of_something_else_is_given_up(data):
    """Without a frame's length there is no next frame; buffering on would fill memory."""
    frames = turn.StreamFrames()
    assert frames.feed(data) == []
    assert frames.broken


def test_short_lived_credentials_are_what_coturn_expects():
    """Figures of `use-auth-secret`: base64 of HMAC-SHA1 over `expiry:id`."""
    credentials = turn.shared_secret_credentials(b"north", "alice", 1433895918)
    assert credentials.username == "1433895918:alice"
    assert turn.shared_secret_expiry(credentials.username) == 1433895918
    assert len(credentials.password) == 28
    assert credentials.password not in repr(credentials)
    assert turn.shared_secret_expiry("alice") is None
