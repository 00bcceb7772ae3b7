"""Traps 58 to 61: whom an agent can be made to send to, by checks replayed from forged sources and by addresses told.

A check is authenticated, but nothing in it says from where or when it was sent: whoever has seen one can send it again,
with any source address he likes.
"""

from __future__ import annotations

import pytest
from ice_harness import (
    A4,
    B4,
    PEER,
    World,
    agent,
    answer,
    connected_pair,
    events_of,
    lone,
    request,
    requests_in,
    responses_in,
    run_timers,
    sent_by_timers,
    transmits_of,
)

from iceagent.core import ice
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.constants import MAX_REMOTE_CANDIDATES
from iceagent.core.ice import AgentState, DropReason, PairState, Received, Role
from iceagent.core.ice.checks.scheduler import start_check
from iceagent.core.ice.model.pair import CheckKind
from iceagent.core.transmit import Transmit

VICTIM = make_address("203.0.113.66", 6666)
CHECK_SENDS = 7  # RFC 8489 section 6.2.1: Rc


def lite_in_use() -> ice.IceAgent:
    """A lite agent whose peer has nominated B4, and has answered there."""
    one = lone(Role.CONTROLLED, lite=True)
    one.handle_datagram(0.1, A4, B4, request(one, peer=PEER, nominate=True))
    (check,) = requests_in(transmits_of(one))
    one.handle_datagram(0.2, A4, B4, answer(check, PEER))
    assert one.data_pair() == (A4, B4)
    return one


# 58: a lite agent.


def test_trap_58_a_lite_agent_sends_nothing_to_an_address_that_has_not_answered() -> None:
    """A nominating check of the peer, seen by somebody and sent again in the name of a third party."""
    one = lite_in_use()
    replayed = request(one, peer=PEER, nominate=True)
    for step in range(20):
        assert one.handle_datagram(1 + step / 10, A4, VICTIM, replayed) is Received.CONSUMED
        assert one.data_pair() == (A4, B4)
        assert not one.is_validated(A4, VICTIM)
    assert {pair.remote.address for pair in one.pairs if pair.valid} == {B4}
    assert one.handle_datagram(3.5, A4, VICTIM, b"from there") is not Received.APPLICATION_DATA


def test_trap_58_nor_to_the_first_address_that_is_nominated() -> None:
    """Before there is any path the rule is the same."""
    one = lone(Role.CONTROLLED, lite=True)
    one.handle_datagram(0.1, A4, VICTIM, request(one, peer=PEER, nominate=True))
    assert one.data_pair() is None
    assert one.selected_pair is None
    assert one.state is AgentState.CHECKING
    (check,) = requests_in(transmits_of(one))
    assert check.remote == VICTIM
    forged = answer(check, ice.Credentials("peer", "x" * 24))
    one.handle_datagram(0.2, A4, VICTIM, forged)
    assert one.data_pair() is None, "whoever is there does not know the peer's password"


def test_trap_58_a_lite_agent_follows_its_peer_once_it_has_answered_there() -> None:
    """The peer moves, and proves it by its answer: one round trip more than without the proof."""
    one = lite_in_use()
    moved = make_address("198.51.100.77", 7777)
    one.handle_datagram(5.0, A4, moved, request(one, peer=PEER, nominate=True))
    (check,) = requests_in(transmits_of(one))
    assert (check.local, check.remote) == (A4, moved)
    one.handle_datagram(5.1, A4, moved, answer(check, PEER))
    assert one.data_pair() == (A4, moved)
    assert one.state is AgentState.COMPLETED


@pytest.mark.parametrize("lite", [False, True])
def test_trap_58_replayed_checks_do_not_keep_consent(lite: bool) -> None:
    """The peer is gone, and its address may have come to somebody else: recorded checks must not keep data flowing."""
    one = lite_in_use() if lite else lone()
    if not lite:
        (check,) = transmits_of(one)
        one.handle_datagram(0.2, A4, B4, answer(check, PEER))
    replayed = request(one, peer=PEER, nominate=True)
    now = 0.2
    while one.state is not AgentState.FAILED and now < 60:
        now += 0.5
        one.handle_datagram(now, A4, B4, replayed)
        one.handle_timeout(now)
        transmits_of(one)
    assert 29.9 < now < 31
    assert one.data_pair() is None


