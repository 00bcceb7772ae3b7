from __future__ import annotations

import logging
import os
import socket
from typing import Any

import pytest
import signaling
import trio
from trio.testing import wait_all_tasks_blocked

from iceagent.agent import (
    AgentConfig,
    AgentState,
    DestinationUnreachable,
    IceServer,
    PairState,
    Role,
    VerdictKind,
    open_agent,
)
from iceagent.agent.driver import Driver
from iceagent.core import ice
from iceagent.errors import LocalError, RemoteError


def open_sockets() -> int:
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum(os.path.lexists(link) and os.readlink(link).startswith("socket:") for link in links)


class Leftovers:
    """Counts what lives; `check` fails if an agent left something behind."""

    def __init__(self) -> None:
        self.before = self.count()

    @staticmethod
    def count() -> tuple[int, int]:
        return open_sockets(), trio.lowlevel.current_statistics().tasks_living

    def check(self) -> None:
        assert self.count() == self.before


@pytest.mark.parametrize("segmentation", [True, False], ids=["gso-gro", "plain"])
@pytest.mark.parametrize("families", [(4,), (6,), (4, 6)])
async def test_two_agents_connect_and_exchange_datagrams(
    connected: Any, config: Any, segmentation: bool, families: tuple[int, ...]
) -> None:
    """The main promise, on either data path and IP version."""
    async with connected(config(segmentation=segmentation, families=families)) as (a, b):
        assert issubclass(type(a), trio.abc.Channel)
        assert (a.state, b.state) == (AgentState.COMPLETED, AgentState.COMPLETED)
        assert a.selected_pair is not None
        assert b.selected_pair is not None
        assert a.selected_pair.local.address == b.selected_pair.remote.address
        assert a.selected_pair.state is PairState.SUCCEEDED
        await a.send(b"ping")
        assert await b.receive() == b"ping"
        sent = [bytes([number % 251]) * 1200 for number in range(200)]
        await b.send_many(sent)
        received: list[bytes] = []
        while len(received) < len(sent):
            received += await a.receive_many()
        assert received == sent
        await a.send_many(sent[:50])
        assert sum(map(len, await b.receive_batches())) == 50


async def test_both_roles_the_same_sort_themselves_out(config: Any, carry: Any) -> None:
    """Two users who both say CONTROLLING still connect (traps 7 to 9, through the whole agent)."""
    async with open_agent(config(), role=Role.CONTROLLING) as a, open_agent(config(), role=Role.CONTROLLING) as b:
        await carry(a, b)
        assert {a.role, b.role} == {Role.CONTROLLING, Role.CONTROLLED}
        await a.send(b"x")
        assert await b.receive() == b"x"


async def test_sending_before_connecting_waits_for_the_first_path(config: Any, carry: Any) -> None:
    """A user need not know about states: send, and it goes as soon as it can."""
    async with open_agent(config(), role=Role.CONTROLLING) as a, open_agent(config(), role=Role.CONTROLLED) as b:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.send, b"early")
            await wait_all_tasks_blocked()
            nursery.start_soon(carry, a, b)
        assert await b.receive() == b"early"


async def test_the_bodys_exception_leaves_unwrapped(config: Any) -> None:
    """`except ValueError` around `async with open_agent()` must work, cause included."""
    cause = KeyError("cause")
    with pytest.raises(ValueError, match="of the body") as caught:
        async with open_agent(config(), role=Role.CONTROLLING):
            raise ValueError("of the body") from cause
    assert caught.value.__cause__ is cause


async def test_trap_26_nothing_is_left_after_return_error_or_cancellation(config: Any, connected: Any) -> None:
    """Traps 26 and 27: whatever way the body ends, no socket, no task."""
    leftovers = Leftovers()
    async with connected():
        pass
    leftovers.check()
    with pytest.raises(ZeroDivisionError):
        async with connected():
            raise ZeroDivisionError
    leftovers.check()
    with trio.CancelScope() as scope:
        async with connected() as (a, _):
            scope.cancel()
            await a.receive()
    assert scope.cancelled_caught
    leftovers.check()


