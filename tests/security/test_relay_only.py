"""Trap 4 with everything switched on that would send from this machine: nothing goes but to the TURN server."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from iceagent import vnet as virtual
from iceagent.agent import AgentConfig, CandidateType, IceServer, Role, open_agent
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.core.discovery.nat64 import WELL_KNOWN_PREFIX, synthesize
from iceagent.servers.turn import open_turn_server
from iceagent.servers.turn_options import TurnOptions

PEERS = (
    "candidate:1 1 udp 2122262783 198.51.100.7 4000 typ host",
    "candidate:2 1 udp 2122262783 1f4712db-ea17-4bcf-a596-105139dfd8bf.local 4000 typ host",
    "candidate:3 1 tcp 1518280447 198.51.100.7 4001 typ host tcptype passive",
    "candidate:4 1 tcp 1518280447 198.51.100.7 4002 typ host tcptype so",
    "candidate:5 1 udp 1694498815 198.51.100.8 40000 typ srflx raddr 0.0.0.0 rport 9 x-nat hard x-nat-round 0",
    "candidate:6 1 udp 2122262783 2001:db8:7::7 4000 typ host",
)


@pytest.mark.parametrize("family", [4, 6])
async def test_nothing_leaves_but_to_the_turn_server(vnet: Any, family: int) -> None:
    """No check, query, connection, or request to a gateway: behind a NAT64, and after the network has changed, too."""
    net = vnet(families=(4, 6))
    homes = [
        net.router(net.internet, nat64=virtual.PORT_RESTRICTED)
        if family == 6
        else net.router(net.internet, nat=virtual.SYMMETRIC, families=(4,))
        for _ in range(2)
    ]
    host, server = net.host(homes[0]), net.host(net.router(net.internet, families=(4,)))
    options = TurnOptions(
        listen=[TransportAddress(server.address, 3478)],
        tcp_listen=(),
        users={"user": "password"},
        allow_peers=["0.0.0.0/0"],
    )
    config = AgentConfig(
        servers=[IceServer(f"turn:{server.address}?transport=udp", username="user", credential="password")],
        network=host,
        randbytes=host.randbytes,
        transport_policy="relay",
        mdns="publish",
        tcp_candidates=True,
        hard_nat=True,
        port_mapping=True,
    )
    async with net, open_turn_server(options, network=server, randbytes=server.randbytes):
        async with open_agent(config, role=Role.CONTROLLING) as agent:
            told = await agent.wait_gathered()
            assert [candidate.type for candidate in told] == [CandidateType.RELAY]
            agent.set_remote_credentials(ice.Credentials("peer", "p" * 24))
            for text in PEERS:
                agent.add_remote_candidate(text)
            await trio.sleep(10)
            host.attach(homes[1])
            await trio.sleep(10)
            assert not agent._gatherer.bases
            assert set(agent._driver.sockets) <= {one.address for one in agent._driver.ice.local_candidates}
        sent = [entry.packet for entry in net.trace if (entry.place, entry.event) == (host.name, "send")]
    destinations = {packet.destination for packet in sent}
    assert len(destinations) == 1
    (only,) = destinations
    assert only.host in (server.address, synthesize(WELL_KNOWN_PREFIX, server.address))
    assert only.port == 3478
