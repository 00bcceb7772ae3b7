"""A session that outlives what is under it: an hour's sleep, a network that drops all, a relay that forgets all.

Two whole sessions on the virtual network; see `virtual_sessions`. What they carry arrives whole, once, and in order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import icesignal
import pytest
import trio
import virtual_sessions
from virtual_sessions import HOUR_S, RANDOM_HOME, Change, VirtualSessions, connected, endures

from iceagent.session import establish as establishing
from iceagent.session.errors import PeerLost
from iceagent.session.outages import Outage, OutageKind
from iceagent.vnet import run


def asleep(seconds: float, *, reboots: bool = False, moves: bool = False, forgets: bool = False) -> Change:
    """Alice's machine sleeps; meanwhile her router is started again, she is carried elsewhere, the relay forgets."""

    async def change(lab: VirtualSessions) -> float:
        alice = lab.hosts[0]
        alice.partition()
        await trio.sleep(seconds / 2)
        if reboots:
            lab.homes[0].reboot()
        if moves:
            alice.move(lab.another_home(), lab.line())
        if forgets:
            lab.relay.restart()
        await trio.sleep(seconds / 2)
        alice.heal()
        return trio.current_time()

    return change


@pytest.mark.parametrize("seconds", [40, 90, 600, HOUR_S])
def test_a_machine_that_slept_finds_its_transfers_where_they_were(seconds):
    """Consent ended at both ends after 30 s; the relay has kept the conversation, or forgotten it."""
    endures(asleep(seconds, forgets=seconds > 120), within_s=5)