async def test_a_cancelled_body_still_has_its_paths_for_final_messages(connected: Any) -> None:
    """A link says goodbye when it is cancelled; the path, a relay perhaps, must not be gone before it."""
    with trio.CancelScope() as scope:
        async with connected() as (a, b):
            scope.cancel()
            try:
                await trio.sleep_forever()
            finally:
                with trio.fail_after(10, shield=True):
                    await a.send(b"goodbye")
                    assert await b.receive() == b"goodbye"
    assert scope.cancelled_caught


async def test_an_error_of_the_body_survives_a_cancellation_from_outside(config: Any) -> None:
    """Closing must not await, or a cancelled scope would swallow what really went wrong."""
    with trio.CancelScope() as scope:
        try:
            async with open_agent(config(), role=Role.CONTROLLING):
                scope.cancel()
                raise ValueError("kept")
        except ValueError:
            return
    pytest.fail("the error was swallowed")


@pytest.mark.parametrize("steps", range(8))
async def test_trap_26_cancelling_while_opening_leaves_nothing(config: Any, steps: int) -> None:
    """Trap 26, at each of the first checkpoints."""
    leftovers = Leftovers()

    async def cancel_after(scope: trio.CancelScope) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_after, nursery.cancel_scope)
        servers = [IceServer("stun:127.0.0.1:9"), IceServer("stun:[::1]:9")]
        async with open_agent(config(servers=servers, families=(4, 6)), role=Role.CONTROLLING) as agent:
            await agent.receive()
    leftovers.check()


async def test_aclose_ends_everything_at_once_and_twice(connected: Any) -> None:
    """`Agent` is a Trio channel: closing wakes receivers with ClosedResourceError."""
    leftovers = Leftovers()
    async with connected() as (a, b):

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await a.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            await a.aclose()
        await a.aclose()
        await b.aclose()
        await wait_all_tasks_blocked()
        leftovers.check()
        assert a.state is AgentState.CLOSED
        assert a.explain().kind is VerdictKind.CLOSED
        for use in (a.send(b"x"), a.receive_many(), a.receive_batches(), a.wait_connected()):
            with pytest.raises(trio.ClosedResourceError):
                await use
        with pytest.raises(trio.ClosedResourceError):
            a.add_remote_candidate(None)
        assert len([candidate async for candidate in a.local_candidates()]) == 1


