"""Hard NATs: what is told of their ports, who does what, and that no cap is ever exceeded."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from amount import examples
from hypothesis import given
from hypothesis import strategies as st

from iceagent.core.address import TransportAddress
from iceagent.core.hard_nat import (
    Announcement,
    CheckSeen,
    NatKind,
    RateCap,
    Shown,
    Sighting,
    Task,
    Technique,
    Traversal,
    aim_ahead,
    assign,
    is_target,
    kind_by_checks,
    read_habit,
)
from iceagent.core.hard_nat.traversal import AIM_AHEAD, BASE, SPRAY_SOCKETS, WINDOW, random_ports

THEIRS = TransportAddress("203.0.113.2", 4000)
SERVERS = (TransportAddress("192.0.2.1", 3478), TransportAddress("192.0.2.2", 3478))
SOCKETS = [TransportAddress("192.168.1.2", 50000 + number) for number in range(4)]


def randbytes(seed=1):
    return random.Random(seed).randbytes


def sightings(*ports, host="198.51.100.1"):
    """Return what two servers saw of the first socket, and the first server of the others."""
    asked = [(SOCKETS[0], SERVERS[0]), (SOCKETS[0], SERVERS[1]), *((sock, SERVERS[0]) for sock in SOCKETS[1:])]
    return [Sighting(*who, TransportAddress(host, port)) for who, port in zip(asked, ports, strict=False)]


# What kind it is.


@pytest.mark.parametrize(
    ("ports", "kind", "step"),
    [
        ((), NatKind.UNKNOWN, 0),
        ((7000,), NatKind.UNKNOWN, 0),
        ((7000, 7000, 7001, 7002, 7003), NatKind.EASY, 0),
        ((31000, 2000, 60000, 44000, 9000), NatKind.HARD, 0),
        ((7000, 7001, 7002, 7003, 7004), NatKind.PREDICTABLE, 1),
        ((7000, 7002, 7004, 7010, 7012), NatKind.PREDICTABLE, 2),
        ((7000, 6999, 6998, 6997, 6996), NatKind.PREDICTABLE, -1),
        ((7000, 7001, 7002, 30000, 30001), NatKind.PREDICTABLE, 1),  # a block of ports ended
        ((50000, 50001, 50001, 50002, 50003), NatKind.PREDICTABLE, 0),
        ((7000, 7001), NatKind.HARD, 0),  # two ports make no series
    ],
)
def test_a_nat_is_known_by_its_ports(ports, kind, step):
    """Everything else rests on this; 50000 and so on are the sockets' own ports."""
    if kind is NatKind.PREDICTABLE and step == 0:
        ports = (50000, 50004, 50001, 50002, 50003)
    habit = read_habit(sightings(*ports))
    assert (habit.kind, habit.step) == (kind, step)


def test_one_server_alone_tells_nothing_of_the_mapping():
    """It sees one port, whatever the NAT does elsewhere."""
    seen = [Sighting(sock, SERVERS[0], TransportAddress("198.51.100.1", 7000 + i)) for i, sock in enumerate(SOCKETS)]
    assert read_habit(seen).kind is NatKind.UNKNOWN


def test_a_pool_of_addresses_is_not_predictable():
    """The next connection may leave by another address."""
    seen = sightings(7000, 7001, 7002, 7003, 7004)
    seen[2] = seen[2]._replace(mapped=TransportAddress("198.51.100.9", 7002))
    assert read_habit(seen).kind is NatKind.HARD


