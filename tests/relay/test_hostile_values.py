"""Any value in any field of any message: of a relay to its client, and of a client to its relay.

Whatever comes costs the one who sent it. A client's session ends, if it must, with an error of its own kind; a relay
and everybody else on it go on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from secrets import token_bytes

import icesignal
import msgpack
import pytest
import trio
import trio.testing
from amount import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from icesignal import wire
from icesignal.code import Code
from icesignal.dial import with_own_host
from icesignal.rooms import RoomTable
from memory_relay import play_relay

from iceagent.session.relay import agent_config

JOINED = wire.Joined(
    room="7",
    role="joiner",
    token=b"t" * 16,
    epoch=1,
    seq=0,
    peer="present",
    opening=b"o" * 33,
    client_seq=0,
    resume_s=120,
    ice_servers=[wire.RTCIceServer(urls=["stun::3478", "turn:turn.example"], username="u", credential="c")],
)
OF_A_RELAY: list[wire.Frame] = [
    wire.Welcome(versions=[1]),
    JOINED,
    wire.Resumed(**{name: getattr(JOINED, name) for name in JOINED.__struct_fields__}),
    wire.Resync(**{name: getattr(JOINED, name) for name in JOINED.__struct_fields__}),
    wire.Message(epoch=1, seq=1, payload=b"\x01" + bytes(32)),
    wire.Message(epoch=1, seq=2, payload=b"\x02" + bytes(40)),
    wire.Ack(client_seq=1, epoch=1, seq=2),
    wire.Peer(state="away", hung_up=True, opening=b"o" * 33),
    wire.Closed(reason="left"),
    wire.Error(code="rate", message="no"),
]
OF_A_CLIENT: list[wire.Frame] = [
    wire.Allocate(session=b"f" * 16, opening=b"o"),
    wire.Join(session=b"g" * 16, nameplate="7", opening=b"o"),
    wire.Meet(session=b"h" * 16, name=b"n" * 32, role="inviter", opening=b"o"),
    wire.Resume(session=b"f" * 16, token=b"t" * 16, epoch=1, seq=0),
    wire.Send(client_seq=1, payload=b"payload"),
    wire.Close(reason="code-wrong"),
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, 2, -1, 2**53 - 1, 2**53, 2**63, 2**64 - 1, -(2**63)]),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["", "x" * 257, "inviter", "joiner", "absent", "present", "away", "expired", "done", "1", "0"]),
    st.binary(max_size=40),
    st.sampled_from([b"", bytes(16), bytes(32), bytes(33), bytes(1_024), bytes(1_025)]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def packed(frame: wire.Frame, changes: dict[str, object]) -> bytes:
    fields = msgpack.unpackb(wire.encode(frame))
    return bytes(msgpack.packb(fields | changes, use_bin_type=True, unicode_errors="surrogatepass") or b"")


@st.composite
def messages(draw: st.DrawFn, frames: list[wire.Frame]) -> bytes:
    """Return a frame with any values in up to two of its fields."""
    frame = draw(st.sampled_from(frames))
    names = sorted({"type", "v", *frame.__struct_fields__})
    return packed(frame, draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=2)))


async def join_at(said: list[bytes]) -> None:
    async with trio.open_nursery() as nursery:

        async def open_stream(_host: str, _port: int) -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(play_relay, said, theirs)
            return ours

        with trio.move_on_after(300):  # whatever it waits for is bounded, or the other side's to send
            try:
                async with (
                    icesignal.open_client("ws://relay.example", open_stream=open_stream) as client,
                    icesignal.open_join(client, Code("7", ("guitar", "ozone"))) as channel,
                ):
                    await channel.send({"hello": 1})
                    await channel.receive()
            except icesignal.SignalError:
                pass
        nursery.cancel_scope.cancel()


@given(st.lists(messages(OF_A_RELAY), min_size=1, max_size=6), st.booleans())
@examples(30, 10, deadline=None)
@example([packed(JOINED, {"resume_s": 2**53 - 1}), packed(JOINED, {"client_seq": 2**53 - 1})], False)
@example([packed(JOINED, {"resume_s": 0})], False)
@example([packed(OF_A_RELAY[4], {"seq": 2**53 - 1}), packed(OF_A_RELAY[4], {"seq": 1})], True)
def test_trap_68_no_value_of_a_relay_ends_its_client(said: list[bytes], is_joined: bool) -> None:
    """It gets an error that it can tell apart and print, whatever the relay made up."""
    prefix = [wire.encode(JOINED)] if is_joined else []
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(join_at, [*prefix, *said], clock=clock)


@given(st.lists(messages(OF_A_CLIENT), min_size=1, max_size=8))
@examples(300, 50, deadline=None)
def test_trap_68_no_value_of_a_client_ends_the_relay_or_the_others(said: list[bytes]) -> None:
    """What is no frame is refused at the door; what is one leaves the conversation beside it alone."""
    table = RoomTable(randbytes=token_bytes)
    table.handle_frame(0.0, 1, wire.Allocate(session=b"A" * 16))
    room = next(iter(table.poll_output, None)).frame
    assert isinstance(room, wire.Joined)
    table.handle_frame(0.0, 2, wire.Join(session=b"B" * 16, nameplate=room.room))
    for number, message in enumerate(said):
        try:
            frame = wire.decode_client_untrusted(message)
        except wire.BadFrame:
            continue
        table.handle_frame(0.0, 3 + number % 2, frame)
    for output in iter(table.poll_output, None):
        assert output.close is None or output.connection > 2
    table.handle_frame(0.0, 1, wire.Send(client_seq=1, payload=b"still here"))
    answers = {output.connection: output.frame for output in iter(table.poll_output, None)}
    assert isinstance(answers[1], wire.Ack)
    assert isinstance(answers[2], wire.Message)


@given(st.lists(messages([JOINED]), max_size=3), VALUES)
@settings(deadline=None)
def test_trap_68_what_a_relay_says_of_servers_is_used_or_left_out(said: list[bytes], value: object) -> None:
    """A password with a newline, a URL that is none: that server is left out, and nobody's session ends."""
    for message in [*said, packed(JOINED, {"ice_servers": [{"urls": ["turn:x"], "username": value}]})]:
        try:
            frame = wire.decode_relay_untrusted(message)
        except wire.BadFrame:
            continue
        assert isinstance(frame, wire.Frame)
        if isinstance(frame, wire.Joined):
            agent_config(None, "192.0.2.1", with_own_host(frame.ice_servers, "192.0.2.1"))


