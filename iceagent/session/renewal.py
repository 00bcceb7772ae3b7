"""Renews the credentials of a session that lasts longer than they do, while its relay can be reached.

Their time to live (`ttl`) is counted from their arrival, since the clocks of two machines may differ. A machine that
has slept may be late, and a server may expire them sooner: then it refuses them, which is noticed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import icesignal
import trio

from iceagent.agent.renewal import report_not_renewed, wait_refused
from iceagent.errors import LocalError
from iceagent.net.tasks import open_background

if TYPE_CHECKING:
    from iceagent.agent import Agent, IceServer

BEFORE_S = 600.0  # ours: so long before the end of the credentials others are asked for, at half of their time at most
YOUNG_S = 60.0  # ours: refused so soon, others would be, too; as long as a refused relay is not asked again

_log = logging.getLogger(__name__)

ServersOf = Callable[[Sequence[Mapping[str, Any]]], "Sequence[IceServer]"]


class Renewal:
    """Keeps the ICE servers of one session's agent fresh.

    Args:
        agent: gets them.
        channel: leads to the relay, which names them.
        servers_of: returns all of the agent's servers, given what the relay names.
    """

    def __init__(self, agent: Agent, channel: icesignal.SealedChannel, servers_of: ServersOf) -> None:
        self._agent = agent
        self._channel = channel
        self._servers_of = servers_of
        self._known = channel.ice_servers
        self._given_at = trio.current_time()

    async def run(self) -> None:
        """Renew until the conversation at the relay is over; that is reported once, when others would be needed."""
        async with open_background() as nursery:
            nursery.start_soon(self._follow)
            try:
                while True:
                    await self._wait_needed()
                    await self._take(await self._channel.renew_ice_servers())
            except icesignal.SignalError as error:
                _log.info("no fresh credentials for TURN servers: %s", error)
                report_not_renewed(self._agent, str(error))
            except trio.ClosedResourceError:
                pass  # the agent was closed meanwhile

    async def _follow(self) -> None:
        """Take what the relay sends unasked, as it does each time its connection has been lost and is back."""
        while True:
            try:
                await self._take(await self._channel.wait_ice_servers(self._known))
            except (icesignal.SignalError, trio.ClosedResourceError):
                await trio.sleep_forever()

    async def _take(self, entries: list[dict[str, Any]]) -> None:
        await trio.lowlevel.checkpoint()
        self._given_at = trio.current_time()
        if entries == self._known:
            return
        self._known = entries
        try:
            self._agent.set_servers(self._servers_of(entries))
        except LocalError as error:  # such as a relay that has no TURN server any more; the present ones stay in use
            _log.warning("what the relay names now cannot be used: %s", error)

    async def _wait_needed(self) -> None:
        """Wait until the credentials are about to end, or a server has refused them although they are not new."""
        while True:
            given_at = self._given_at
            with trio.move_on_at(self._ends_at()):
                await wait_refused(self._agent, self._urls(), given_at + YOUNG_S)
                return
            if trio.current_time() >= self._ends_at():  # else others have come meanwhile
                return

    def _urls(self) -> frozenset[str]:
        return frozenset(url for entry in self._known if entry.get("credential") for url in entry["urls"])

    def _ends_at(self) -> float:
        ttl_s = min((entry["ttl"] for entry in self._known if entry.get("ttl")), default=inf)
        return self._given_at + max(ttl_s - BEFORE_S, ttl_s / 2, YOUNG_S)
