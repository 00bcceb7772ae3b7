"""SPAKE2, the keys behind it, and the box they lock."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icesignal.pake import Pake, PakeError, SessionKeys, derive_keys
from icesignal.secretbox import HISTORY_MESSAGES, OVERHEAD_BYTES, Opener, OpenError, Sealer


def exchange(
    words_a: str = "guitar-ozone", words_b: str = "guitar-ozone", **kwargs: str
) -> tuple[SessionKeys, SessionKeys]:
    room_b = kwargs.get("room_b", "7")
    inviter = Pake("inviter", words_a, app_id=kwargs.get("app_a", "app"))
    joiner = Pake("joiner", words_b, app_id=kwargs.get("app_b", "app"))
    return inviter.finish(joiner.message, room="7"), joiner.finish(inviter.message, room=room_b)


def test_the_same_words_give_the_same_keys_and_mutual_proof() -> None:
    """And the proofs differ by role, so that one cannot be sent back as the other."""
    inviter, joiner = exchange()
    assert inviter.prk == joiner.prk
    assert inviter.confirms(joiner.confirmation())
    assert joiner.confirms(inviter.confirmation())
    assert not inviter.confirms(inviter.confirmation())


@pytest.mark.parametrize(
    "difference",
    [{"words_b": "guitar-oxygen"}, {"app_b": "another"}, {"room_b": "8"}],
    ids=["words", "application", "room"],
)
def test_any_difference_gives_unrelated_keys(difference: dict[str, str]) -> None:
    """Words, application and room are all bound into the key."""
    inviter, joiner = exchange(**difference)
    assert inviter.prk != joiner.prk
    assert not inviter.confirms(joiner.confirmation())
    assert not joiner.confirms(inviter.confirmation())


def test_both_messages_are_bound_into_the_key() -> None:
    """A relay that swaps a message for an equivalent one must not go unnoticed."""
    one = derive_keys("inviter", b"k" * 32, opening=b"A", peer_opening=b"B", room="7", app_id="app")
    for a, b in [(b"A", b"X"), (b"X", b"B"), (b"AB", b""), (b"", b"AB")]:
        assert derive_keys("inviter", b"k" * 32, opening=a, peer_opening=b, room="7", app_id="app").prk != one.prk


def test_each_purpose_has_its_own_key() -> None:
    """A key that leaks through one use must not open another."""
    keys, _ = exchange()
    labels = ["seal inviter", "seal joiner", "confirm inviter", "rendezvous key", "application link"]
    assert len({keys.derive(label) for label in labels}) == len(labels)
    assert len(keys.derive("application link", 64)) == 64


def test_keys_are_not_in_the_repr() -> None:
    """What is printed ends in a log."""
    keys, _ = exchange()
    assert keys.prk.hex() not in repr(keys)
    assert repr(keys.prk) not in repr(keys)


@given(st.binary(max_size=40) | st.binary(min_size=33, max_size=33))
@settings(max_examples=30, deadline=None)
def test_any_bytes_as_a_message_give_pake_error_or_useless_keys(message: bytes) -> None:
    """The peer, or the relay, chooses these bytes."""
    inviter = Pake("inviter", "guitar-ozone")
    try:
        keys = inviter.finish(message, room="7")
    except PakeError:
        return
    assert not keys.confirms(b"")


@pytest.mark.parametrize("kind", ["reflected", "own side", "identity", "small order"])
def test_degenerate_messages_are_refused(kind: str) -> None:
    """An element of small order would make the key independent of the words."""
    inviter = Pake("inviter", "guitar-ozone")
    message = {
        "reflected": b"B" + inviter.message[1:],
        "own side": inviter.message,
        "identity": b"B" + (1).to_bytes(32, "little"),
        "small order": b"B" + bytes(32),
    }[kind]
    with pytest.raises(PakeError):
        inviter.finish(message, room="7")


def box() -> tuple[Sealer, Opener]:
    return Sealer(b"k" * 32, b"context"), Opener(b"k" * 32, b"context")


def test_what_is_sealed_opens_in_order() -> None:
    """The overhead is what docs/relay-protocol.md section 8 says."""
    sealer, opener = box()
    for text in (b"one", b"", b"three" * 1000):
        payload = sealer.seal(text)
        assert len(payload) == len(text) + OVERHEAD_BYTES
        assert opener.open(payload) == text


def test_a_replay_is_dropped_and_counted() -> None:
    """The relay may repeat; the application must not hear it twice."""
    sealer, opener = box()
    payload = sealer.seal(b"pay")
    assert opener.open(payload) == b"pay"
    assert opener.open(payload) is None
    assert opener.replayed == 1


def test_reordering_is_not_accepted() -> None:
    """The relay may swap; nothing opens out of its turn."""
    sealer, opener = box()
    first, second = sealer.seal(b"1"), sealer.seal(b"2")
    assert opener.open(second) is None
    assert opener.open(first) == b"1"
    assert opener.open(second) == b"2"


@given(st.integers(0, 60), st.integers(1, 255))
@settings(deadline=None)
def test_any_flipped_bit_is_refused_or_out_of_turn(at: int, flip: int) -> None:
    """Header, counter, ciphertext and tag are all authenticated."""
    sealer, opener = box()
    payload = bytearray(sealer.seal(b"x" * 40))
    payload[at] ^= flip
    try:
        assert opener.open(bytes(payload)) is None
    except OpenError:
        assert opener.refused == 1
    assert opener.expected == 0


@given(st.binary(max_size=80))
@settings(deadline=None)
def test_random_bytes_never_open(data: bytes) -> None:
    """And raise nothing but `OpenError`."""
    _, opener = box()
    with contextlib.suppress(OpenError):
        assert opener.open(data) is None


def test_directions_do_not_open_each_other() -> None:
    """The relay may send our own words back to us."""
    inviter, joiner = exchange()
    sealer = Sealer(inviter.derive("seal inviter"), inviter.transcript)
    opener = Opener(joiner.derive("seal joiner"), joiner.transcript)
    with pytest.raises(OpenError):
        opener.open(sealer.seal(b"hello"))


def test_the_history_repeats_byte_for_byte_and_is_bounded() -> None:
    """Repeating must never seal two texts under one counter."""
    sealer, _ = box()
    payloads = [sealer.seal(b"%d" % number) for number in range(HISTORY_MESSAGES + 5)]
    assert sealer.since(10) == payloads[10:]
    assert sealer.since(sealer.counter) == []
    assert sealer.since(4) is None
    assert sealer.since(sealer.counter + 1) is None
    sealer.seal(bytes(1 << 20))
    assert sealer.since(sealer.counter - 1) is None, "one payload larger than the history is not kept"
