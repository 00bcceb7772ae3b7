"""Whole sessions that carry nothing, are cut off, or end: what they say of it must be so. In virtual time."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import icesignal
import msgpack
import pytest
import trio
from amount import amount
from icesignal import wire
from trio.testing import MockClock
from virtual_sessions import Channel, connected

from iceagent import vnet
from iceagent.agent import AgentConfig, IceServer
from iceagent.agent.explain import Verdict, VerdictKind
from iceagent.errors import LocalError
from iceagent.link import LinkConfig, generate_identity, open_link
from iceagent.net import monitor
from iceagent.session import establish as establishing
from iceagent.session import signaling
from iceagent.session.endings import PEER_LOST
from iceagent.session.errors import NoLink, NoPath, PeerLeft, PeerLost
from iceagent.session.outages import Outage, OutageKind
from iceagent.session.own_addresses import check_addresses
from iceagent.session.progress import Progress, Stage
from iceagent.session.session import Session
from iceagent.vnet import Network

# Five to fifteen times QUIC's idle timer; tests/link has hours, which cost less without an agent below.
IDLE_S = amount(1800, 600)


def run(main) -> None:
    """Run it in virtual time."""
    vnet.run(main, seed=1)


async def follow_outages(session: Session, told: list[Outage]) -> None:
    async for outage in session.outages():
        told.append(outage)


@pytest.mark.thorough
@pytest.mark.parametrize("backend", ["qh3", "aioquic"])
def test_many_minutes_without_a_byte_end_nothing_and_are_no_outage(monkeypatch, backend):
    """The whole of it: consent checks below, QUIC above, and nobody who uses either."""
    monkeypatch.setattr(establishing, "open_link", partial(open_link, backend=backend))

    async def main():
        async with connected(1) as lab, trio.open_nursery() as nursery:
            told: list[Outage] = []
            for session in lab.sessions:
                nursery.start_soon(follow_outages, session, told)
            await trio.sleep(IDLE_S)
            assert told == []
            async with await lab.sessions[0].open_stream("morning") as stream:
                await stream.send_all(b"hello")
                async with await lab.sessions[1].accept_stream() as other:
                    assert await other.receive_some() == b"hello"
            nursery.cancel_scope.cancel()

    run(main)


def test_an_idle_session_costs_its_keepalives():
    """Two consent checks each five seconds and their answers, a question each half minute: nothing else."""

    async def main():
        async with connected(1) as lab:
            await trio.sleep(120)
            before = [session.statistics().counters for session in lab.sessions]
            record = len(lab.net.trace)
            await trio.sleep(60)
            packets = [one for one in lab.net.trace[record:] if one.event == "send"]
            assert before == [session.statistics().counters for session in lab.sessions]
            # Of each side: 12 to 15 consent checks on the path and on two backups, as many answers; 2 PINGs and ACKs.
            assert len(packets) <= 2 * (2 * 3 * 16 + 8)

    run(main)


@pytest.mark.parametrize("backend", ["qh3", "aioquic"])
def test_an_outage_is_told_in_few_lines_and_the_session_goes_on(monkeypatch, backend):
    """Twenty seconds in which nothing moves were never told; the length is that of the outage."""
    monkeypatch.setattr(establishing, "open_link", partial(open_link, backend=backend))

    async def main():
        async with connected(1) as lab, trio.open_nursery() as nursery:
            told: list[Outage] = []
            nursery.start_soon(follow_outages, lab.sessions[0], told)
            async with await lab.sessions[0].open_stream("long") as stream:
                await stream.send_all(b"before")
                other = await lab.sessions[1].accept_stream()
                assert await other.receive_some() == b"before"
                await trio.sleep(30)
                lab.hosts[1].partition()
                await trio.sleep(20)
                await stream.send_all(b"during")
                lab.hosts[1].heal()
                with trio.fail_after(3):
                    assert await other.receive_some() == b"during"
                await trio.sleep(3)
            assert [one.kind.value for one in told] == ["silent", "restarting", "trying", "back"]
            assert re.fullmatch(r"still nothing after 1\d s; .*; giving up in about 1\d s", str(told[2]))
            assert not told[0].is_ours
            assert 1 < told[0].seconds < 10
            assert 19 < told[-1].seconds < 28
            assert "again, after 2" in str(told[-1])
            nursery.cancel_scope.cancel()

    run(main)


def lost_after(lose, *, who: int = 0) -> PeerLost:
    """Return why one side's session is over after `lose`, and demand that it takes no longer than consent lasts."""
    errors: list[PeerLost] = []

    async def main():
        async with connected(1) as lab:
            await trio.sleep(30)
            lose(lab)
            with trio.fail_after(50), pytest.raises(PeerLost) as caught:
                await lab.sessions[who].wait_closed()
            errors.append(caught.value)

    run(main)
    return errors[0]