def test_trap_58_a_full_agent_sends_no_data_where_it_was_not_answered() -> None:
    """Also when the peer, or who replays its check, nominates."""
    one = lone(Role.CONTROLLED)
    (check,) = transmits_of(one)
    one.handle_datagram(0.1, A4, B4, answer(check, PEER))
    one.handle_datagram(0.2, A4, VICTIM, request(one, peer=PEER, nominate=True))
    assert one.data_pair() == (A4, B4)
    run_timers(one, 0.2, 5.0)
    assert one.data_pair() == (A4, B4)


# 59: answers from elsewhere.


@pytest.mark.parametrize("code", [None, 400, 403, 487])
@pytest.mark.parametrize("where", ["another port", "another host", "another socket"])
def test_trap_59_an_answer_from_elsewhere_is_dropped(code: int | None, where: str) -> None:
    """Who sees the true answer could send a copy ahead from another address, and fail the pair, or turn our role."""
    one = lone()
    (check,) = transmits_of(one)
    local, remote = {
        "another port": (A4, make_address(B4.host, B4.port + 1)),
        "another host": (A4, VICTIM),
        "another socket": (make_address(A4.host, A4.port + 1), B4),
    }[where]
    true = answer(check, PEER, code=code)
    assert one.handle_datagram(0.1, local, remote, true) is Received.DROPPED
    assert one.counters[DropReason.RESPONSE_WRONG_PATH] == 1
    assert one.pairs[0].state is PairState.IN_PROGRESS
    assert one.role is Role.CONTROLLING
    assert one.data_pair() is None
    one.handle_datagram(0.2, A4, B4, answer(check, PEER))
    assert one.data_pair() == (A4, B4), "the true answer still counts"


def test_a_check_that_was_answered_from_elsewhere_is_sent_no_more() -> None:
    """It has arrived. Two NATs that map per destination and filter nothing would else keep both sides busy for ever."""
    one = lone()
    (check,) = transmits_of(one)
    one.handle_datagram(0.1, A4, VICTIM, answer(check, PEER))
    for tenth in range(2, 79):
        one.handle_timeout(tenth / 10)
        assert not sent_to(B4, transmits_of(one))
    assert one.pairs[0].state is PairState.IN_PROGRESS, "the true answer may be under way"
    one.handle_timeout(8.2)
    assert one.pairs[0].state is PairState.FAILED


def test_a_check_that_was_answered_from_elsewhere_holds_no_other_pair_back() -> None:
    """Its foundation is free for the next pair: where many share one, each would wait for eight seconds else."""
    one = lone()
    later = make_address(B4.host, B4.port + 1)
    one.add_remote_candidate(0.0, ice.host_candidate(later, 1))
    (check,) = transmits_of(one)
    one.handle_datagram(0.1, A4, VICTIM, answer(check, PEER))
    one.handle_timeout(0.15)
    assert sent_to(later, transmits_of(one))


def test_a_host_that_forged_checks_came_from_is_not_locked_out_for_long() -> None:
    """Sixteen ports that led nowhere: as soon as none of their checks can be answered any more, others are learnt."""
    one = _in_state("completed")
    for number in range(16):
        source = make_address(VICTIM.host, 5000 + number)
        one.handle_datagram(1.0 + number, A4, source, request(one, peer=PEER))
        _live_on(one, 1.0 + number, 2.0 + number)
    moved = make_address(VICTIM.host, 7777)
    one.handle_datagram(20.0, A4, moved, request(one, peer=PEER))
    assert moved not in {candidate.address for candidate in one.remote_candidates}
    _live_on(one, 20.0, 100.0)
    one.handle_datagram(100.0, A4, moved, request(one, peer=PEER))
    assert sent_to(moved, _live_on(one, 100.0, 101.0))
    assert sum(candidate.address.host == VICTIM.host for candidate in one.remote_candidates) == 16


