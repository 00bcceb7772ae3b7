"""A relay's answers to a wish, and its silence: what it makes up stands in no line of ours, and nothing waits for ever.

A relay is trusted with nothing but availability, and not with that either: what waits for its word has an end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import icesignal
import pytest
import trio
import trio.testing
from icesignal import wire
from icesignal.client_session import ClientSession
from icesignal.code import Code
from icesignal.member_session import Action
from memory_relay import open_memory_relay, play_relay

from iceagent.agent import AgentConfig
from iceagent.link import generate_identity
from iceagent.session.errors import PeerLeft
from iceagent.session.establish import establish
from iceagent.session.session import Session
from iceagent.session.signaling import SPEECH_S

JOINED = wire.Joined(
    room="7",
    role="inviter",
    token=b"t" * 16,
    epoch=1,
    seq=0,
    peer="absent",
    opening=b"",
    client_seq=0,
    resume_s=120,
)
NO_NAMEPLATES = [
    "",
    "7\niceagent: connected",
    "7;reboot",
    "7 -guitar-ozone@evil.example:80",
    "guitar",
    "0",
    "07",
    "1234567890",
    "\u0667",
    "7\n",
]
ALLOCATE = wire.Allocate(session=b"s" * 16)
JOIN = wire.Join(session=b"s" * 16, nameplate="7")
MEET = wire.Meet(session=b"s" * 16, name=b"n" * 32, role="joiner")
ROOM = MEET.name.hex()


def placed(**changes: Any) -> wire.Joined:
    return wire.Joined(**{name: getattr(JOINED, name) for name in JOINED.__struct_fields__} | changes)


@pytest.mark.parametrize("room", NO_NAMEPLATES)
def test_trap_72_a_code_is_made_of_a_nameplate_or_not_at_all(room: str) -> None:
    """The name of the room stands in the code, which a person is shown and pastes into a shell."""
    session = ClientSession(ALLOCATE)
    assert session.handle_frame(placed(room=room))[0] == []
    assert session.joined is None
    assert isinstance(session.refused, icesignal.RelayRefused)


@pytest.mark.parametrize(
    ("entry", "place"),
    [
        (ALLOCATE, {"role": "joiner"}),
        (JOIN, {"role": "inviter"}),
        (JOIN, {"role": "joiner", "room": "8"}),
        (MEET, {"role": "inviter", "room": ROOM}),
        (MEET, {"role": "joiner", "room": ROOM.upper()}),
    ],
)
def test_trap_72_another_place_than_was_asked_for_is_refused(entry: Any, place: dict[str, Any]) -> None:
    """Both sides would have the keys of different rooms, and be told that somebody had a wrong code."""
    session = ClientSession(entry)
    session.handle_frame(placed(**place))
    assert isinstance(session.refused, icesignal.RelayRefused)


@pytest.mark.parametrize("entry", [ALLOCATE, JOIN, MEET])
def test_trap_72_a_resumed_session_stays_in_its_place(entry: Any) -> None:
    """A code that has been read out is not renamed afterwards."""
    place: dict[str, Any] = {
        "allocate": {},
        "join": {"role": "joiner"},
        "meet": {"role": "joiner", "room": ROOM},
    }[entry.type]
    session = ClientSession(entry)
    session.handle_frame(placed(**place))
    session.begin()
    session.handle_frame(wire.Resumed(**{name: getattr(placed(**place), name) for name in JOINED.__struct_fields__}))
    assert session.over is None
    elsewhere = placed(**place, **({} if "room" in place else {"room": "9"}))
    moved = {name: getattr(elsewhere, name) for name in JOINED.__struct_fields__} | {"role": "inviter", "room": "9"}
    session.handle_frame(wire.Resumed(**moved))
    assert isinstance(session.over, icesignal.RelayRefused)
    assert session.joined is not None
    assert session.joined.room != "9"


@pytest.mark.parametrize("code", ["", "x" * 41, "\x1b[2J", "Rate", "iceagent: connected"])
@pytest.mark.parametrize("is_joined", [False, True])
def test_an_error_code_that_is_no_word_is_not_repeated(code: str, is_joined: bool) -> None:
    """A relay of a later version has other codes, and those are shown; what else stands there is for nobody's eyes."""
    session = ClientSession(ALLOCATE)
    if is_joined:
        session.handle_frame(JOINED)
    session.handle_frame(wire.Error(code=code, message=""))
    error = session.over if is_joined else session.refused
    assert str(error).endswith("with a code that is none")
    later = ClientSession(ALLOCATE)
    later.handle_frame(wire.Error(code="too-late", message=""))
    assert str(later.refused).endswith("too-late")