@pytest.mark.parametrize("make", [partial(bytes), lambda: b"\xc1", lambda: b"\x81\xa1v" + b"\x91" * 5_000])
def test_trap_68_what_is_no_message_at_all_is_refused(make: Callable[[], bytes]) -> None:
    """Empty, a byte that msgpack never uses, nesting without end."""
    for decode in (wire.decode_client_untrusted, wire.decode_relay_untrusted):
        with pytest.raises(wire.BadFrame):
            decode(make())


GOOD = {"urls": ["stun::3478"]}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"urls": ["turn:x"], "username": 7}, "username"),
        ({"urls": ["turn:x"], "ttl": -1}, "ttl"),
        ({"urls": []}, "urls"),
        ({"urls": ["stun:" + "x" * 300]}, "urls"),
        ("stun:x", "object"),
        (None, "object"),
    ],
    ids=range(6),
)
@pytest.mark.parametrize("frame", [JOINED, wire.Servers(ice_servers=[])], ids=lambda frame: frame.type)
def test_trap_68_one_bad_server_costs_itself_alone(frame: wire.Frame, bad: object, why: str) -> None:
    """It cost the connection, again after each resume, and with it the place in the room."""
    told: list[str] = []
    found = wire.decode_relay_untrusted(packed(frame, {"ice_servers": [bad, GOOD, bad]}), told.append)
    assert isinstance(found, wire.Joined | wire.Servers)
    assert found.ice_servers == [wire.RTCIceServer(urls=["stun::3478"])]
    assert len(told) == 2
    assert why in told[0]
    assert "xxx" not in told[0]


def test_trap_68_what_is_no_list_names_no_server_and_too_many_are_cut() -> None:
    """A relay with nothing to say, and one that says too much, are relays."""
    found = wire.decode_relay_untrusted(packed(JOINED, {"ice_servers": {"urls": 1}}))
    assert isinstance(found, wire.Joined)
    assert found.ice_servers == []
    found = wire.decode_relay_untrusted(packed(JOINED, {"ice_servers": [GOOD] * 40}))
    assert isinstance(found, wire.Joined)
    assert len(found.ice_servers) == wire.MAX_MAP_KEYS


def test_trap_68_a_server_that_is_left_out_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """And the client is in its room, with the same connection."""
    bad = [
        packed(frame, {"ice_servers": [{"urls": 1}]}) for frame in (JOINED, wire.Servers(ice_servers=[])) for _ in "ab"
    ]
    trio.run(join_at, bad, clock=trio.testing.MockClock(autojump_threshold=0))
    told = [one.getMessage() for one in caplog.records if "left out" in one.getMessage()]
    assert len(told) == 1
    assert "ws://relay.example" in told[0]
    assert not any("no frame" in one.getMessage() for one in caplog.records)
