"""Client transactions: sent on schedule, answered by the right server only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stun_strategies import DETERMINISTIC

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError

LOCAL = TransportAddress("192.0.2.1", 40000)
SERVER = TransportAddress("198.51.100.1", 3478)
MAPPED = stun.XorMappedAddress(TransportAddress("203.0.113.7", 61000))
ID = bytes(range(12))
KEY = b"key"
REQUEST = stun.binding_request(ID)


def sent(client: stun.StunClient) -> int:
    """Drain and count the datagrams."""
    count = 0
    while client.poll_transmit() is not None:
        count += 1
    return count


def answer(
    *attributes: stun.Attribute, key: bytes | None = None, integrity: stun.Integrity = stun.Integrity.SHA1
) -> stun.Message:
    """Return a success response as it would be decoded."""
    return stun.decode(stun.encode(stun.success(REQUEST, *attributes), key=key, integrity=integrity))


def refusal(code: int, key: bytes | None = None) -> stun.Message:
    """Return an error response as it would be decoded."""
    return stun.decode(stun.encode(stun.error(REQUEST, code), key=key))


def started(key: bytes | None = None, **options: object) -> stun.StunClient:
    """Return a client with one request under way since 0."""
    client = stun.StunClient()
    assert client.start(0.0, LOCAL, SERVER, REQUEST, key, **options) == ID  # type: ignore[arg-type]
    return client


def test_a_request_is_sent_at_once_and_answered() -> None:
    """The common case: one datagram each way."""
    client = started()
    transmit = client.poll_transmit()
    assert transmit is not None
    assert (transmit.local, transmit.remote, stun.decode(transmit.data)) == (LOCAL, SERVER, REQUEST)
    response = answer(MAPPED)
    assert client.handle_message(0.03, LOCAL, SERVER, response)
    assert client.poll_event() == stun.Response(ID, LOCAL, SERVER, response, 0.03)
    assert client.poll_event() is None
    assert client.next_timeout() is None


def test_an_unanswered_request_is_sent_on_schedule_and_times_out() -> None:
    """Every datagram of the schedule, then one event."""
    client, times = started(), [0.0]
    assert sent(client) == 1
    while (due := client.next_timeout()) is not None:
        client.handle_timeout(due)
        times += [due] * sent(client)
    assert tuple(times) == stun.DEFAULT_SCHEDULE.offsets
    assert client.poll_event() == stun.TimedOut(ID, LOCAL, SERVER, stun.FailureReason.NO_ANSWER)


def test_after_sleep_one_datagram_is_sent_and_not_all_that_were_missed() -> None:
    """A laptop that wakes up must not burst."""
    client = started()
    sent(client)
    client.handle_timeout(8.0)
    assert sent(client) == 1
    assert client.next_timeout() == 15.5


def test_the_round_trip_time_of_a_retransmitted_request_is_unknown() -> None:
    """Karn's algorithm: nobody knows which of the two was answered."""
    client = started()
    client.handle_timeout(0.5)
    client.handle_message(0.6, LOCAL, SERVER, answer(MAPPED))
    event = client.poll_event()
    assert isinstance(event, stun.Response)
    assert event.rtt_s is None


def test_the_round_trip_time_of_an_answer_that_waited_for_us_is_unknown() -> None:
    """The second request was due long before: a program that was stopped reads the answer when it goes on."""
    client = started()
    sent(client)
    client.handle_message(8.0, LOCAL, SERVER, answer(MAPPED))
    event = client.poll_event()
    assert isinstance(event, stun.Response)
    assert event.rtt_s is None


@pytest.mark.parametrize(
    ("local", "remote"),
    [(LOCAL, TransportAddress("198.51.100.1", 3479)), (LOCAL, LOCAL), (TransportAddress("192.0.2.1", 40001), SERVER)],
)
def test_trap_21_an_answer_from_elsewhere_is_nobodys(local: TransportAddress, remote: TransportAddress) -> None:
    """Trap 21: transaction *and* server must match."""
    client = started()
    assert not client.handle_message(0.1, local, remote, answer(MAPPED))
    assert client.poll_event() is None
    assert client.counters["wrong_source"] == 1


def test_an_answer_to_nothing_is_nobodys() -> None:
    """So that the next machine on the same socket gets it."""
    assert not stun.StunClient().handle_message(0.0, LOCAL, SERVER, answer(MAPPED))
    client = started()
    assert client.handle_message(0.1, LOCAL, SERVER, answer(MAPPED))
    assert not client.handle_message(0.2, LOCAL, SERVER, answer(MAPPED))


@pytest.mark.parametrize(
    ("message", "counter"),
    [
        (stun.decode(stun.encode(REQUEST)), "no_response"),
        (stun.Message(stun.MessageClass.SUCCESS, stun.Method.ALLOCATE, ID), "wrong_method"),
        (stun.decode(stun.encode(answer(MAPPED))[:-1] + b"\0"), "bad_fingerprint"),
    ],
)
def test_what_is_no_answer_changes_nothing(message: stun.Message, counter: str) -> None:
    """Our own request reflected, another method, a broken fingerprint."""
    client = started()
    client.handle_message(0.1, LOCAL, SERVER, message)
    assert client.counters[counter] == 1
    assert client.poll_event() is None
    assert client.next_timeout() == 0.5