def test_a_peer_that_has_vanished_is_said_to_have():
    """Its process was killed, or its network is down: nothing here can tell which, and nothing here claims to."""
    error = lost_after(lambda lab: lab.hosts[1].partition())
    assert str(error).startswith(PEER_LOST)
    assert error.verdict is not None
    assert error.verdict.kind is VerdictKind.CONSENT_LOST
    assert "Restarted" not in str(error)  # a word of the agent's, for those who carry credentials themselves


def test_a_peer_whose_program_was_killed_is_said_to_have_ended():
    """Its machine answers that nobody listens there: beside the silence that is a fact, and a better one."""
    error = lost_after(lambda lab: lab.hosts[1].crash())
    assert "stopped answering for 30 s" in str(error)
    assert "says that its program has ended" in str(error)
    assert error.verdict is not None
    assert error.verdict.kind is VerdictKind.CONSENT_LOST


def test_an_agent_whose_sockets_were_closed_under_it_loses_them_and_tries_no_other_port():
    """Another port is for gateways in the way. Whoever has no socket left has no path, whatever the network allows."""

    async def main():
        async with connected(1) as lab:
            await trio.sleep(30)
            lab.hosts[1].crash()
            for _ in range(60):
                await trio.sleep(1)
                assert lab.hosts[1].sockets == []
            with trio.fail_after(1), pytest.raises(PeerLost):
                await lab.sessions[1].wait_closed()
            lab.hosts[1].renew()  # the agent is over, its socket gone before the address: nothing to restart
            await trio.sleep(1)

    run(main)


@pytest.mark.parametrize(("seconds", "is_over"), [(12, False), (40, True)])
def test_a_program_that_was_stopped_does_not_blame_the_peer(seconds, is_over):
    """SIGSTOP, a debugger: all timers come late at once, and the peer, which heard nothing for 30 s, is gone."""
    told: list[Outage] = []
    errors: list[PeerLost] = []

    async def main():
        async with connected(1) as lab, trio.open_nursery() as nursery:
            nursery.start_soon(follow_outages, lab.sessions[0], told)
            await trio.sleep(30)
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, MockClock)
            clock.jump(seconds)
            if is_over:
                with trio.fail_after(50), pytest.raises(PeerLost) as caught:
                    await lab.sessions[0].wait_closed()
                errors.append(caught.value)
            else:
                await trio.sleep(20)
                assert lab.sessions[0].path is not None
            nursery.cancel_scope.cancel()

    run(main)
    if not is_over:
        assert told == []
        outage = Outage(OutageKind.SILENT, 14.0, is_ours=True, stopped_s=12.0)
        assert str(outage).startswith("this machine slept, or this program was stopped, for 12 s; asking")
        return
    assert errors[0].verdict is not None
    assert errors[0].verdict.kind is VerdictKind.STOPPED
    assert re.search(r"slept, or this program was stopped, for [34]\d s, and the peer has not", str(errors[0]))