async def test_trap_28_dead_candidates_do_not_harm_live_ones(config: Any, carry: Any) -> None:
    """Trap 28: a closed port answers with ICMP; that is one pair's matter and shows in the events."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = config(prefixes=["127.0.0.1"])  # others would be checked first, and the dead one not at all
    async with open_agent(options, role=Role.CONTROLLING) as a, open_agent(options, role=Role.CONTROLLED) as b:
        a.add_remote_candidate(f"candidate:9 1 udp 2130706431 127.0.0.1 {port} typ host")
        await carry(a, b)
        async for event in a.events():
            if isinstance(event, DestinationUnreachable):
                assert event.remote == ("127.0.0.1", port)
                break
        await a.send(b"fine")
        assert await b.receive() == b"fine"
        assert a.statistics().transport.icmp_errors >= 1


async def test_late_subscribers_hear_from_the_beginning(connected: Any) -> None:
    """A log that starts when somebody listens cannot explain why it failed before."""
    async with connected() as (a, _):
        first, second = a.events(), a.events()
        states: list[list[AgentState]] = [[], []]
        for number, subscription in enumerate((first, second)):
            async for event in subscription:
                if isinstance(event, ice.StateChanged):
                    states[number].append(event.new)
                    if event.new is AgentState.COMPLETED:
                        break
        assert states[0] == states[1] == [AgentState.CHECKING, AgentState.CONNECTED, AgentState.COMPLETED]
        await a.aclose()
        rest = [event async for event in first]
        assert isinstance(rest[-1], ice.StateChanged)
        assert rest[-1].new is AgentState.CLOSED


async def test_statistics_have_the_shape_of_the_w3c(connected: Any) -> None:
    """Candidates, pairs, transport: what tools for WebRTC know how to read."""
    async with connected() as (a, b):
        await a.send_many([bytes(100)] * 10)
        assert len(await b.receive_many()) == 10
        stats = a.statistics()
        assert {(entry.is_remote, entry.candidate_type) for entry in stats.candidates} == {
            (False, "host"),
            (True, "host"),
        }
        (selected,) = (pair for pair in stats.pairs if pair.selected)
        assert selected.nominated
        assert selected.state == "succeeded"
        assert selected.current_round_trip_time_s is not None
        assert stats.transport.ice_state == "completed"
        assert stats.transport.selected_pair_changes == 1
        assert stats.transport.datagrams_sent >= 10
        assert stats.transport.bytes_sent >= 1000
        assert b.statistics().transport.bytes_received >= 1000


async def test_explain_follows_the_session(config: Any, carry: Any) -> None:
    """Each stage has its own verdict with a remedy, so that nobody has to read logs."""
    async with open_agent(config(), role=Role.CONTROLLING) as a, open_agent(config(), role=Role.CONTROLLED) as b:
        assert a.explain().kind is VerdictKind.WAITING_FOR_CREDENTIALS
        a.set_remote_credentials(b.credentials)
        verdict = a.explain()
        assert verdict.kind is VerdictKind.WAITING_FOR_CANDIDATES
        assert "add_remote_candidate" in verdict.remedy
        assert verdict.summary in str(verdict)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            a.add_remote_candidate(f"candidate:9 1 udp 1 127.0.0.1 {silent.getsockname()[1]} typ host")
            assert a.explain().kind is VerdictKind.CHECKING
            await carry(a, b)
        verdict = a.explain()
        assert verdict.kind is VerdictKind.CONNECTED
        assert "directly over IPv4, host to host" in verdict.summary


async def test_explain_names_families_that_do_not_meet(config: Any) -> None:
    """One side without IPv6 and the other without IPv4 is a cause of its own."""
    async with (
        open_agent(config(families=(4,)), role=Role.CONTROLLING) as a,
        open_agent(config(families=(6,)), role=Role.CONTROLLED) as b,
    ):
        await signaling.carry(b, a)
        assert a.explain().kind is VerdictKind.NO_COMMON_FAMILY


async def test_explain_names_mixed_up_credentials(config: Any) -> None:
    """An old description pasted again is a common mistake and looks like a firewall."""
    async with (
        open_agent(config(), role=Role.CONTROLLING) as a,
        open_agent(config(), role=Role.CONTROLLED) as b,
        open_agent(config(), role=Role.CONTROLLED) as stranger,
    ):
        for one, other in ((a, b), (b, a)):
            one.set_remote_credentials(stranger.credentials)
            async for candidate in other.local_candidates():
                one.add_remote_candidate(candidate)
        while b.explain().kind is not VerdictKind.WRONG_CREDENTIALS:
            await trio.lowlevel.checkpoint()


async def test_explain_names_a_policy_that_leaves_no_address() -> None:
    """`interfaces=["wlan7"]` on a machine without one."""
    async with open_agent(AgentConfig(interfaces=["wlan7"]), role=Role.CONTROLLING) as agent:
        assert [candidate async for candidate in agent.local_candidates()] == []
        assert agent.explain().kind is VerdictKind.FILTERED_BY_POLICY


async def test_descriptions_that_make_no_sense_are_the_peers_fault(config: Any) -> None:
    """Signaling hands over whatever the peer sent; the error names it and the session goes on."""
    async with open_agent(config(), role=Role.CONTROLLING) as agent:
        for text in ("nonsense", "candidate:1 1 udp x 127.0.0.1 1 typ host"):
            with pytest.raises(RemoteError):
                agent.add_remote_candidate(text)
        ends: tuple[Any, ...] = (None, "", {}, "a=end-of-candidates")
        for end in ends:
            agent.add_remote_candidate(end)
        agent.add_remote_candidate("candidate:1 1 udp 1 peer.example 9 typ host")
        agent.set_remote_credentials(ice.Credentials("abcd", "p" * 22))
        agent.set_remote_credentials(ice.Credentials("abcd", "p" * 22))
        ours = agent.credentials
        agent.set_remote_credentials(ice.Credentials("efgh", "p" * 22))
        assert agent.credentials != ours, "the peer has restarted"
        assert "candidate-name-unresolved" in agent.statistics().transport.dropped


async def test_a_port_range_is_obeyed_and_its_exhaustion_said(config: Any) -> None:
    """Firewalls are opened for ranges; a silent fall back outside would never work."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        taken = probe.getsockname()[1]
        with pytest.raises(LocalError, match="port_range"):
            async with open_agent(config(port_range=(taken, taken)), role=Role.CONTROLLING):
                pass
    async with open_agent(config(port_range=(taken, taken)), role=Role.CONTROLLING) as agent:
        assert [candidate.address.port async for candidate in agent.local_candidates()] == [taken]


