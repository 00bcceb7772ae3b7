"""The path as users see it: one line, and never a mystery why."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import trio

from iceagent.agent import AgentConfig, CandidateType, IceServer, Role, open_agent
from iceagent.agent.config import TransportPolicy
from iceagent.core.address import TransportAddress, make_address
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions
from iceagent.session.establish import _follow_path
from iceagent.session.path import Path, path_of
from iceagent.vnet import PORT_RESTRICTED

HERE, THERE = make_address("192.0.2.1", 1000), make_address("203.0.113.5", 41000)


def test_a_direct_path_is_its_address_and_round_trip() -> None:
    """What there is to know of it, and no more."""
    assert str(Path(True, "udp", HERE, THERE, 0.0181)) == "direct udp 203.0.113.5:41000 rtt 18 ms"


def test_a_relayed_path_says_why() -> None:
    """It is slow and I cannot see why: that is what users of other tools complain about."""
    path = Path(False, "turn-udp", HERE, THERE, None, because="both NATs map per destination")
    assert str(path) == "relayed turn-udp 203.0.113.5:41000 (both NATs map per destination)"


def test_a_new_round_trip_or_reason_is_no_new_route() -> None:
    """Otherwise the line would be printed again and again."""
    path = Path(False, "turn-udp", HERE, THERE, 0.01, because="one reason")
    assert Path(False, "turn-udp", HERE, THERE, 0.02, because="another").same_route(path)


class _Follower:
    """A session, or a link, as far as changes of the path are concerned."""

    def __init__(self, agent) -> None:
        self.shown: list[bool] = []
        self._agent = agent

    def notify_path_changed(self) -> None:
        path = path_of(self._agent)
        assert path is not None
        self.shown.append(path.direct)


async def test_a_path_to_the_peers_relay_is_said_to_be_one_once_its_candidate_comes(vnet):
    """Its checks come over UDP, its candidate over the signaling relay: until then it looks direct, and no longer."""
    net = vnet()
    server = net.host(net.internet, name="turn.example")
    turn = TurnOptions(
        [TransportAddress(server.address, 3478)], users={"user": "password"}, allow_peers=["203.0.113.0/24"]
    )
    open_nat = replace(PORT_RESTRICTED, filtering="address-dependent")  # lets in what comes from the server's address
    hosts = [net.host(net.router(net.internet, nat=nat)) for nat in (open_nat, PORT_RESTRICTED)]
    servers = [IceServer("turn:turn.example?transport=udp", username="user", credential="password")]
    policies: tuple[TransportPolicy, ...] = ("all", "relay")
    configs = [
        AgentConfig(servers=servers, network=host, randbytes=host.randbytes, transport_policy=policy)
        for host, policy in zip(hosts, policies, strict=True)
    ]
    async with net, AsyncExitStack() as stack:
        await stack.enter_async_context(open_turn_server(turn, network=server, randbytes=server.randbytes))
        here = await stack.enter_async_context(open_agent(configs[0], role=Role.CONTROLLED))
        there = await stack.enter_async_context(open_agent(configs[1], role=Role.CONTROLLING))
        nursery = await stack.enter_async_context(trio.open_nursery())
        here.set_remote_credentials(there.credentials)
        there.set_remote_credentials(here.credentials)
        async for candidate in here.local_candidates():
            if candidate.type is not CandidateType.RELAY:
                there.add_remote_candidate(candidate)
        relayed = [candidate async for candidate in there.local_candidates()]
        await here.wait_connected()
        path = path_of(here)
        assert path is not None
        assert path.direct  # as far as anybody can know
        follower = _Follower(here)
        played: Any = follower  # a link and a session
        nursery.start_soon(_follow_path, here, played, played)
        await trio.sleep(1)
        follower.shown.clear()
        for candidate in relayed:
            here.add_remote_candidate(candidate)
        await trio.sleep(1)
        assert "lost" not in (here.relayed_because or "")  # there was no direct path that could have been
        nursery.cancel_scope.cancel()
    assert follower.shown == [False]
