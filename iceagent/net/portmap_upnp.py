"""UPnP IGD through miniupnpc, whose calls block: each runs in a thread that the caller may abandon.

The extra `upnp` installs it (`pip install iceagent[upnp]`); without it there is no UPnP, and nothing else is missing.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, TypeVar

import trio

from iceagent.core.address import TransportAddress, make_address
from iceagent.errors import NetworkError
from iceagent.net.tasks import PerRun

UPNP: Final = "upnp"
DESCRIPTION: Final = "iceagent"
NOT_INSTALLED: Final = "miniupnpc is not installed (pip install iceagent[upnp])"
MAX_CALLS: Final = 4  # ours: threads of the whole process that may wait for some gateway at once
PORT_ATTEMPTS: Final = 4  # ours: other external ports tried when ours is taken
_DISCOVERY_MS: Final = 1000
_PERMANENT_ONLY: Final = "OnlyPermanentLeasesSupported"
_TAKEN: Final = ("ConflictInMappingEntry", "ConflictsWithOtherMechanisms", "ConflictWithOtherMechanisms")

T = TypeVar("T")
_limiter: Final = PerRun("iceagent upnp", lambda: trio.CapacityLimiter(MAX_CALLS))


class UpnpError(NetworkError):
    """The gateway refuses, or there is none."""


def is_installed() -> bool:
    """Return whether the extra `upnp` is."""
    return find_spec("miniupnpc") is not None


class UpnpGateway:
    """A gateway that was found. One call at a time: miniupnpc's object knows no more.

    Args:
        handle: `miniupnpc.UPnP` after `selectigd`.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._lock = trio.Lock()
        self._ports: set[int] = set()
        self._is_released = threading.Event()

    async def external_host(self) -> str:
        """Return the gateway's external IPv4 address.

        Raises:
            UpnpError: it has none, or does not answer.
        """
        text = str(await self._call(self._handle.externalipaddress))
        try:
            address = make_address(text, 0)
        except ValueError:
            raise UpnpError("the gateway has no external address") from None
        if address.ip.is_unspecified:
            raise UpnpError("the gateway has no external address")
        return address.host

    async def map_port(
        self, internal: TransportAddress, *, lease_s: float, randbytes: Callable[[int], bytes], port: int = 0
    ) -> tuple[TransportAddress, float]:
        """Map a UDP port; return the external address and for how long, `inf` where the gateway knows no leases.

        Args:
            internal: what is to be reached.
            lease_s: seconds wished for.
            randbytes: for other ports where the one wished for is taken.
            port: the external port wished for; 0 for that of `internal`.

        Raises:
            UpnpError: the gateway refuses.
        """
        host = await self.external_host()
        wanted = port or internal.port
        for _ in range(PORT_ATTEMPTS):
            try:
                lease = await self._add(wanted, internal, lease_s)
            except UpnpError as error:
                if not any(reason in str(error) for reason in _TAKEN):
                    raise
                wanted = 49152 + int.from_bytes(randbytes(2), "big") % 16384
            else:
                return TransportAddress(host, wanted), lease
        raise UpnpError(f"the gateway has none of {PORT_ATTEMPTS} ports free")

    async def release(self) -> None:
        """Give back all ports; one that a thread left behind is still mapping is given back by that thread.

        Raises:
            UpnpError: the gateway refuses, or does not answer.
        """
        self._is_released.set()
        for port in list(self._ports):
            await in_thread(partial(self._delete, port))

    async def _add(self, port: int, internal: TransportAddress, lease_s: float) -> float:
        for seconds in (int(lease_s), 0):
            try:
                await self._call(partial(self._add_blocking, port, internal, seconds))
            except UpnpError as error:
                if seconds == 0 or _PERMANENT_ONLY not in str(error):
                    raise
            else:
                return float(seconds) or math.inf
        raise AssertionError("the second attempt returns or raises")

    def _add_blocking(self, port: int, internal: TransportAddress, seconds: int) -> None:
        self._handle.addportmapping(port, "UDP", internal.host, internal.port, DESCRIPTION, "", seconds)
        self._ports.add(port)
        if self._is_released.is_set():
            self._delete(port)

    def _delete(self, port: int) -> None:
        self._handle.deleteportmapping(port, "UDP")
        self._ports.discard(port)

    async def _call(self, function: Callable[[], T]) -> T:
        async with self._lock:
            return await in_thread(function)


async def find_upnp_gateway(host: str) -> UpnpGateway:
    """Return the gateway that answers on the network of a local IPv4 address; some seconds where none does.

    Raises:
        UpnpError: none does, or miniupnpc is not installed.
    """
    if not is_installed():
        raise UpnpError(NOT_INSTALLED)
    return UpnpGateway(await in_thread(lambda: _discover(host)))


def _discover(host: str) -> Any:
    handle = import_module("miniupnpc").UPnP(host, None, _DISCOVERY_MS, 0)
    if not handle.discover():
        raise UpnpError("no gateway answers")
    handle.selectigd()
    return handle


async def in_thread(function: Callable[[], T]) -> T:
    """Run a blocking call of miniupnpc, which raises plain `Exception`; on cancellation its thread is left behind.

    Raises:
        UpnpError: the call failed.
    """

    def guarded() -> T | UpnpError:
        try:
            return function()
        except UpnpError as error:
            return error
        except Exception as error:
            return UpnpError("no gateway answers" if str(error) in ("", "Success") else str(error))

    result = await trio.to_thread.run_sync(guarded, abandon_on_cancel=True, limiter=_limiter.get())
    if isinstance(result, UpnpError):
        raise result
    return result