def test_checks_from_ever_new_addresses_put_failure_off_but_once() -> None:
    """Replayed, or from behind a NAT that maps per destination: what they reveal has the time of one check."""
    one, now = lone(Role.CONTROLLED), 0.0
    while one.state is not AgentState.FAILED and now < 200.0:
        now += 1.0
        source = make_address(f"203.0.113.{int(now)}", 5000)
        one.handle_datagram(now, A4, source, request(one, peer=PEER))
        run_timers(one, now, now + 1.0)
    assert 39.5 < now <= 80.0


@pytest.mark.parametrize("behind", ["controlling", "controlled"])
def test_a_nat_that_gives_another_port_again_and_again_ends_no_session(behind: str) -> None:
    """Each makes a pair that is valid, and then dead: they fill neither the list nor what a host may have."""
    world = World(1)
    roamer, other = world.pair(max_pairs=30)[:: 1 if behind == "controlling" else -1]
    inside, port = make_address("10.0.0.2", 1000), 40000
    world.link.translate = lambda source, _: make_address("203.0.113.1", port) if source == inside else source
    world.link.blocked = lambda _, destination: destination.host == "203.0.113.1" and destination.port != port
    world.host(roamer, inside)
    world.host(other, B4)
    world.introduce(roamer, other)
    for port in range(40000, 40036):  # the NAT reads it, see above
        world.run(40)
        assert [one.state for one in world.agents] == [AgentState.COMPLETED] * 2, f"port {port}"
    assert len(other.pairs) <= 20


def test_a_dead_pair_that_gives_way_while_it_is_being_nominated_leaves_the_nominator_free() -> None:
    """Else nothing would ever be nominated again."""
    one = lone(Role.CONTROLLING)
    (check,) = requests_in(transmits_of(one))
    one.handle_datagram(0.1, A4, B4, answer(check, PEER))
    for number in range(16):
        source = make_address(VICTIM.host, 5000 + number)
        now = 1.0 + number / 10
        one.handle_datagram(now, A4, source, request(one, peer=PEER))
        for again in requests_in(sent_by_timers(one, now, now + 0.06) + transmits_of(one)):
            one.handle_datagram(now + 0.06, A4, again.remote, answer(again, PEER))
    transmits_of(one)
    inside, nominator = one._sessions.current.facts, one._sessions.current._nominator
    now = 2.6 + inside.config.consent_expiry_s + 0.5
    _live_on(one, 2.6, now)
    dead = [pair for pair in inside.checklist if pair.is_valid and not inside.has_fresh_consent(now, pair)]
    victim = min(dead, key=lambda pair: pair.last_response_at)
    nominator._nominating = start_check(inside, now, victim, CheckKind.NOMINATION)
    one.handle_datagram(now, A4, make_address(VICTIM.host, 7777), request(one, peer=PEER))
    assert victim not in list(inside.checklist)
    assert nominator._nominating is None or nominator._nominating.pair is not victim


def test_trap_59_an_answer_from_elsewhere_that_is_not_the_peers_changes_nothing() -> None:
    """Anybody who sees a check knows its transaction id, and would so keep it from being sent again."""
    one = lone()
    (check,) = transmits_of(one)
    one.handle_datagram(0.1, A4, VICTIM, answer(check, ice.Credentials("peer", "x" * 24)))
    one.handle_timeout(0.6)
    assert sent_to(B4, transmits_of(one))


def test_trap_59_consent_is_neither_renewed_nor_revoked_from_elsewhere() -> None:
    """The same for the path in use."""
    world, a, b = connected_pair()
    for code in (None, 403):
        seen = len(world.sent)
        checks: list[Transmit] = []
        limit = world.now + 10
        while not checks:
            assert world.step(limit), "no consent check within 10 s"
            checks = [t for _, one, t in world.sent[seen:] if one is a and requests_in([t])]
        check = checks[0]
        copy = answer(check, b.credentials, code=code)
        assert a.handle_datagram(world.now, A4, VICTIM, copy) is Received.DROPPED
        assert a.state is AgentState.COMPLETED


# 60: how much one check draws.


