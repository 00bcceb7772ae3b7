"""`--direct`: nothing goes through a relay, and it is told where only that would be possible; and waiting for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from fake_link import linked
from virtual_sessions import connected

from iceagent import vnet as virtual
from iceagent.agent import AgentConfig, IceServer, Role, open_agent
from iceagent.agent.explain import VerdictKind
from iceagent.agent.outlook import refuses_relays, wait_surely_direct
from iceagent.cli.connection import ConnectionOptions
from iceagent.cli.exits import Exit, exit_of
from iceagent.cli.ping import wait_direct
from iceagent.core.address import TransportAddress, make_address
from iceagent.errors import LocalError
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.session.errors import NoPath, NotDirect, SessionError
from iceagent.session.insisting import still_relayed
from iceagent.session.path import Path
from iceagent.session.session import Session
from iceagent.vnet import PORT_RESTRICTED


def leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    else:
        yield error


def failures(**options: Any) -> list[BaseException]:
    """Return why two sessions did not come about."""
    found: list[BaseException] = []

    async def main() -> None:
        try:
            async with connected(1, nat=virtual.SYMMETRIC, **options):
                raise AssertionError("they are connected")
        except* SessionError as group:
            found.extend(leaves(group))

    virtual.run(main, seed=1)
    return found


@pytest.mark.parametrize("insisting", [(0,), (1,), (0, 1)])
def test_who_insists_is_told_that_only_a_relayed_path_is_possible(insisting: tuple[int, ...]) -> None:
    """With the verdict and a remedy that is no relay; exit 7."""
    found = [one for one in failures(turn=True, insisting=insisting) if isinstance(one, NotDirect)]
    assert found
    for error in found:
        assert exit_of(error) is Exit.NOT_DIRECT
        assert error.verdict is not None
        assert error.verdict.kind is VerdictKind.PEER_NEVER_CHECKED  # as far as one server shows
        assert "only a relayed one is possible" in str(error)
        assert "leave out --direct" in str(error)
        assert "--hard-nat" in error.verdict.remedy
        assert "TURN" not in error.verdict.remedy


def test_where_no_relay_is_known_it_is_no_path() -> None:
    """That was not for want of `--direct` being left out; exit 5."""
    found = failures(insisting=(0, 1))
    assert found
    assert not any(isinstance(error, NotDirect) for error in found)
    assert any(isinstance(error, NoPath) and exit_of(error) is Exit.NO_PATH for error in found)


def test_who_insists_takes_a_direct_path_and_nothing_goes_through_the_relay() -> None:
    """Though the relay would have been there sooner."""

    async def main() -> None:
        async with connected(1, turn=True, insisting=(0,)) as lab:
            for session in lab.sessions:
                assert session.path is not None
                assert session.path.direct

    virtual.run(main, seed=1)


def test_a_path_that_stays_relayed_is_told_with_what_would_help() -> None:
    """`ping --until-direct` ends with 7."""

    async def main() -> None:
        async with connected(1, nat=virtual.SYMMETRIC, turn=True) as lab:
            session = lab.sessions[0]
            assert session.path is not None
            assert not session.path.direct
            with trio.move_on_after(30) as patience:
                await wait_direct(session)
            assert patience.cancelled_caught
            error = still_relayed(session, 30)
            assert exit_of(error) is Exit.NOT_DIRECT
            assert "relayed after 30 s (no direct path has answered, and nothing shows why)" in str(error)
            assert "--hard-nat" in str(error)
            assert error.verdict is not None
            assert error.verdict.kind is VerdictKind.RELAYED

    virtual.run(main, seed=1)


@pytest.mark.parametrize("is_told", [True, False])
async def test_nothing_is_sent_on_a_path_that_may_lead_to_the_peers_relay(vnet: Any, is_told: bool) -> None:
    """Its checks come before its candidate does, and look like those of any other address at first."""
    net = vnet()
    server = net.host(net.internet, name="turn.example")
    turn = TurnOptions(
        [TransportAddress(server.address, 3478)], users={"user": "password"}, allow_peers=["203.0.113.0/24"]
    )
    open_nat = replace(PORT_RESTRICTED, filtering="address-dependent")  # lets in what comes from the server's address
    hosts = [net.host(net.router(net.internet, nat=nat)) for nat in (open_nat, PORT_RESTRICTED)]
    servers = [IceServer("turn:turn.example?transport=udp", username="user", credential="password")]
    common = [{"servers": servers, "network": host, "randbytes": host.randbytes} for host in hosts]
    ours = AgentConfig(candidate_types=("host", "srflx", "prflx"), **common[0])
    async with (
        net,
        open_turn_server(turn, network=server, randbytes=server.randbytes),
        open_agent(ours, role=Role.CONTROLLED) as here,
        open_agent(AgentConfig(transport_policy="relay", **common[1]), role=Role.CONTROLLING) as there,
        trio.open_nursery() as nursery,
    ):
        here.set_remote_credentials(there.credentials)
        there.set_remote_credentials(here.credentials)
        async for candidate in here.local_candidates():
            there.add_remote_candidate(candidate)
        relayed = [candidate async for candidate in there.local_candidates()]
        await here.wait_connected()

        async def tell() -> None:
            await trio.sleep(1)
            for candidate in relayed:
                here.add_remote_candidate(candidate)

        if is_told:
            nursery.start_soon(tell)
            assert not await wait_surely_direct(here)
            assert refuses_relays(here)
        else:
            here.add_remote_candidate(None)
            began_at = trio.current_time()
            assert await wait_surely_direct(here)
            assert trio.current_time() - began_at < 1


def test_direct_is_of_no_use_with_relay_only() -> None:
    with pytest.raises(LocalError, match="exclude each other"):
        ConnectionOptions(direct=True, relay_only=True).config()
    config = ConnectionOptions(direct=True).config()
    assert config is not None
    assert config == replace(AgentConfig(), candidate_types=("host", "srflx", "prflx"), randbytes=config.randbytes)


async def test_waiting_for_a_direct_path_ends_with_it(autojump_clock: trio.testing.MockClock) -> None:
    """Relayed first, direct five seconds later: what `ping --until-direct` waits for."""
    here, there = make_address("192.0.2.1", 1), make_address("203.0.113.5", 2)
    present = [Path(False, "turn-udp", here, there, because="no reason")]
    session = Session(linked()[0], inviter=False, read_path=lambda: present[-1])

    async def become_direct() -> None:
        await trio.sleep(5)
        present.append(Path(True, "udp", here, there))
        session.notify_path_changed()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(become_direct)
        began_at = trio.current_time()
        await wait_direct(session)
        assert trio.current_time() - began_at == 5
