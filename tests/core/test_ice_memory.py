"""What is replaced or closed is gone: no session lives on in a table, a queue or the slots of the pacing."""

from __future__ import annotations

import gc
import weakref

from ice_harness import A4, B4, World, both, connected_pair

from iceagent.core import constants, ice
from iceagent.core.address import make_address
from iceagent.core.ice import AgentState, Role
from iceagent.core.ice.facts import SessionFacts
from iceagent.core.ice.streams import StreamSet


def sessions_of(one: ice.IceAgent) -> weakref.WeakSet[SessionFacts]:
    """The facts of its live sessions, which hold all else of them."""
    return weakref.WeakSet(session.facts for session in one._sessions.all())


def restart(world: World, a: ice.IceAgent, b: ice.IceAgent) -> None:
    """Restart both, and go on until the new sessions carry the data."""
    a.restart(world.now)
    world.host(a, A4)
    b.set_remote_credentials(world.now, a.credentials)
    world.host(b, B4)
    a.set_remote_credentials(world.now, b.credentials)
    for one, other in ((a, b), (b, a)):
        for candidate in other.local_candidates:
            world.signal(one, candidate)
    world.run_until(lambda: not (a.restarting or b.restarting), 20)
    assert both(a, b, AgentState.COMPLETED)


def test_trap_56_a_session_that_a_restart_has_replaced_is_gone_when_it_need_answer_no_more() -> None:
    """It lingers for 30 s; an agent that restarts every night for years must not grow."""
    world, a, b = connected_pair()
    known = [sessions_of(a), sessions_of(b)]
    for _ in range(3):
        restart(world, a, b)
    world.run(constants.RESTART_LINGER_S + 1)
    gc.collect()
    assert [len(one) for one in known] == [0, 0]
    assert [len(list(one._sessions.all())) for one in (a, b)] == [1, 1]


def test_trap_56_restarts_in_a_row_keep_a_few_sessions_at_most() -> None:
    """Whoever restarts all the time must not make the other side keep all of it."""
    world, a, b = connected_pair()
    seen = weakref.WeakSet(sessions_of(b))
    for _ in range(12):
        restart(world, a, b)
        seen |= sessions_of(b)
    gc.collect()
    assert len(seen) <= constants.MAX_RETIRED_SESSIONS + 1


def test_trap_56_a_restart_that_failed_leaves_nothing() -> None:
    """The old session goes on; of the other one not even the slot of its last check is kept."""
    world, a, b = connected_pair()
    a.restart(world.now)
    fresh = weakref.ref(a.current_facts())
    world.host(a, make_address("192.0.2.9", 9))
    a.set_remote_credentials(world.now, ice.Credentials("else", "e" * 24))
    a.add_remote_candidate(world.now, ice.host_candidate(make_address("203.0.113.9", 9)))
    a.end_of_local_candidates(world.now)
    a.add_remote_candidate(world.now, None)
    world.drain(a)
    world.run_until(lambda: bool(world.of_kind(a, ice.RestartFailed)), 60)
    gc.collect()
    assert fresh() is None
    assert both(a, b, AgentState.COMPLETED)


def test_trap_56_a_closed_agent_keeps_no_session_but_the_last() -> None:
    """That one tells `explain()` what there was; the retired ones, and all when the agent is dropped, are gone."""
    world, a, b = connected_pair()
    restart(world, a, b)
    known = sessions_of(a)
    assert len(known) == 2
    a.close(world.now)
    gc.collect()
    assert len(known) == 1
    assert a.next_timeout() is None
    last = weakref.ref(a.current_facts())
    del a, b, world
    gc.collect()
    assert last() is None


def test_a_component_that_is_given_up_keeps_no_base() -> None:
    """Its sockets are closed, and others may get their ports."""
    one = StreamSet(role=Role.CONTROLLING, layout=(2,), randbytes=bytes)
    for component in (1, 2):
        one.add_local_candidate(0.0, ice.host_candidate(make_address("192.0.2.1", 1000 + component), 1, component))
    assert len(one._bases) == 2
    one.give_up(0.0, 0, 2)
    assert len(one._bases) == 1
    one.close(0.0)
    assert not one._bases