def sent_to(victim: TransportAddress, sent: list[Transmit]) -> list[Transmit]:
    return [transmit for transmit in requests_in(sent) if transmit.remote == victim]


@pytest.mark.parametrize("nominate", [False, True])
@pytest.mark.parametrize("kind", ["checking", "completed", "restarted", "lite", "relayed"])
def test_trap_60_one_replayed_check_draws_at_most_seven_requests(kind: str, nominate: bool) -> None:
    """A hundred bytes with a forged source; what they draw goes to somebody who has never heard of us."""
    one = _in_state(kind)
    transmits_of(one)
    one.handle_datagram(1.0, A4, VICTIM, request(one, peer=PEER, nominate=nominate))
    first = transmits_of(one)
    assert len(responses_in(first)) == 1
    drawn = sent_to(VICTIM, first + _live_on(one, 1.0, 1500.0))
    assert len(drawn) <= CHECK_SENDS
    assert drawn or (kind == "lite" and not nominate), "it is checked all the same"


@pytest.mark.parametrize("kind", ["checking", "completed", "lite"])
@pytest.mark.parametrize("told", [False, True], ids=["checks", "candidates"])
def test_addresses_of_replayed_checks_keep_out_none_that_the_peer_comes_to_have(kind: str, *, told: bool) -> None:
    """Nine hosts with 16 forged ports each fill the table; a restart would be needed to learn of the peer's move."""
    one = _in_state(kind)
    now, moved = 1.0, make_address("198.51.100.77", 7777)
    for number in range(9 * 16):
        now += 0.1
        source = make_address(f"198.51.100.{200 + number // 16}", 5000 + number % 16)
        one.handle_datagram(now, A4, source, request(one, peer=PEER))
        _live_on(one, now, now + 0.1)
    assert len(one.remote_candidates) == MAX_REMOTE_CANDIDATES
    if told:
        assert one.add_remote_candidate(now, ice.srflx_candidate(moved, B4, "203.0.113.1"))
    else:
        one.handle_datagram(now, A4, moved, request(one, peer=PEER, nominate=kind == "lite"))
    assert moved in {candidate.address for candidate in one.remote_candidates}
    assert B4 in {candidate.address for candidate in one.remote_candidates}, "what the peer has told is kept"
    assert len(one.remote_candidates) == MAX_REMOTE_CANDIDATES
    assert told or sent_to(moved, _live_on(one, now, now + 1))


def _in_state(kind: str) -> ice.IceAgent:
    if kind == "lite":
        return lite_in_use()
    one = lone(Role.CONTROLLED)
    if kind == "relayed":  # where failed direct pairs are searched for as long as the session lasts
        one = agent(Role.CONTROLLED)
        one.add_local_candidate(0.0, ice.host_candidate(A4))
        one.set_remote_credentials(0.0, PEER, options=("renomination",))
        one.add_remote_candidate(0.0, ice.relay_candidate(B4, "198.51.100.100"))
    if kind in ("completed", "restarted", "relayed"):
        (check,) = transmits_of(one)
        one.handle_datagram(0.1, A4, B4, request(one, peer=PEER, nominate=True))
        one.handle_datagram(0.2, A4, B4, answer(check, PEER))
        for again in requests_in(transmits_of(one)):
            one.handle_datagram(0.3, A4, B4, answer(again, PEER))
        assert one.state is AgentState.COMPLETED
    if kind == "restarted":
        one.restart(0.5)
        one.add_local_candidate(0.5, ice.host_candidate(A4))
        one.set_remote_credentials(0.5, PEER2)
    return one


PEER2 = ice.Credentials("peer", "r" * 24)


def _live_on(one: ice.IceAgent, now: float, until: float) -> list[Transmit]:
    """Let time pass while the peer at B4 answers whatever it is asked; return what was sent."""
    sent: list[Transmit] = []
    while (at := one.next_timeout()) is not None and at <= until:
        now = max(now, at)
        one.handle_timeout(now)
        fresh = transmits_of(one)
        sent += fresh
        for check in requests_in(fresh):
            if check.remote == B4:
                key = PEER2 if one.remote_credentials == PEER2 else PEER
                one.handle_datagram(now + 0.001, A4, B4, answer(check, key))
                sent += transmits_of(one)
    return sent