@pytest.mark.parametrize(
    "response", [answer(MAPPED), answer(MAPPED, key=b"other"), refusal(401), refusal(401, b"other")]
)
def test_an_answer_that_is_not_authentic_is_as_if_never_received(response: stun.Message) -> None:
    """Trap 1: a response counts only after MESSAGE-INTEGRITY; and the failure then says what happened."""
    client = started(KEY)
    client.handle_message(0.1, LOCAL, SERVER, response)
    assert client.poll_event() is None
    client.handle_timeout(39.5)
    assert client.poll_event() == stun.TimedOut(ID, LOCAL, SERVER, stun.FailureReason.INTEGRITY_VIOLATED)


def test_an_authentic_answer_after_a_forged_one_counts() -> None:
    """A forger who is faster than the server wins nothing."""
    client = started(KEY)
    client.handle_message(0.1, LOCAL, SERVER, answer(MAPPED, key=b"other"))
    client.handle_message(0.2, LOCAL, SERVER, answer(MAPPED, key=KEY))
    assert isinstance(client.poll_event(), stun.Response)


def test_named_errors_are_believed_without_integrity() -> None:
    """RFC 8489 section 9.2.5: a 401 or 438 of the long-term mechanism cannot carry any; a 400 does not count."""
    client = started(KEY, unauthenticated_errors=frozenset((401, 438)))
    client.handle_message(0.1, LOCAL, SERVER, refusal(400))
    assert client.poll_event() is None
    client.handle_message(0.1, LOCAL, SERVER, answer(MAPPED))
    assert client.poll_event() is None
    client.handle_message(0.1, LOCAL, SERVER, refusal(438))
    assert isinstance(client.poll_event(), stun.Response)


def test_an_answer_with_another_algorithm_is_a_bid_down() -> None:
    """RFC 8489 section 9.1.4: who sent only one algorithm accepts only that; who sent both accepts either."""
    client = started(KEY, integrity=stun.Integrity.SHA256)
    client.handle_message(0.1, LOCAL, SERVER, answer(MAPPED, key=KEY))
    assert client.poll_event() is None
    client.handle_message(0.1, LOCAL, SERVER, answer(MAPPED, key=KEY, integrity=stun.Integrity.SHA256))
    assert isinstance(client.poll_event(), stun.Response)
    both = started(KEY, integrity=stun.Integrity.BOTH)
    both.handle_message(0.1, LOCAL, SERVER, answer(MAPPED, key=KEY))
    assert isinstance(both.poll_event(), stun.Response)


def test_an_answer_that_cannot_be_understood_ends_the_transaction() -> None:
    """RFC 8489 sections 6.3.3 and 6.3.4; authentic ones only, else a forger could end it."""
    client = started(KEY)
    client.handle_message(0.1, LOCAL, SERVER, answer(stun.RawAttribute(0x7FFF, b"")))
    assert client.poll_event() is None
    client.handle_message(0.1, LOCAL, SERVER, answer(stun.RawAttribute(0x7FFF, b""), key=KEY))
    assert client.poll_event() == stun.TimedOut(ID, LOCAL, SERVER, stun.FailureReason.UNKNOWN_ATTRIBUTES)
    client = started()
    client.handle_message(0.1, LOCAL, SERVER, stun.Message(stun.MessageClass.ERROR, stun.Method.BINDING, ID))
    assert client.poll_event() == stun.TimedOut(ID, LOCAL, SERVER, stun.FailureReason.NO_ERROR_CODE)


def test_a_cancelled_transaction_is_silent() -> None:
    """No datagram, no timer, no event."""
    client = started()
    sent(client)
    assert client.cancel(ID)
    assert not client.cancel(ID)
    client.handle_timeout(100.0)
    assert (sent(client), client.poll_event(), client.next_timeout()) == (0, None, None)


def test_closing_leaves_nothing() -> None:
    """Trap 27: no timer after close."""
    client = started()
    client.close()
    assert (client.poll_transmit(), client.poll_event(), client.next_timeout()) == (None, None, None)


def test_what_is_outstanding_is_bounded_unread_events_included() -> None:
    """Rule 5; and an id must be new."""
    client = stun.StunClient(max_transactions=2)
    client.start(0.0, LOCAL, SERVER, REQUEST)
    with pytest.raises(LocalError):
        client.start(0.0, LOCAL, SERVER, REQUEST)
    client.start(0.0, LOCAL, SERVER, stun.binding_request(bytes(12)))
    client.handle_message(0.1, LOCAL, SERVER, answer(MAPPED))
    with pytest.raises(LocalError):
        client.start(0.1, LOCAL, SERVER, REQUEST)
    assert client.poll_event() is not None
    client.start(0.1, LOCAL, SERVER, REQUEST)


@DETERMINISTIC
@given(
    st.lists(st.floats(0, 60), min_size=1, max_size=20),
    st.lists(st.floats(0, 1000), min_size=1, max_size=30).map(sorted),
)
def test_after_handle_timeout_the_next_timeout_is_later(starts: list[float], times: list[float]) -> None:
    """Rule 3: a shell that sleeps until `next_timeout` never spins."""
    client = stun.StunClient()
    for number, start in enumerate(starts):
        client.start(start, LOCAL, SERVER, stun.binding_request(number.to_bytes(12, "big")))
    for now in times:
        client.handle_timeout(now)
        due = client.next_timeout()
        assert due is None or due > now