def test_a_machine_that_slept_does_not_blame_the_peer():
    """The monotonic clock stands still meanwhile, so that no timer is late; another clock knows."""

    async def main():
        async with connected(1) as lab:
            await trio.sleep(30)
            lab.hosts[1].partition()  # what the peer's own end comes to while nobody answers it
            watch = monitor._watches.get()[id(lab.hosts[0])]
            for one in watch.monitors:
                one.slept_s = 600.0
            watch._notify(monitor.Change.WOKE)
            with trio.fail_after(50), pytest.raises(PeerLost, match=r"for 600 s, and the peer has not answered since"):
                await lab.sessions[0].wait_closed()

    run(main)


def test_a_network_of_our_own_that_is_gone_is_not_the_peers_fault():
    """Its sleep was blamed while the cable lay on the floor here."""
    error = lost_after(lambda lab: lab.hosts[0].set_up(up=False))
    assert "This machine lost its address" in str(error)
    assert error.verdict is not None
    assert error.verdict.kind is VerdictKind.NETWORK_CHANGED


@pytest.mark.parametrize("turn", [False, True])
def test_a_network_of_our_own_that_goes_is_told_as_ours(turn):
    """The line on the screen must not send the user to the other machine, relayed pairs that seem to live or not."""

    async def main():
        async with connected(1, turn=turn) as lab, trio.open_nursery() as nursery:
            told: list[Outage] = []
            nursery.start_soon(follow_outages, lab.sessions[0], told)
            await trio.sleep(30)
            lab.hosts[0].set_up(up=False)
            await trio.sleep(15)
            lab.hosts[0].set_up(up=True)
            await trio.sleep(10)
            assert told[0].is_ours
            assert "this machine" in str(told[0])
            assert told[-1].kind is OutageKind.BACK
            nursery.cancel_scope.cancel()

    run(main)


async def establish(net: Network, *, cut=None, **options) -> list[tuple[object, list[Stage]]]:
    """Let two hosts that know no way to each other try; return what each raised, and the stages it went through.

    `options` are of the configuration of the first, which alone is heard then; and neither has a server that it would
    have to wait for.
    """
    found: list[tuple[object, list[Stage]]] = []
    ends = [Channel("joiner", lambda: True), Channel("inviter", lambda: True)]
    ends[0].peer, ends[1].peer = reversed(ends)

    async def one(number: int) -> None:
        host = net.hosts()[number]
        config = AgentConfig(servers=[IceServer("stun:203.0.113.99")], network=host, randbytes=host.randbytes)
        if options:
            config = replace(config, servers=(), **(options if number == 0 else {}))
        progress, stages = Progress(), []
        enter = progress.enter

        def note(stage: Stage, explain=None) -> None:
            stages.append(stage)
            if stage is Stage.LINK and cut is not None:
                cut()
            enter(stage, explain)

        progress.enter = note  # type: ignore[method-assign]
        try:
            end: Any = ends[number]
            async with establishing.establish(Session, end, generate_identity(), config, progress):
                await trio.sleep(1)
        except (NoPath, NoLink) as error:
            if number == 0 or not options:
                found.append((error, stages))
            if number == 0 and options:
                nursery.cancel_scope.cancel()

    async with net, trio.open_nursery() as nursery:
        nursery.start_soon(one, 0)
        nursery.start_soon(one, 1)
    return found


def test_no_path_carries_the_verdict_and_its_remedy():
    """ "No path" is where the questions begin; the answers were known and not told."""
    found: list[tuple[object, list[Stage]]] = []

    async def main():
        net = Network(1)
        for _ in range(2):
            net.host(net.router(net.internet, nat=vnet.Nat(filtering="address-and-port-dependent")))
        found.extend(await establish(net))

    run(main)
    assert len(found) == 2
    for error, stages in found:
        assert isinstance(error, NoPath)
        assert error.verdict is not None
        assert error.verdict.summary in str(error)
        assert error.verdict.remedy
        assert error.verdict.remedy in str(error)
        assert stages == [Stage.PEER, Stage.PATH]