def test_trap_60_a_check_draws_no_more_when_the_path_in_use_dies_later() -> None:
    """Pairs that were left unchecked when one was selected are checked then; for this one the first check had to do."""
    one = lone(Role.CONTROLLED)
    (check,) = transmits_of(one)
    one.handle_datagram(0.1, A4, VICTIM, request(one, peer=PEER))
    sent = transmits_of(one) + sent_by_timers(one, 0.1, 2.0)
    one.handle_datagram(2.0, A4, B4, answer(check, PEER))
    one.handle_datagram(2.0, A4, B4, request(one, peer=PEER, nominate=True))
    assert one.state is AgentState.COMPLETED
    sent += transmits_of(one) + sent_by_timers(one, 2.0, 100.0)
    assert one.state is AgentState.FAILED
    assert 1 < len(sent_to(VICTIM, sent)) <= CHECK_SENDS


def test_trap_60_many_replays_draw_seven_requests_each_and_no_more() -> None:
    """Twice as many bytes as came in eight times over; never a multiple that grows."""
    one = lone(Role.CONTROLLED)
    transmits_of(one)
    sent: list[Transmit] = []
    for step in range(30):
        one.handle_datagram(1.0 + step, A4, VICTIM, request(one, peer=PEER))
        sent += transmits_of(one) + sent_by_timers(one, 1.0 + step, 1.9 + step)
    sent += sent_by_timers(one, 32.0, 200.0)
    assert len(sent_to(VICTIM, sent)) <= 30 * CHECK_SENDS


def test_trap_60_a_check_from_an_address_that_is_told_draws_no_more_either() -> None:
    """Whoever is there has been named by the peer; a replay must still not be worth more than a check."""
    one = lone(Role.CONTROLLED)
    transmits_of(one)
    one.handle_datagram(1.0, A4, B4, request(one, peer=PEER))
    assert len(sent_to(B4, transmits_of(one) + sent_by_timers(one, 1.0, 500.0))) <= CHECK_SENDS


def test_trap_60_a_check_of_a_backup_that_is_gone_draws_no_more_either() -> None:
    """It has answered once, and may belong to somebody else by now."""
    one = lone(Role.CONTROLLED)
    backup = make_address("198.51.100.2", 2002)
    one.add_remote_candidate(0.0, ice.host_candidate(backup, 100))
    for check in requests_in(transmits_of(one) + sent_by_timers(one, 0.0, 0.1)):
        one.handle_datagram(0.2, A4, check.remote, answer(check, PEER))
    one.handle_datagram(0.3, A4, B4, request(one, peer=PEER, nominate=True))
    assert one.data_pair() == (A4, B4)
    _live_on(one, 0.3, 60.0)
    without = sent_to(backup, _live_on(one, 60.0, 100.0))
    one.handle_datagram(100.0, A4, backup, request(one, peer=PEER, nominate=True))
    with_it = sent_to(backup, transmits_of(one) + _live_on(one, 100.0, 140.0))
    assert len(with_it) <= len(without) + CHECK_SENDS


# 61: addresses that are no candidates.

NO_CANDIDATES = (
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.251",
    "239.255.255.250",
    "240.0.0.1",
    "254.1.2.3",
    "255.255.255.255",
    "::",
    "::192.0.2.5",
    "fec0::5",
    "ff02::1",
    "ff0e::1234",
)


def base_for(host: str) -> TransportAddress:
    return make_address("2001:db8::1", 1000) if ":" in host else A4


