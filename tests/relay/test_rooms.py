"""The rooms, sans-IO: whatever is thrown at them, the order holds, nothing raises and every table is bounded."""

from __future__ import annotations

import functools
from collections.abc import Callable

from amount import examples
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from icesignal import tickets, wire
from icesignal.nameplates import Nameplates
from icesignal.rooms import ConnectionAction, RoomLimits, RoomTable
from icesignal.tickets import Ticket

SMALL = RoomLimits(
    max_rooms=6,
    log_s=10,
    log_messages=4,
    log_bytes=64,
    total_log_bytes=160,
    entry_bytes=3,
    resume_s=10,
    unjoined_s=50,
    members=3,
    barred=2,
)


def drain(table: RoomTable) -> list[ConnectionAction]:
    outputs = []
    while (output := table.poll_output()) is not None:
        outputs.append(output)
    return outputs


OWNER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
CHALLENGE = b"c" * 32


def member_id(number: int) -> bytes:
    return bytes([number]) * 16


@functools.cache
def entry(session: bytes, number: int, may_all: bool, expires: int) -> wire.Enter:
    """A good entry to the one room of many, of a member that may do all or nothing."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    ticket = Ticket(
        room=OWNER.public_key().public_bytes_raw(),
        id=member_id(number),
        key=key.public_key().public_bytes_raw(),
        role="member",
        can=["remove", "end"] if may_all else [],
        expires=expires,
    )
    data = tickets.issue(OWNER, ticket)
    return wire.Enter(session=session, ticket=data, proof=tickets.prove(key, CHALLENGE, session, data))


sessions = st.integers(0, 4).map(lambda n: bytes([n]) * 16)
frames = st.one_of(
    st.builds(wire.Allocate, session=sessions, opening=st.binary(max_size=4)),
    st.builds(wire.Join, session=sessions, nameplate=st.integers(1, 9).map(str), opening=st.binary(max_size=4)),
    st.builds(
        wire.Meet,
        session=sessions,
        name=st.integers(0, 1).map(lambda n: bytes([n]) * 32),
        role=st.sampled_from(["inviter", "joiner"]),
    ),
    st.builds(entry, sessions, st.integers(0, 4), st.booleans(), st.sampled_from([5, 60, 10_000])),
    st.builds(
        wire.Send,
        client_seq=st.integers(1, 6),
        payload=st.binary(min_size=1, max_size=40),
        to=st.none() | st.lists(st.integers(0, 4).map(member_id), min_size=1, max_size=3),
    ),
    st.builds(wire.Remove, member=st.integers(0, 4).map(member_id)),
    st.builds(wire.Close, reason=st.sampled_from(["left", "done", "code-wrong"])),
)
steps = st.lists(
    st.tuples(st.integers(1, 6), st.one_of(frames, st.just("resume"), st.just("drop")), st.floats(0, 6)), max_size=60
)


@given(steps)
@examples(300, 100, deadline=None)
def test_any_history_keeps_the_contract(history: list[tuple[int, object, float]]) -> None:
    """Frames, lost connections and resumes in any order: bounds hold and a connection hears a growing seq only."""
    count = 0

    def randbytes(size: int) -> bytes:
        nonlocal count
        count += 1
        return count.to_bytes(size, "big")

    now = 0.0
    table = RoomTable(randbytes=randbytes, limits=SMALL, wall_clock=lambda: now)
    positions: dict[tuple[int, str], tuple[int, int]] = {}
    tokens: dict[int, tuple[bytes, bytes]] = {}
    entered: dict[int, bytes] = {}
    for connection, step, pause in history:
        now += pause
        table.handle_timeout(now)
        due = table.next_timeout()
        assert due is None or due > now
        if step == "drop":
            table.handle_disconnect(now, connection)
        elif step == "resume":
            if connection in tokens:
                session, token = tokens[connection]
                table.handle_frame(now, connection, wire.Resume(session=session, token=token, epoch=1, seq=0))
        else:
            assert isinstance(step, wire.Frame)
            if isinstance(step, wire.Allocate | wire.Join | wire.Meet | wire.Enter):
                entered.setdefault(connection, step.session)
            table.handle_frame(now, connection, step, challenge=CHALLENGE)
        for output in drain(table):
            frame = output.frame
            if isinstance(frame, wire.Joined | wire.Entered):
                positions = {key: at for key, at in positions.items() if key[0] != output.connection}
                tokens[output.connection] = (entered.get(output.connection, b"\0" * 16), frame.token)
            if isinstance(frame, wire.Message):
                key = (output.connection, "")
                assert (frame.epoch, frame.seq) > positions.get(key, (0, 0))
                positions[key] = (frame.epoch, frame.seq)
        assert table.room_count <= SMALL.max_rooms
        assert table.session_count <= 2 * SMALL.max_rooms + SMALL.members
        assert 0 <= table.log_bytes <= SMALL.total_log_bytes
    now += 1_000
    table.handle_timeout(now)
    drain(table)
    assert table.log_bytes == 0, "an old log is forgotten by itself"


def test_same_inputs_give_same_outputs(make_seeded: Callable[[int], Callable[[int], bytes]]) -> None:
    """No hidden clock, no hidden randomness."""

    def run() -> list[ConnectionAction]:
        table = RoomTable(randbytes=make_seeded(7))
        table.handle_frame(0, 1, wire.Allocate(session=b"a" * 16, opening=b"A"))
        table.handle_frame(1, 2, wire.Allocate(session=b"b" * 16, opening=b"B"))
        table.handle_disconnect(2, 1)
        return drain(table)

    assert run() == run()


def test_nothing_is_due_in_an_empty_table(make_seeded: Callable[[int], Callable[[int], bytes]]) -> None:
    """The shell sleeps while nothing is there."""
    assert RoomTable(randbytes=make_seeded(1)).next_timeout() is None


def test_nameplates_are_short_while_few_are_taken(make_seeded: Callable[[int], Callable[[int], bytes]]) -> None:
    """People read these out: no longer than it takes for 4,500 numbers to each code that waits for somebody."""
    plates = Nameplates(make_seeded(1), rest_s=600, max_resting=1_000)
    numbers = [plates.take() for _ in range(100)]
    assert len(set(numbers)) == 100
    assert [len(number) for number in numbers] == [4] * 2 + [5] * 18 + [6] * 80
    for number in numbers[1:]:
        plates.claim(number)
    assert len(plates.take()) == 4, "what is claimed cannot be guessed any more"


def test_nameplates_are_never_more_than_half_of_a_range(make_seeded: Callable[[int], Callable[[int], bytes]]) -> None:
    """A number that is free must be found soon, also where thousands are in use or rest."""
    plates = Nameplates(make_seeded(1), rest_s=600, max_resting=100_000)
    numbers = []
    for _ in range(6_000):
        numbers.append(plates.take())
        plates.claim(numbers[-1])
    assert [len(number) for number in numbers] == [4] * 4_500 + [5] * 1_500


def test_a_nameplate_rests_before_it_comes_again(make_seeded: Callable[[int], Callable[[int], bytes]]) -> None:
    """Somebody may still hold a note with the old code."""
    plates = Nameplates(make_seeded(1), rest_s=600, max_resting=1_000)
    number = plates.take()
    plates.rest(0.0, number)
    assert plates.is_resting(number)
    assert number not in {plates.take() for _ in range(50)}
    plates.forget(599.9)
    assert plates.is_resting(number)
    plates.forget(600.0)
    assert not plates.is_resting(number)
    assert plates.next_timeout() is None


def test_resting_nameplates_are_bounded(make_seeded: Callable[[int], Callable[[int], bytes]]) -> None:
    """Rooms made and left in a hurry must not fill the memory."""
    plates = Nameplates(make_seeded(1), rest_s=600, max_resting=10)
    numbers = [plates.take() for _ in range(30)]
    for number in numbers:
        plates.rest(0.0, number)
    assert [plates.is_resting(number) for number in numbers] == [False] * 20 + [True] * 10