def test_no_path_is_reported_to_the_relay_s_operator(monkeypatch):
    """By kind and duration, without an address."""
    reported: list[tuple[object, ...]] = []

    def note(end: Channel, *report: object) -> None:
        reported.append(report)

    monkeypatch.setattr(Channel, "report_outcome", note)

    async def main():
        net = Network(1)
        for _ in range(2):
            net.host(net.router(net.internet, nat=vnet.Nat(filtering="address-and-port-dependent")))
        await establish(net)

    run(main)
    assert len(reported) == 2
    for outcome, why, seconds in reported:
        assert (outcome, why in wire.WHYS) == ("failed", True)
        assert isinstance(seconds, float)
        assert seconds > 1


@pytest.mark.parametrize(
    ("options", "is_online", "kind", "says"),
    [
        ({"families": (6,)}, True, VerdictKind.FILTERED_BY_POLICY, "IPv4 (families)"),
        ({"deny_interfaces": ("*",)}, True, VerdictKind.FILTERED_BY_POLICY, "(deny_interfaces)"),
        ({"candidate_types": ("srflx",)}, True, VerdictKind.FILTERED_BY_POLICY, "allowed here: srflx"),
        ({"deny_interfaces": ("eth*",)}, True, VerdictKind.NO_LOCAL_ADDRESS, "no address but those of loopback"),
        ({"port_mapping": False}, False, VerdictKind.NO_LOCAL_ADDRESS, "no address but those of loopback"),
    ],
)
def test_who_cannot_have_a_path_is_told_at_once(options, is_online, kind, says):
    """The patience of RFC 8863 is for checks that may come; where nothing can be sent they lead nowhere."""
    found: list[tuple[object, list[Stage]]] = []

    async def main():
        net = Network(1)
        hosts = [net.host(net.internet) for _ in range(2)]
        if not is_online:
            hosts[0].set_up(up=False)
        with trio.move_on_after(3):
            found.extend(await establish(net, **options))

    run(main)
    (error, _), *_ = found
    assert isinstance(error, NoPath)
    assert error.verdict is not None
    assert error.verdict.kind is kind
    assert says in str(error.verdict)
    assert error.verdict.remedy in str(error)


EVERYTHING = ("0.0.0.0/1", "128.0.0.0/1", "::/0")


@pytest.mark.parametrize(
    ("options", "theirs", "kind", "says"),
    [
        ({"deny_remote_prefixes": EVERYTHING}, (4, 6), "filtered-by-policy", "(deny_remote_prefixes)"),
        ({"remote_prefixes": ()}, (4, 6), "filtered-by-policy", "(remote_prefixes)"),
        ({"deny_remote_prefixes": ("0.0.0.0/0",)}, (4,), "filtered-by-policy", "(deny_remote_prefixes)"),
        ({"candidate_types": ("host",), "remote_prefixes": ("9.9.9.9/32",)}, (4,), "filtered-by-policy", "(remote_"),
        ({"families": (4,), "deny_remote_prefixes": EVERYTHING[:2]}, (4, 6), "filtered-by-policy", "could be reached"),
        ({"families": (6,)}, (4,), "no-common-family", "We have IPv6 addresses, the peer only IPv4"),
    ],
)
def test_whose_configuration_leaves_nothing_of_the_peer_is_told_at_once(options, theirs, kind, says):
    """There is nothing to wait for but checks from elsewhere, and those would be refused, too."""
    found: list[tuple[object, list[Stage]]] = []

    async def main():
        net = Network(1, families=(4, 6))
        net.host(net.internet)
        net.host(net.router(net.internet, families=theirs))
        with trio.move_on_after(3):
            found.extend(await establish(net, **options))

    run(main)
    (error, _), *_ = found
    assert isinstance(error, NoPath)
    assert error.verdict is not None
    assert error.verdict.kind.value == kind
    assert says in str(error.verdict)


def test_checks_from_where_nothing_was_told_are_waited_for():
    """All that the peer told is forbidden; what its NAT makes of it is not, and was not told either."""

    async def main():
        net = Network(1)
        net.host(net.internet)
        net.host(net.router(net.internet, nat=vnet.Nat()))
        with trio.move_on_after(10) as patience:
            await establish(net, deny_remote_prefixes=("10.0.0.0/8", "192.168.0.0/16"))
        assert not patience.cancelled_caught, "they come, and there is a session"

    run(main)


