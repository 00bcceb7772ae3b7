"""Where two sides meet again whose conversation at the relay has ended: a room of which only they know the name."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import icesignal
import trio

from iceagent.agent import AgentConfig
from iceagent.session.relay import is_proxied, keeping_up, open_client
from iceagent.session.within import virtual_network, way_on

STAY_S = 20.0
"""Ours: how long the inviter stays at one of several relays where nobody comes; the joiner a third of that, so that
it finds the inviter at each of them in turn."""
LOOK_S = 1.0  # for a relay on the other side's machine to refuse a connection


class Reunion:
    """How the two sides of one session meet again.

    Of several relays one is tried after the other, first the one where they have met before.

    Args:
        urls: of the relays, the one where they have met first.
        config: says how they are reached.
        rendezvous: the room, and our role in it.
        peers_relay: host and port of the relay if it is the other side's own, which ends with its program.
        moves_on: whether the joiner leaves the first conversation once the session is open: others wait there.
    """

    def __init__(
        self,
        urls: Sequence[str],
        config: AgentConfig | None,
        rendezvous: icesignal.Rendezvous,
        peers_relay: tuple[str, int] | None = None,
        *,
        moves_on: bool = False,
    ) -> None:
        self.moves_on = moves_on
        self._urls = list(urls)
        self._config = config
        self._rendezvous = rendezvous
        self._peers_relay = peers_relay

    @asynccontextmanager
    async def open(self) -> AsyncIterator[icesignal.SealedChannel]:
        """Enter the room and wait for the peer; yields when both have proved that they have the key.

        Raises:
            SignalError: the relay cannot be used now, or of several relays nobody came to this one.
        """
        url, has_met = self._urls[0], False
        stay_s = STAY_S if self._rendezvous.role == "inviter" else STAY_S / 3
        try:
            with trio.move_on_after(stay_s if len(self._urls) > 1 else math.inf) as scope:
                network = None if self._config is None else self._config.network
                async with (
                    open_client(url, self._config) as client,
                    keeping_up(client.look_again, network),
                    icesignal.open_rendezvous(client, self._rendezvous) as channel,
                ):
                    scope.deadline, has_met = math.inf, True
                    yield channel
            if scope.cancelled_caught:
                raise icesignal.PeerLeft("the other side did not come to this relay")
        finally:
            if not has_met:
                self._urls = [*self._urls[1:], url]

    async def has_peers_relay_ended(self) -> bool:
        """Return whether the relay was the other side's own, and its machine says that it is there no more.

        A machine that does not answer says nothing.
        """
        if self._peers_relay is None or is_proxied(*self._peers_relay, self._config):
            return False
        try:
            with trio.move_on_after(LOOK_S):
                network = virtual_network(self._config)
                dial = trio.open_tcp_stream if network is None else way_on(network)
                await (await dial(*self._peers_relay)).aclose()
        except OSError as error:
            if isinstance(error, ConnectionRefusedError):
                return True
            causes = error.__cause__.exceptions if isinstance(error.__cause__, ExceptionGroup) else (error.__cause__,)
            return all(isinstance(cause, ConnectionRefusedError) for cause in causes)
        return False