@given(st.lists(st.integers(1, 65535), max_size=8), st.integers(0, 200))
def test_any_sightings_make_a_habit_and_a_port(ports, mappings):
    """Servers may say anything: it never raises, and never gives a port that cannot be."""
    seen = [
        Sighting(SOCKETS[i % 4], SERVERS[i // 4 % 2], TransportAddress("198.51.100.1", port))
        for i, port in enumerate(ports)
    ]
    assert 1024 <= read_habit(seen).port_after(mappings) <= 65535


# Who does what.


def announce(kind, port=5000, number=0):
    return Announcement(kind, TransportAddress("203.0.113.7", port), number)


EASY, HARD, PREDICTABLE, UNKNOWN = NatKind.EASY, NatKind.HARD, NatKind.PREDICTABLE, NatKind.UNKNOWN


@pytest.mark.parametrize(
    ("ours", "theirs", "technique"),
    [
        (EASY, EASY, None),
        (EASY, HARD, Technique.SPRAY),
        (HARD, EASY, Technique.MANY_SOCKETS),
        (EASY, PREDICTABLE, Technique.SPRAY),
        (PREDICTABLE, EASY, Technique.MANY_SOCKETS),
        (PREDICTABLE, PREDICTABLE, Technique.MANY_SOCKETS),
        (HARD, HARD, None),
        (HARD, PREDICTABLE, None),
        (PREDICTABLE, HARD, None),
        (UNKNOWN, HARD, Technique.SPRAY),
        (UNKNOWN, EASY, Technique.MANY_SOCKETS),
    ],
)
def test_parts_by_kind(ours, theirs, technique):
    """Two random NATs would need some hundred million packets: nothing is sent where nothing helps."""
    task = assign(announce(ours), announce(theirs))
    assert (task and task.technique) == technique


@given(st.sampled_from(NatKind), st.sampled_from(NatKind), st.integers(0, 9))
def test_the_two_parts_fit(ours, theirs, number):
    """Either both act or neither does, never two sprays; and both begin alike."""
    one = assign(announce(ours, number=number), announce(theirs, number=number))
    other = assign(announce(theirs, number=number), announce(ours, number=number))
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert {Technique.MANY_SOCKETS, Technique.BOTH} & {one.technique, other.technique}
        assert one.is_timed == other.is_timed


@pytest.mark.parametrize(
    ("shown", "technique"),
    [
        (Shown(UNKNOWN, UNKNOWN), Technique.BOTH),
        (Shown(HARD, UNKNOWN), Technique.MANY_SOCKETS),
        (Shown(UNKNOWN, HARD), Technique.SPRAY),
        (Shown(EASY, UNKNOWN), Technique.SPRAY),
        (Shown(UNKNOWN, EASY), Technique.MANY_SOCKETS),
        (Shown(EASY, HARD), Technique.SPRAY),
        (Shown(HARD, EASY), Technique.MANY_SOCKETS),
        (Shown(HARD, HARD), Technique.BOTH),
        (Shown(EASY, EASY), None),
    ],
)
def test_where_servers_do_not_tell_the_kinds_checks_do(shown, technique):
    """One STUN server is what a relay of ours hands out: role and luck decided then, and half of the layouts failed."""
    task = assign(announce(UNKNOWN), announce(UNKNOWN), shown)
    assert (task and task.technique) == technique
    if task is not None and technique is not Technique.BOTH:
        assert task.is_shown  # so that both parts are played in the end, if this was a mistake


@pytest.mark.parametrize("kind", [EASY, HARD, PREDICTABLE])
@given(shown=st.tuples(st.sampled_from((EASY, HARD, UNKNOWN)), st.sampled_from((EASY, HARD, UNKNOWN))))
def test_what_a_server_has_told_checks_do_not_overrule(kind, shown):
    """Servers were asked on purpose; checks show what they show by the way."""
    for one, other in ((kind, UNKNOWN), (UNKNOWN, kind), (kind, kind)):
        assert assign(announce(one), announce(other), Shown(*shown)) == assign(announce(one), announce(other))


# What checks show.

RELAY = "192.0.2.9"


@pytest.mark.parametrize(
    ("checks", "kind"),
    [
        ([], UNKNOWN),
        ([(RELAY, 7000)], EASY),
        ([(RELAY, 7001)], HARD),
        ([("192.0.2.1", 7001)], HARD),
        ([("192.0.2.1", 7000)], UNKNOWN),  # to the server's own host a NAT that maps per address keeps the port
        ([(RELAY, 7000), ("192.0.2.7", 7001)], UNKNOWN),  # something holds the port: nothing is known
        ([(RELAY, 7001), ("192.0.2.1", 7000)], HARD),  # as a NAT that maps per address would
    ],
)
def test_a_nat_is_known_by_checks_through_relays(checks, kind):
    """Whatever the checks show is used, and no more than they show."""
    mapped = TransportAddress("198.51.100.1", 7000)
    seen = [CheckSeen(host, mapped._replace(port=port)) for host, port in checks]
    assert kind_by_checks(mapped, {"192.0.2.1"}, seen) is kind


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("203.0.113.9", True),
        ("8.8.8.8", True),
        ("10.1.2.3", False),
        ("172.20.0.1", False),
        ("192.168.0.1", False),
        ("100.64.3.4", False),
        ("127.0.0.1", False),
        ("169.254.1.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("0.0.0.0", False),
        ("2001:db8::1", False),
        ("name.local", False),
    ],
)
def test_only_public_ipv4_is_a_target(host, allowed):
    """A peer must not make us spray our own network, whatever it signals."""
    assert is_target(TransportAddress(host, 1)) is allowed
    assert not is_target(TransportAddress(host, 0))


# What is sent when.


def run(traversal, *, lateness, until=60.0, stop_at=None, events=()):
    """Wake as asked, late by what `lateness` gives; return (time, shot) of all that was sent."""
    now, sent, pending = 0.0, [], sorted(events)
    while (due := traversal.next_timeout()) is not None and now < until:
        now = max(now, due) + lateness()
        while pending and pending[0][0] <= now:
            traversal.pause(pending.pop(0)[1])
        if stop_at is not None and now >= stop_at:
            traversal.stop()
        while (shot := traversal.poll_shot(now)) is not None:
            sent.append((now, shot))
        due = traversal.next_timeout()
        assert due is None or due > now  # rule 3
    return sent


def busiest_second(times):
    return max((sum(start <= at < start + 1 for at in times) for start in times), default=0)


def make(technique, cap, *, sockets=SPRAY_SOCKETS, packets=2048, end_at=20.0, start_at=1.0, caps=(), seed=1):
    task = Task(technique, THEIRS._replace(port=0 if technique is Technique.SPRAY else 4000), sockets)
    return Traversal(
        task,
        start_at=start_at,
        end_at=end_at,
        packets=packets,
        caps=[RateCap(cap), *caps],
        randbytes=randbytes(seed),
    )


@given(
    st.sampled_from(Technique),
    st.integers(1, 300),
    st.integers(0, 300),
    st.integers(0, 500),
    st.randoms(use_true_random=False),
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 25)), max_size=4),
)
def test_no_second_has_more_packets_than_the_cap(technique, cap, sockets, packets, chance, pauses):
    """However late the timer is, and whatever is paused; and in all no more than were granted."""
    traversal = make(technique, cap, sockets=sockets, packets=packets)
    sent = run(traversal, lateness=lambda: chance.choice((0.0, 0.0, 0.001, 0.02, 1.5)), events=pauses)
    times = [at for at, _ in sent]
    assert busiest_second(times) <= cap
    assert len(sent) == traversal.packets_sent <= packets
    assert all(1.0 <= at < 20.0 for at in times)