def test_restrictions_that_leave_no_address_are_told_before_a_code_is_used():
    """Whoever has no network at all is let pass: no restriction is to blame, and it may yet get one."""

    async def main():
        net = Network(1)
        async with net:
            host = net.host(net.internet)
            check_addresses(None, peer_may_be_here=False)
            check_addresses(AgentConfig(network=host, families=(4,)), peer_may_be_here=False)
            check_addresses(AgentConfig(network=host, deny_interfaces=("eth*",)), peer_may_be_here=True)
            check_addresses(AgentConfig(network=host, interfaces=("lo",)), peer_may_be_here=False)
            with pytest.raises(LocalError, match=r"only IPv6 is .*-6.*, and this machine has no IPv6 address"):
                check_addresses(AgentConfig(network=host, families=(6,)), peer_may_be_here=False)
            with pytest.raises(LocalError, match=r"eth0 \(deny_interfaces\) left out; allow one"):
                check_addresses(AgentConfig(network=host, deny_interfaces=("*",)), peer_may_be_here=True)
            host.set_up(up=False)
            check_addresses(AgentConfig(network=host, families=(6,)), peer_may_be_here=False)

    run(main)


def test_a_path_that_dies_before_the_link_is_open_is_said_to_have():
    """QUIC's patience would end it with a number of seconds and no word on the cause."""
    found: list[tuple[object, list[Stage]]] = []

    async def main():
        net = Network(1)
        hosts = [net.host(net.internet) for _ in range(2)]

        def cut() -> None:
            for host in hosts:
                host.partition()

        found.extend(await establish(net, cut=cut))

    run(main)
    assert len(found) == 2
    assert any(isinstance(error, NoLink) for error, _ in found)
    for error, stages in found:  # one side may not have come as far as the other
        assert isinstance(error, (NoLink, NoPath))
        assert "before the" in str(error)
        assert error.verdict is not None
        assert (Stage.LINK in stages) == isinstance(error, NoLink)


def test_the_waiting_is_told_in_sentences():
    """Each stage has one; none is empty, and that of the path has the agent's word."""

    async def main():
        progress = Progress()
        assert str(progress) == "waiting for the relay"
        progress.relay = "relay.example"
        assert str(progress) == "waiting for the relay relay.example"
        told = set()
        for stage in Stage:
            progress.enter(stage)
            told.add(str(progress))
        assert len(told) == len(Stage)
        progress.enter(Stage.PATH, lambda: Verdict(VerdictKind.CHECKING, "The paths to the peer are being tried."))
        assert str(progress) == "trying the paths to the other side; none has answered yet"
        progress.enter(Stage.PATH, lambda: Verdict(VerdictKind.NO_UDP_EGRESS, "UDP does not leave."))
        assert str(progress) == "trying the paths to the other side: UDP does not leave"

    run(main)


def test_defaults_of_a_link_ask_every_half_minute():
    """What docs and figures say."""
    assert LinkConfig().idle_timeout_s == 120.0


def test_a_relay_that_was_gone_is_named_when_no_other_path_could_be_agreed_on(monkeypatch):
    """Who kills the relay after connecting should learn what it would have been good for."""

    async def receive(channel: Channel) -> dict[str, object]:
        while True:
            with trio.move_on_after(20):
                return msgpack.unpackb(await channel._take.receive())
            if trio.current_time() - begun[0] > 15:
                raise icesignal.RelayUnreachable("gone")

    begun = [0.0]
    monkeypatch.setattr(Channel, "receive", receive)
    errors: list[PeerLost] = []

    async def main():
        async with connected(1) as lab:
            begun[0] = trio.current_time()
            await trio.sleep(40)
            lab.hosts[1].partition()
            with trio.fail_after(50), pytest.raises(PeerLost) as caught:
                await lab.sessions[0].wait_closed()
            errors.append(caught.value)

    run(main)
    assert "the conversation at the relay" in str(errors[0])
    assert "it was stopped" not in str(errors[0])