async def test_logs_tell_states_and_no_secrets(config: Any, carry: Any, caplog: pytest.LogCaptureFixture) -> None:
    """State changes at info; never a password, payload or address of the peer, not even at debug."""
    caplog.set_level(logging.DEBUG, logger="iceagent")
    async with open_agent(config(), role=Role.CONTROLLING) as a, open_agent(config(), role=Role.CONTROLLED) as b:
        await carry(a, b)
        await a.send(b"payload-payload")
        await b.receive()
        secrets = [a.credentials.pwd, b.credentials.pwd, "payload"]
    infos = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert any("state completed" in message for message in infos)
    assert not [secret for secret in secrets if secret in caplog.text]
    assert repr(AgentConfig(credentials=a.credentials)).count(a.credentials.pwd) == 0


async def test_candidates_may_be_read_by_many_and_again(config: Any) -> None:
    """An application that re-sends its description must not find an empty iterator."""
    async with open_agent(config(families=(4, 6)), role=Role.CONTROLLING) as agent:
        first = [candidate async for candidate in agent.local_candidates()]
        assert [candidate async for candidate in agent.local_candidates()] == first
        assert len(first) == 2
        assert len({candidate.priority for candidate in first}) == 2


async def test_a_crash_inside_ends_the_body_and_shows(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a task of the agent ever die, the user must hear of it, and nothing is left behind."""
    leftovers = Leftovers()

    async def crash(_driver: Driver) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Driver, "run", crash)
    with pytest.raises(ZeroDivisionError):
        async with open_agent(config(), role=Role.CONTROLLING) as agent:
            await agent.receive()
    leftovers.check()


async def test_lite_agent_is_connected_by_its_peer(config: Any) -> None:
    """A server with a public address needs no checks of its own (RFC 8445 section 2.5)."""
    async with (
        open_agent(config(), role=Role.CONTROLLING) as full,
        open_agent(config(ice_lite=True), role=Role.CONTROLLED) as lite,
    ):
        lite.set_remote_credentials(full.credentials)
        full.set_remote_credentials(lite.credentials, lite=True)
        async for candidate in lite.local_candidates():
            full.add_remote_candidate(candidate)
        await full.wait_connected()
        await lite.wait_connected()
        await full.send(b"ping")
        assert await lite.receive() == b"ping"
        await lite.send(b"pong")
        assert await full.receive() == b"pong"
    with pytest.raises(LocalError, match="controlled"):
        async with open_agent(config(ice_lite=True), role=Role.CONTROLLING):
            pass
    with pytest.raises(LocalError, match="lite"):
        config(ice_lite=True, servers=[IceServer("stun:192.0.2.1")])