def test_agents_of_one_process_share_a_cap():
    """Ten sessions must not spray ten times as fast."""
    shared = RateCap(100)
    both = [make(Technique.SPRAY, 60, caps=[shared], seed=seed) for seed in (1, 2)]
    now, times = 0.0, []
    while now < 5:
        for one in both:
            while one.poll_shot(now) is not None:
                times.append(now)
        now += 0.001
    assert busiest_second(times) <= 100
    assert len(times) > 380
    assert min(one.packets_sent for one in both) > 100


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_shared_cap_is_handed_out_fairly(count):
    """Whoever is asked first each time must not leave the others nothing; nor may a place stay empty."""
    shared = RateCap(100)
    users = [shared.share() for _ in range(count)]
    times, sent, now = [], [0] * count, 0.0
    while now < 10:
        for number, user in enumerate(users):
            while user.next_at() <= now:
                user.note(now)
                sent[number] += 1
                times.append(now)
        now += 0.001
    assert busiest_second(times) <= 100
    assert sum(sent) > 950
    assert max(sent) - min(sent) <= 0.5 * sum(sent) / count


def test_what_one_user_of_a_shared_cap_leaves_the_others_get():
    """Fair does not mean slow: a user who wants little, or has gone, holds nothing back."""
    shared = RateCap(100)
    greedy, modest = shared.share(), shared.share()
    sent, now, modest_at = 0, 0.0, 0.0
    while now < 10:
        if now >= modest_at and now < 5 and modest.next_at() <= now:
            modest.note(now)
            modest_at = now + 0.2
        while greedy.next_at() <= now:
            greedy.note(now)
            sent += 1
        now += 0.001
    assert sent > 0.95 * (10 * 100 - 5 * 5) - 10


@given(st.sampled_from(Technique), st.floats(0, 15))
def test_nothing_is_sent_after_the_stop(technique, stop_at):
    """Success ends it at once, and leaves no timer (trap 27)."""
    traversal = make(technique, 200)
    sent = run(traversal, lateness=lambda: 0.0, stop_at=stop_at)
    assert all(at < stop_at for at, _ in sent)
    assert traversal.next_timeout() is None
    assert traversal.poll_shot(100.0) is None


def test_nothing_is_sent_while_paused():
    """A check that arrived most likely leads to a path: then every further packet is one too many."""
    sent = run(make(Technique.SPRAY, 200), lateness=lambda: 0.0, events=[(2.0, 4.0)])
    assert not [at for at, _ in sent if 2.0 <= at < 4.0]
    assert [at for at, _ in sent if at >= 4.0]