def test_who_is_left_while_trying_says_what_it_saw_itself(monkeypatch):
    """The first side to give up ends the conversation; the other one's own evidence must not be lost by that."""
    found: list[PeerLeft] = []

    async def receive(channel: Channel) -> dict[str, object]:
        with trio.move_on_after(20):
            return msgpack.unpackb(await channel._take.receive())
        raise icesignal.PeerLeft("the other side ended the conversation")

    monkeypatch.setattr(Channel, "receive", receive)

    async def main():
        net = Network(1)
        for _ in range(2):
            net.host(net.router(net.internet, nat=vnet.Nat(filtering="address-and-port-dependent")))
        with pytest.raises(ExceptionGroup) as caught:
            await establish(net)
        found.extend(error for error in caught.value.exceptions if isinstance(error, PeerLeft))

    run(main)
    assert found
    for error in found:
        assert "before a path was found" in str(error)
        assert "seen from here: no path had answered by then" in str(error)
        assert error.verdict is not None
        assert error.verdict.evidence


def test_who_is_left_between_path_and_link_is_told_as_soon_as_the_path_is_silent():
    """Ctrl-C there had the relay's word that the other side left, and half a minute of waiting for its link."""
    told: list[tuple[float, PeerLeft]] = []

    async def main():
        net = Network(1)
        hosts = [net.host(net.internet) for _ in range(2)]
        ends = [Channel("joiner", lambda: True), Channel("inviter", lambda: True)]
        ends[0].peer, ends[1].peer = reversed(ends)
        leaving = trio.CancelScope()

        def leave(stage: Stage) -> None:
            if stage is Stage.LINK:
                leaving.cancel()
                ends[0].finish(icesignal.PeerLeft("the other side left", said_goodbye=True))

        async def one(number: int, enter) -> None:
            config = AgentConfig(network=hosts[number], randbytes=hosts[number].randbytes)
            progress = Progress()
            end: Any = ends[number]
            was = progress.enter
            progress.enter = lambda stage, explain=None: (enter(stage), was(stage, explain))[1]  # type: ignore[method-assign]
            async with establishing.establish(Session, end, generate_identity(), config, progress):
                await trio.sleep_forever()

        async def leaver() -> None:
            with leaving:
                await one(1, lambda _: None)

        async with net, trio.open_nursery() as nursery:
            nursery.start_soon(leaver)
            try:
                await one(0, leave)
            except PeerLeft as error:
                told.append((trio.current_time(), error))
            nursery.cancel_scope.cancel()

    run(main)
    [(seconds, error)] = told
    assert seconds < 8
    assert "the other side left before the link was open" in str(error)


@pytest.mark.parametrize(
    "reason",
    [
        icesignal.PeerLeft("the other side stayed away for too long"),
        icesignal.RelayUnreachable("the relay ws://relay.example cannot be reached"),
        icesignal.CodeWrong("somebody used this code with other words"),
        icesignal.ProtocolMismatch("the relay does not speak this protocol version"),
        icesignal.SessionLost("the relay no longer knows this session"),
    ],
    ids=lambda reason: type(reason).__name__,
)
def test_what_ends_at_the_relay_ends_no_open_session(caplog, reason):
    """Whatever a relay says then is about the relay; and no word of "before a path was found" hours after it was."""
    caplog.set_level("INFO")

    async def main():
        async with connected(1) as lab:
            await trio.sleep(30)
            lab.channels[0].finish(reason)
            await trio.sleep(30)
            async with await lab.sessions[0].open_stream("later") as stream:
                await stream.send_all(b"hello")
                async with await lab.sessions[1].accept_stream() as other:
                    assert await other.receive_some() == b"hello"

    run(main)
    told = [one.getMessage() for one in caplog.records if one.name == signaling.__name__]
    assert told == [f"the conversation at the relay has ended, and the session goes on: {reason}"]