def test_messages_of_a_peer_that_has_not_come_are_left_out() -> None:
    """Who waits for a peer reads none, and a client with a full inbox stays away from its relay: for good, and mute."""
    session = ClientSession(ALLOCATE)
    session.handle_frame(JOINED)
    for seq in range(1, 2_000):
        assert session.handle_frame(wire.Message(epoch=1, seq=seq, payload=b"x")) == ([], Action.NONE)
    assert session.has_room
    assert not session.inbox
    session.handle_frame(wire.Peer(state="present", opening=b"B"))
    session.handle_frame(wire.Message(epoch=1, seq=2_000, payload=b"y"))
    assert list(session.inbox) == [b"y"]


Talk = Callable[[icesignal.Client], Awaitable[object]]


async def talk_to(answers: list[bytes], talk: Talk) -> None:
    """Talk to a relay that says this once it has heard something, and nothing more."""
    async with trio.open_nursery() as nursery:

        async def open_stream(_host: str, _port: int) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(play_relay, answers, theirs)
            return ours

        async with icesignal.open_client("ws://relay.example", open_stream=open_stream) as client:
            await talk(client)
        nursery.cancel_scope.cancel()


async def test_an_inviter_that_is_never_there_is_not_waited_for_without_end(autojump_clock: object) -> None:
    """Who joins a room finds its inviter, present or away; a relay that says otherwise may never say it."""

    async def join(client: icesignal.Client) -> None:
        with pytest.raises(icesignal.PeerLeft):
            async with icesignal.open_join(client, Code("7", ("guitar", "ozone"))):
                pass

    with trio.fail_after(60):
        await talk_to([wire.encode(placed(role="joiner", peer="absent"))], join)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"\xc1", icesignal.RelayUnreachable, "does not answer as a relay: not msgpack"),
        (wire.encode(placed(room="x" * 257)), icesignal.RelayUnreachable, "does not answer as a relay: joined: "),
        (wire.encode(JOINED).replace(b"\xa1v\x01", b"\xa1v\x02"), icesignal.ProtocolMismatch, "protocol version 2"),
    ],
    ids=["no frame", "no place", "version"],
)
async def test_an_answer_that_is_none_is_told_at_once_as_what_it_is(
    answer: bytes, kind: type[Exception], words: str, autojump_clock: object
) -> None:
    """It was asked again and again for ten seconds, and then said not to have answered."""

    async def allocate(client: icesignal.Client) -> None:
        with pytest.raises(kind, match=words):
            await client.allocate()

    with trio.fail_after(2):
        await talk_to([answer], allocate)


async def test_a_peer_that_says_nothing_after_its_proof_is_not_waited_for_without_end(
    vnet: Any, autojump_clock: object
) -> None:
    """Its program stands still, or the relay swallows every sealed message: its connection is there all the time."""
    net = vnet()
    host = net.host(net.internet)
    config = AgentConfig(network=host, randbytes=host.randbytes)
    async with net, open_memory_relay() as relay, relay.channels() as (inviter, _joiner):
        with trio.fail_after(SPEECH_S + 1), pytest.raises(PeerLeft, match="has not signalled"):
            async with establish(Session, inviter, generate_identity(), config):
                pass