@pytest.mark.parametrize("host", NO_CANDIDATES)
def test_trap_61_an_address_that_no_host_has_is_no_candidate(host: str) -> None:
    """Told, ours, as a server or a peer says it sees us, or as the source of a check: nothing is ever sent there."""
    base, bad = base_for(host), make_address(host, 4000)
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.host_candidate(base))
    one.set_remote_credentials(0.0, PEER)
    assert not one.add_remote_candidate(0.0, ice.host_candidate(bad))
    assert not one.add_local_candidate(0.0, ice.host_candidate(bad))
    assert not one.add_local_candidate(0.0, ice.srflx_candidate(bad, base, "198.51.100.100"))
    assert one.handle_datagram(0.1, base, bad, request(one, peer=PEER, nominate=True)) is Received.DROPPED
    assert one.counters[DropReason.CANDIDATE_UNUSABLE] == 4
    run_timers(one, 0.1, 30.0)
    assert transmits_of(one) == []
    assert one.pairs == one.remote_candidates == ()
    assert [candidate.address for candidate in one.local_candidates] == [base]


@pytest.mark.parametrize("host", NO_CANDIDATES)
def test_trap_61_nor_is_it_one_when_an_answer_tells_it(host: str) -> None:
    """The peer is authenticated, and may say what it likes; its answer counts, the address does not."""
    base, remote = base_for(host), B4 if ":" not in host else make_address("2001:db8::2", 2000)
    one = agent(Role.CONTROLLING)
    one.add_local_candidate(0.0, ice.host_candidate(base))
    one.set_remote_credentials(0.0, PEER)
    one.add_remote_candidate(0.0, ice.host_candidate(remote))
    (check,) = transmits_of(one)
    one.handle_datagram(0.1, base, remote, answer(check, PEER, mapped=TransportAddress(host, 4000)))
    assert one.data_pair() == (base, remote)
    assert [candidate.address for candidate in one.local_candidates] == [base]
    assert not [
        e for e in events_of(one) if isinstance(e, ice.LocalCandidateAdded) and e.candidate.address.host == host
    ]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("192.0.2.1", "169.254.169.254"),
        ("10.0.0.1", "169.254.0.7"),
        ("169.254.0.7", "192.0.2.1"),
        ("2001:db8::1", "fe80::7"),
        ("fe80::7%eth0", "2001:db8::1"),
        ("192.0.2.1", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.1"),
        ("2001:db8::1", "::1"),
        ("fe80::7%eth0", "::1"),
        ("192.0.2.1", "2001:db8::1"),
    ],
)
def test_trap_61_addresses_of_different_scope_are_no_pair(ours: str, theirs: str) -> None:
    """A cloud tells its secrets at 169.254.169.254, and our own services listen on loopback."""
    base, remote = TransportAddress(ours, 1000), TransportAddress(theirs, 2000)
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.host_candidate(base))
    one.set_remote_credentials(0.0, PEER)
    one.add_remote_candidate(0.0, ice.host_candidate(remote))
    assert one.pairs == ()
    assert one.handle_datagram(0.1, base, remote, request(one, peer=PEER, nominate=True)) is Received.DROPPED
    run_timers(one, 0.1, 30.0)
    assert transmits_of(one) == []


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("169.254.0.7", "169.254.0.8"),
        ("fe80::7%eth0", "fe80::8"),
        ("127.0.0.1", "127.0.0.2"),
        ("::1", "::1"),
        ("192.0.2.1", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1"),
        ("fd00::1", "2001:db8::1"),
    ],
)
def test_addresses_of_one_scope_are_a_pair(ours: str, theirs: str) -> None:
    """What may work is tried: two machines on a cable without a router have nothing but link-local addresses."""
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.host_candidate(TransportAddress(ours, 1000)))
    one.set_remote_credentials(0.0, PEER)
    one.add_remote_candidate(0.0, ice.host_candidate(TransportAddress(theirs, 2000)))
    assert len(one.pairs) == 1
    assert len(requests_in(transmits_of(one))) == 1


def test_a_relayed_address_is_not_paired_with_a_link_local_one() -> None:
    """The relay's own link-local networks are no business of a peer's."""
    one = agent(Role.CONTROLLED)
    one.add_local_candidate(0.0, ice.relay_candidate(make_address("203.0.113.1", 5), "203.0.113.1"))
    one.set_remote_credentials(0.0, PEER)
    one.add_remote_candidate(0.0, ice.host_candidate(make_address("169.254.169.254", 80)))
    assert one.pairs == ()
