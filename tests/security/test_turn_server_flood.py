"""A flood of Allocate requests from forged sources: what it costs the server, and what it costs the victims."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from amount import amount
from turn_bench import SERVER, Bench, Client, config, error_of

from iceagent.core import stun
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.turn import TurnClient, TurnCredentials
from iceagent.core.turn.server import ClientPath, StaticUsers
from iceagent.core.turn.server.limits import FREE_REPLIES, MAX_REPLY_SOURCES, REPLY_FLOOR_BYTES

COUNT = amount(100_000, 20_000)
ALLOCATE = stun.encode(
    stun.Message(stun.MessageClass.REQUEST, stun.Method.ALLOCATE, bytes(12), (stun.RequestedTransport(17),)),
    fingerprint=False,
)


def flood(bench: Bench, remotes: list[TransportAddress], per_s: int) -> list[tuple[float, int, int]]:
    """Send one request from each; return (when, bytes in, bytes out) of each."""
    traffic = []
    for remote in remotes:
        bench.now += 1 / per_s
        answer = bench.give(ClientPath("udp", SERVER, remote), ALLOCATE)
        traffic.append((bench.now, len(ALLOCATE), len(answer or b"")))
    return traffic


def busiest_second(traffic: list[tuple[float, int, int]]) -> float:
    """Return the largest ratio of bytes out to bytes in over any second, sliding."""
    worst, start, bytes_in, bytes_out = 0.0, 0, 0, 0
    for at, size_in, size_out in traffic:
        bytes_in, bytes_out = bytes_in + size_in, bytes_out + size_out
        while traffic[start][0] <= at - 1:
            bytes_in, bytes_out = bytes_in - traffic[start][1], bytes_out - traffic[start][2]
            start += 1
        if at - traffic[0][0] >= 1:
            worst = max(worst, bytes_out / bytes_in)
    return worst


@pytest.mark.thorough
def test_flood_from_many_thousand_sources_leaves_no_state_and_amplifies_nothing() -> None:
    """Memory is flat after the tables of sources are full; over any second less goes out than came in."""
    bench = Bench()
    remotes = [make_address(f"9.{n >> 16}.{n >> 8 & 255}.{n & 255}", 1 + n % 60000) for n in range(COUNT)]
    warm, rest = remotes[: -COUNT // 10], remotes[-COUNT // 10 :]
    traffic = flood(bench, warm, 20_000)
    gc.collect()
    tracemalloc.start()
    try:
        traffic += flood(bench, rest, 20_000)
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    kept_here = len(rest) * 200
    assert grown - kept_here < 1_000_000
    assert not bench.server.allocations
    assert bench.server.flows("udp", SERVER.port) == {}
    assert bench.server.remembered_strangers <= 3 * MAX_REPLY_SOURCES
    assert bench.server.next_timeout() is None
    assert busiest_second(traffic) <= 1
    assert sum(size for _, _, size in traffic) > 0


@pytest.mark.thorough
@pytest.mark.parametrize("per_s", [100, 1000, amount(20_000, 5_000)])
def test_one_victim_gets_no_more_than_was_sent_in_its_name(per_s: int) -> None:
    """All requests claim one source: after a few answers, bytes out never pass bytes in."""
    bench = Bench()
    traffic = flood(bench, [TransportAddress("9.9.9.9", 1 + n) for n in range(3 * per_s)], per_s)
    assert busiest_second(traffic) <= 1
    assert bench.server.counters["rate_limited"] > 0


def test_slow_flood_stays_below_the_floor() -> None:
    """Fewer strangers than the floor pays for are all answered: they may be honest."""
    bench = Bench()
    remotes = [TransportAddress(f"9.9.9.{n}", 1) for n in range(1, 31)]
    traffic = flood(bench, remotes, 30)
    assert all(out for _, _, out in traffic)
    assert sum(out for _, _, out in traffic) <= REPLY_FLOOR_BYTES


@pytest.mark.thorough
def test_honest_client_gets_in_during_a_flood() -> None:
    """Its retransmissions come while the budget breathes; once proven it is never made to wait."""
    bench = Bench()
    honest = Client(bench, TransportAddress("8.8.4.4", 1))
    data = honest.encode(stun.Method.ALLOCATE, stun.RequestedTransport(17))
    answer = None
    for n in range(amount(40_000, 20_000)):
        bench.now += 1 / 20_000
        bench.give(ClientPath("udp", SERVER, make_address(f"9.0.{n >> 8 & 255}.{n & 255}", 1)), ALLOCATE)
        if n % 2000 == 0 and answer is None:
            answer = bench.give(honest.path, data)
    assert answer is not None
    nonce = stun.decode(answer).get(stun.Nonce)
    assert nonce is not None
    honest.nonce = nonce.value
    assert error_of(honest.allocate()) is None
    second = Client(bench, TransportAddress("8.8.4.4", 2))
    assert error_of(second.allocate()) is None


def test_several_sockets_of_one_host_are_answered_at_once() -> None:
    """An agent asks from each of its sockets in the same moment; none of them may lose half a second."""
    bench = Bench()
    remotes = [TransportAddress("9.9.9.9", n) for n in range(1, FREE_REPLIES + 1)]
    assert all(out for _, _, out in flood(bench, remotes, 10_000))


def test_huge_requests_buy_no_later_answers() -> None:
    """Credit of bytes in is bounded, so that a second never pays for the next."""
    bench = Bench()
    junk = stun.encode(
        stun.Message(stun.MessageClass.REQUEST, stun.Method.ALLOCATE, bytes(12), (stun.Padding(bytes(1400)),)),
        fingerprint=False,
    )
    path = ClientPath("udp", SERVER, TransportAddress("9.9.9.9", 1))
    for _ in range(200):
        bench.give(path, junk)
    answered = sum(bench.give(path, ALLOCATE) is not None for _ in range(200))
    assert answered < 100


def test_wrong_passwords_are_limited_too() -> None:
    """Who has proven its address is limited by number."""
    client = Client(Bench(), password="wrong")
    client.request(stun.Method.REFRESH)
    answers = sum(client.bench.give(client.path, client.encode(stun.Method.REFRESH)) is not None for _ in range(1000))
    assert answers <= 250


def in_a_flood(clients: list[TransportAddress], question: bytes, per_s: int = 8_000) -> list[bytes | None]:
    """Return what each of some new clients was answered within a second, with one retransmission after half of it.

    Each forged request claims another source. The flood has begun a second before, and the clients come in turn.
    """
    bench = Bench()
    answers: list[bytes | None] = []
    number = 0

    def forged(count: int) -> None:
        nonlocal number
        remotes = [make_address(f"9.{n >> 16}.{n >> 8 & 255}.{n & 255}", 1) for n in range(number, number + count)]
        flood(bench, remotes, per_s)
        number += count

    forged(per_s)
    for client in clients:
        forged(per_s // 16)
        path = ClientPath("udp", SERVER, client)
        answer = bench.give(path, question)
        if answer is None:
            forged(per_s // 2)
            answer = bench.give(path, question)
        answers.append(answer)
    return answers


def our_question() -> bytes:
    """Return the first Allocate of our own client."""
    remote = TransportAddress("8.8.4.4", 1)
    client = TurnClient(remote, SERVER, TurnCredentials("george", "secret"), randbytes=bytes)
    client.start(0.0)
    transmit = client.poll_transmit()
    assert transmit is not None
    return transmit.data


NEW = [TransportAddress(f"8.8.4.{n}", 1) for n in range(1, 1 + amount(12, 4))]


@pytest.mark.thorough
@pytest.mark.parametrize("per_s", [2_000, 8_000])
@pytest.mark.parametrize("question", ["ours", "bare"])
def test_trap_53_new_clients_get_in_during_a_flood_of_forged_sources(question: str, per_s: int) -> None:
    """All within a second: ours at once, since its bytes pay for the answer; others by asking again."""
    answers = in_a_flood(NEW, our_question() if question == "ours" else ALLOCATE, per_s)
    assert all(answers)


def test_trap_53_our_question_pays_for_its_answer() -> None:
    """Also with a long realm; and what is asked later, with credentials, needs no padding."""
    question = our_question()
    for realm in ("example.org", "a-realm-of-thirty-two-characters"):
        bench = Bench(config(realm=realm, users=StaticUsers({"george": "secret"}, realm)))
        answer = bench.give(ClientPath("udp", SERVER, NEW[0]), question)
        assert answer is not None
        assert len(answer) <= len(question)


def test_forged_sources_that_ask_twice_gain_no_bytes() -> None:
    """The reserve is part of what came in: over any second no more goes out than that and the floor."""
    bench = Bench()
    remotes = [make_address(f"9.0.{n >> 8 & 255}.{n & 255}", 1) for n in range(4_000)] * 5
    assert busiest_second(flood(bench, remotes, 8_000)) <= 1 + REPLY_FLOOR_BYTES / (8_000 * len(ALLOCATE))