def test_an_hour_s_sleep_a_router_started_again_and_another_network():
    endures(asleep(HOUR_S, reboots=True, moves=True, forgets=True), within_s=5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nats_with_random_ports_forget_all_meanwhile(seed):
    """What the servers saw before holds no more: they are asked again as the two meet."""
    endures(asleep(900, reboots=True, forgets=True), nat=RANDOM_HOME, within_s=6, seed=seed)


def test_a_relay_that_comes_back_later_than_the_network_is_waited_for():
    """Nothing can be agreed on before; then at once."""

    async def change(lab: VirtualSessions) -> float:
        lab.relay.is_open = False
        lab.relay.restart()
        await asleep(300)(lab)
        await trio.sleep(120)
        lab.relay.is_open = True
        return trio.current_time()

    endures(change, within_s=6)


def test_a_relay_that_forgets_all_while_the_path_works_costs_nothing_and_later_changes_are_agreed_on():
    """They have met again long before it is needed."""

    async def change(lab: VirtualSessions) -> float:
        lab.relay.restart()
        await trio.sleep(10)
        assert lab.relay.meetings == 2
        lab.hosts[0].move(lab.another_home(), lab.line())
        return trio.current_time()

    endures(change, within_s=3)


def test_a_relay_that_forgets_all_a_hundred_times():
    """Each time they meet again, soon, and nobody piles up."""

    async def main():
        async with connected(1, meet_again=True) as lab:
            await trio.sleep(10)
            living = []
            for number in range(100):
                lab.relay.restart()
                with trio.fail_after(30):
                    while lab.relay.meetings < number + 2:
                        await trio.sleep(0.1)
                await trio.sleep(10)
                living.append(trio.lowlevel.current_statistics().tasks_living)
            assert living[-1] <= living[0], "nothing is left of a conversation that has ended"

    run(main)


@pytest.mark.parametrize("side", [0, 1])
def test_where_one_side_knows_only_that_the_other_is_away_it_goes_and_meets_it(side):
    """A relay that slept with its machine keeps the place of somebody who has given up on it long ago."""

    async def main():
        async with connected(1, meet_again=True) as lab:
            await trio.sleep(30)
            lab.channels[side].finish(icesignal.SessionLost("the relay no longer knows this session"))
            await trio.sleep(60)
            assert lab.relay.meetings == 1, "the other side hears nothing of that"
            lab.channels[1 - side].is_peer_away = True
            with trio.fail_after(12):
                while lab.relay.meetings == 1:
                    await trio.sleep(0.1)

    run(main)


def test_a_peer_that_is_back_in_the_conversation_there_was_is_met_nowhere_else():
    """It had lost its connection for a moment, which is no reason to meet anew."""

    async def main():
        async with connected(1, meet_again=True) as lab:
            await trio.sleep(30)
            lab.channels[0].is_peer_away = True
            await trio.sleep(20)
            lab.channels[0].is_peer_away = False
            await trio.sleep(20)
            lab.channels[1].finish(icesignal.SessionLost("the relay no longer knows this session"))
            await trio.sleep(60)
            assert lab.relay.meetings == 1, "the first side has left the place where they meet"

    run(main)


async def follow(lab: VirtualSessions, number: int, told: list[Outage]) -> None:
    async for outage in lab.sessions[number].outages():
        told.append(outage)


def test_it_is_said_once_on_both_sides_that_the_session_is_reconnecting_and_when_it_is_back():
    told: tuple[list[Outage], list[Outage]] = ([], [])

    async def main():
        async with connected(1, meet_again=True, outage_s=HOUR_S) as lab, trio.open_nursery() as nursery:
            for number in (0, 1):
                nursery.start_soon(follow, lab, number, told[number])
            await trio.sleep(30)
            await asleep(100)(lab)
            await trio.sleep(10)
            nursery.cancel_scope.cancel()

    run(main)
    for outages in told:
        kinds = [one.kind for one in outages]
        assert kinds.count(OutageKind.RECONNECTING) == 1
        assert kinds[-1] is OutageKind.BACK
        assert len(kinds) <= 6
        line = next(str(one) for one in outages if one.kind is OutageKind.RECONNECTING)
        assert line.startswith("the other side is out of reach; reconnecting for up to ")


@pytest.mark.parametrize("outage_s", [0.0, 120.0])
def test_it_is_given_up_after_as_long_as_was_asked_for(outage_s):
    async def main():
        async with connected(1, meet_again=True, outage_s=outage_s) as lab:
            await trio.sleep(30)
            lab.hosts[1].partition()
            cut_at = trio.current_time()
            words = r"for (120 s|2 min), on no path and through no relay" if outage_s else "has not answered for 30 s"
            with trio.fail_after(300), pytest.raises(PeerLost, match=words):
                await lab.sessions[0].wait_closed()
            assert max(30, outage_s) - 7 <= trio.current_time() - cut_at <= max(30, outage_s) + 2

    run(main)


def test_by_default_a_session_by_code_waits_ten_minutes():
    async def main():
        async with connected(1, meet_again=True) as lab:
            await trio.sleep(30)
            lab.hosts[1].partition()
            with trio.move_on_after(590) as patience:
                await lab.sessions[0].wait_closed()
            assert patience.cancelled_caught
            with trio.fail_after(12), pytest.raises(PeerLost):
                await lab.sessions[0].wait_closed()

    run(main)
    assert establishing.OUTAGE_S == 600


def test_a_peer_that_says_it_is_done_while_the_path_is_away_is_not_waited_for():
    """Ctrl-C during an outage: its link cannot say so, the relay can."""

    async def main():
        async with connected(1, meet_again=True) as lab:
            await trio.sleep(30)
            lab.hosts[1].partition()
            await trio.sleep(50)
            lab.channels[0].finish(icesignal.PeerLeft("the other side is done", said_goodbye=True, is_done=True))
            with trio.fail_after(2), pytest.raises(PeerLost):
                await lab.sessions[0].wait_closed()

    run(main)


def ends_once_silent(evidence: Callable[[VirtualSessions], None]) -> None:
    """Demand that what says that the peer is gone ends the session, and not before the path says so, too."""

    async def main():
        async with connected(1, meet_again=True) as lab:
            await trio.sleep(30)
            evidence(lab)
            await trio.sleep(60)
            assert lab.sessions[0].close_reason is None, "a path that works is a better witness"
            lab.hosts[1].partition()
            with trio.fail_after(36), pytest.raises(PeerLost):
                await lab.sessions[0].wait_closed()

    run(main)


def test_a_peer_whose_own_relay_ended_with_its_program_is_not_waited_for():
    """kill -9 of a `listen` with a relay of its own: its machine refuses connections where the relay was."""

    def relay_ends(lab: VirtualSessions) -> None:
        lab.reunions[0].peers_relay_has_ended = True

    ends_once_silent(relay_ends)


def test_a_peer_that_hung_up_at_the_relay_and_is_silent_is_not_waited_for(monkeypatch):
    """kill -9 of a program that used a relay of others: its system closes the connection, and nobody comes back."""

    async def wait_peer_gone(channel: virtual_sessions.Channel, seconds: float) -> None:
        while not channel.has_peer_hung_up:
            await trio.sleep(1)

    def hang_up(lab: VirtualSessions) -> None:
        lab.channels[0].has_peer_hung_up = True

    monkeypatch.setattr(virtual_sessions.Channel, "wait_peer_gone", wait_peer_gone)
    ends_once_silent(hang_up)


def test_an_idle_session_that_met_again_costs_its_keepalives():
    """Nothing of the reunion goes on beside it."""

    async def main():
        async with connected(1, meet_again=True) as lab:
            await trio.sleep(30)
            await asleep(200, forgets=True)(lab)
            await trio.sleep(120)
            record = len(lab.net.trace)
            await trio.sleep(60)
            packets = [one for one in lab.net.trace[record:] if one.event == "send"]
            assert len(packets) <= 2 * (2 * 3 * 16 + 8)

    run(main)


def test_streams_opened_and_datagrams_sent_while_it_is_away_go_out_when_it_is_back():
    async def main():
        async with connected(1, meet_again=True, outage_s=HOUR_S) as lab, trio.open_nursery() as nursery:
            await trio.sleep(10)
            lab.hosts[0].partition()
            await trio.sleep(60)
            stream = await lab.sessions[0].open_stream("opened meanwhile")
            await stream.send_all(b"said meanwhile")
            nursery.start_soon(partial(lab.sessions[0].send_datagram, b"datagram"))
            await trio.sleep(600)
            lab.hosts[0].heal()
            with trio.fail_after(8):
                other = await lab.sessions[1].accept_stream()
                assert other.name == "opened meanwhile"
                assert await other.receive_some() == b"said meanwhile"
            nursery.cancel_scope.cancel()

    run(main)
