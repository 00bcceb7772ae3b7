"""Ta across all agents of a machine: RFC 8445 section 14.2."""

from __future__ import annotations

from ice_harness import PEER, randbytes_of, requests_in, transmits_of

from iceagent.core import constants, ice
from iceagent.core.address import make_address


def crowd(count: int, pacer: ice.Pacer) -> list[ice.IceAgent]:
    """Agents that all begin to check at once, with ten pairs each."""
    agents = []
    for number in range(count):
        one = ice.IceAgent(role=ice.Role.CONTROLLING, randbytes=randbytes_of(number), pacer=pacer)
        one.add_local_candidate(0.0, ice.host_candidate(make_address("192.0.2.1", 1000 + number)))
        one.set_remote_credentials(0.0, PEER)
        for other in range(10):
            address = make_address(f"198.51.100.{other + 1}", 2000)
            one.add_remote_candidate(0.0, ice.host_candidate(address, 1000 + other))
        agents.append(one)
    return agents


def run(agents: list[ice.IceAgent], until: float) -> list[tuple[float, int, bytes]]:
    """Return (time, agent, transaction) of each new check."""
    seen: dict[bytes, tuple[float, int, bytes]] = {}
    now = 0.0
    while now <= until:
        for number, one in enumerate(agents):
            at = one.next_timeout()
            if at is not None and at <= now:
                one.handle_timeout(now)
                again = one.next_timeout()
                assert again is None or again > now
            for transmit in requests_in(transmits_of(one)):
                seen.setdefault(transmit.data[8:20], (now, number, transmit.data[8:20]))
        now = max(now, min(at for one in agents if (at := one.next_timeout()) is not None))
    return list(seen.values())


def test_all_agents_together_send_a_new_check_every_five_milliseconds_at_most() -> None:
    """A hundred sessions that begin at once must not flood the line; a few may go first."""
    checks = run(crowd(100, ice.Pacer()), 1.0)
    assert 200 <= len(checks) <= 200 + constants.PACER_BURST + 1
    assert sum(at == 0.0 for at, _, _ in checks) == constants.PACER_BURST


def test_no_agent_starves() -> None:
    """Each gets its turn before any gets many more."""
    checks = run(crowd(40, ice.Pacer()), 1.0)
    counts = [sum(number == mine for _, number, _ in checks) for mine in range(40)]
    assert min(counts) >= 3
    assert max(counts) - min(counts) <= 3


def test_single_agent_does_not_notice() -> None:
    """Its own Ta is longer."""
    times = [at for at, _, _ in run(crowd(1, ice.Pacer()), 0.4)]
    assert all(abs(at - number * constants.TA_S) < 1e-9 for number, at in enumerate(times))
    assert len(times) >= 8