@given(st.integers(0, 2**32))
@examples(100, 15)
def test_a_spray_tries_no_port_twice(seed):
    """A port that did not answer would be a packet wasted."""
    shots = [shot for _, shot in run(make(Technique.SPRAY, 200, seed=seed), lateness=lambda: 0.0)]
    ports = [shot.remote.port for shot in shots]
    assert len(ports) == len(set(ports)) == 2048
    assert min(ports) >= 1024
    assert {(shot.slot, shot.remote.host, shot.is_opener) for shot in shots} == {(BASE, THEIRS.host, False)}


def test_all_ports_come_once():
    """The shuffle is one: every port has its turn."""
    assert sorted(random_ports(randbytes())) == list(range(1024, 65536))


def test_a_spray_around_a_port_begins_there():
    """The announced port is the likeliest, then its neighbours on both sides; nothing further away."""
    task = Task(Technique.SPRAY, THEIRS._replace(port=1100))
    traversal = Traversal(task, start_at=0, end_at=9, packets=999, caps=[RateCap(500)], randbytes=randbytes())
    ports = [shot.remote.port for _, shot in run(traversal, lateness=lambda: 0.0)]
    assert ports[:5] == [1100, 1101, 1099, 1102, 1098]
    assert (min(ports), max(ports)) == (1024, 1100 + WINDOW)
    assert len(ports) == len(set(ports))


def test_a_pool_opens_every_socket_first_and_then_probes_from_all():
    """The openers make room; what follows says who is there, and again when it got lost."""
    sent = run(make(Technique.MANY_SOCKETS, 200, sockets=32), lateness=lambda: 0.0, until=5)
    shots = [shot for _, shot in sent]
    assert [shot.slot for shot in shots[:64]] == [*range(32), *range(32)]
    assert [shot.is_opener for shot in shots[:64]] == [True] * 32 + [False] * 32
    assert {shot.remote for shot in shots} == {THEIRS}
    starts = [at for at, shot in sent if shot.slot == 0]
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(starts))


def test_a_thousand_probes_meet_256_sockets_in_98_of_100_cases():
    """The arithmetic of docs/hard-nats.md, played through."""
    met = 0
    for seed in range(300):
        chance = random.Random(seed)
        open_ports = set(chance.sample(range(1024, 65536), SPRAY_SOCKETS))
        probes = zip(range(1000), random_ports(chance.randbytes), strict=False)
        met += any(port in open_ports for _, port in probes)
    assert met >= 0.96 * 300


def test_rounds_aim_near_and_far():
    """Near for small blocks of ports, far for busy NATs."""
    assert [aim_ahead(number) for number in range(5)] == [*AIM_AHEAD, AIM_AHEAD[0]]
    assert min(AIM_AHEAD) >= 8


@pytest.mark.parametrize("ours", [Technique.SPRAY, Technique.MANY_SOCKETS, Technique.BOTH])
def test_both_parts_fit_whatever_the_peer_was_shown(ours):
    """The two sides see different checks at different times: one may play a part while the other one still plays both.

    Whichever side is the hard one, its many sockets come before the other's spray.
    """
    shown = {Technique.SPRAY: Shown(UNKNOWN, HARD), Technique.MANY_SOCKETS: Shown(HARD), Technique.BOTH: Shown()}[ours]
    one, other = assign(announce(UNKNOWN), announce(UNKNOWN), shown), assign(announce(UNKNOWN), announce(UNKNOWN))
    assert one is not None
    assert other is not None
    played = [run(make(task.technique, 200, end_at=8.0), lateness=lambda: 0.0) for task in (one, other)]
    sprays = [{shot.remote.port for _, shot in side if shot.slot == BASE} for side in played]
    pools = [{shot.slot for _, shot in side if shot.slot != BASE} for side in played]
    if ours is not Technique.SPRAY:
        assert len(pools[0]) == SPRAY_SOCKETS
        assert len(sprays[1]) > 500
    if ours is not Technique.MANY_SOCKETS:
        assert len(pools[1]) == SPRAY_SOCKETS
        assert len(sprays[0]) > 500


def test_both_parts_open_before_they_probe():
    """A probe that arrives before its port is open is lost, and none is tried twice."""
    shots = run(make(Technique.BOTH, 200, packets=4096), lateness=lambda: 0.0)
    first = [shot for _, shot in shots[:SPRAY_SOCKETS]]
    assert [shot.slot for shot in first] == list(range(SPRAY_SOCKETS))
    assert all(shot.is_opener for shot in first)
    probed = [shot.remote.port for _, shot in shots if shot.slot == BASE]
    assert len(probed) == len(set(probed)) > 2000
