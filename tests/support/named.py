"""This machine's network with names of its own: several addresses under one name, some of them dead."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

import trio

from iceagent.core.address import TransportAddress, make_address
from iceagent.net import SystemNetwork


class Named(SystemNetwork):
    """Resolves `names` from a table; literals as ever."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.names = names

    async def resolve(self, host: str, port: int, *, family: int | None = None) -> list[TransportAddress]:
        """Return the table's addresses, in its order."""
        if host not in self.names:
            return await super().resolve(host, port, family=family)
        await trio.lowlevel.checkpoint()
        found = [make_address(one, port) for one in self.names[host]]
        found = [one for one in found if family in (None, one.family)]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, f"{host} has no such address")
        return found
