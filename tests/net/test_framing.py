"""RFC 4571: datagrams in a byte stream, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceagent.net.framing import MAX_FRAME, FrameError, FrameReader, frame


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.lists(st.integers(1, 50), min_size=1))
def test_what_is_framed_comes_out_however_the_stream_is_cut(datagrams: list[bytes], cuts: list[int]) -> None:
    """TCP keeps order and bytes, and no boundaries."""
    stream = b"".join(map(frame, datagrams))
    reader, got, at, turn = FrameReader(), [], 0, 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        got += reader.feed(stream[at : at + step])
        at, turn = at + step, turn + 1
    assert got == datagrams
    assert reader.pending == 0


@given(st.lists(st.binary(max_size=400), max_size=30))
def test_no_bytes_raise_but_for_a_frame_beyond_the_limit(chunks: list[bytes]) -> None:
    """Whoever connects writes what he likes; what is kept never exceeds one frame."""
    reader = FrameReader()
    try:
        for chunk in chunks:
            frames = reader.feed(chunk, limit=1000)
            assert all(0 < len(one) <= 1000 for one in frames)
            assert reader.pending <= 1002
    except FrameError:
        pass


def test_lengths_at_the_limits() -> None:
    """Two bytes of length, big-endian; nothing longer can be said."""
    assert frame(bytes(MAX_FRAME))[:2] == b"\xff\xff"
    assert FrameReader().feed(frame(bytes(MAX_FRAME))) == [bytes(MAX_FRAME)]
    with pytest.raises(ValueError, match="65536"):
        frame(bytes(MAX_FRAME + 1))


def test_an_empty_frame_says_nothing() -> None:
    """RFC 4571 allows it; there is no empty datagram to hand on that would mean anything."""
    assert FrameReader().feed(b"\0\0" + frame(b"x") + b"\0\0") == [b"x"]


def test_the_longest_frame_may_come_byte_by_byte() -> None:
    """Each byte is looked at a few times, not once for each that follows: 65,537 pieces take a moment, not minutes."""
    reader, datagram = FrameReader(), bytes(range(256)) * 255
    pieces = [reader.feed(bytes((byte,))) for byte in frame(datagram)]
    assert pieces[-1] == [datagram]
    assert not any(pieces[:-1])
