"""The default gateways of this host, which are asked for port mappings."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import trio
from msgspec import Struct

from iceagent.net.api import Network

MAX_GATEWAYS: Final = 8
LOOKUP_S: Final = 2.0  # for the command that lists routes, where there is no table to read

_ROUTE4: Final = Path("/proc/net/route")
_ROUTE6: Final = Path("/proc/net/ipv6_route")
_RTF_UP: Final = 0x1  # linux/route.h
_RTF_GATEWAY: Final = 0x2


class Gateway(Struct, frozen=True):
    """A default route: `host` is the next hop, with zone if link-local; `interface` the way to it."""

    host: str
    interface: str
    metric: int = 0

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.host else 4


@runtime_checkable
class KnowsGateways(Protocol):
    """A network that can say what its default gateways are."""

    async def gateways(self) -> list[Gateway]:
        """Return the default gateways, the preferred ones first."""
        ...


async def find_gateways(network: Network, family: int | None = None) -> list[Gateway]:
    """Return the default gateways of a network, preferred first; none where it does not know.

    Args:
        network: this machine's, or another that has a method `gateways`.
        family: 4, 6 or None for both.
    """
    found = await network.gateways() if isinstance(network, KnowsGateways) else []
    return [gateway for gateway in found if family in (None, gateway.family)][:MAX_GATEWAYS]


async def system_gateways() -> list[Gateway]:
    """Return this machine's default gateways: from the kernel's table, elsewhere than on Linux from a command's."""
    if sys.platform == "linux":
        await trio.lowlevel.checkpoint()
        return _ordered([*parse_route4(_read(_ROUTE4)), *parse_route6(_read(_ROUTE6))])
    command = ["route", "print", "0.0.0.0"] if sys.platform == "win32" else ["netstat", "-rn"]  # noqa: S104
    with trio.move_on_after(LOOKUP_S), contextlib.suppress(OSError, subprocess.SubprocessError):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        text = done.stdout.decode(errors="replace")
        return list(parse_route_print(text) if sys.platform == "win32" else parse_netstat(text))
    return []


def parse_route4(text: str) -> Iterator[Gateway]:
    """Read `/proc/net/route`: addresses are hexadecimal in the machine's byte order."""
    for fields in (line.split() for line in text.splitlines()[1:]):
        with contextlib.suppress(ValueError, IndexError, struct.error):
            name, destination, gateway, flags, metric, mask = (fields[at] for at in (0, 1, 2, 3, 6, 7))
            is_default = int(destination, 16) == 0 and int(mask, 16) == 0
            if is_default and int(flags, 16) & _RTF_UP and int(flags, 16) & _RTF_GATEWAY:
                host = socket.inet_ntoa(struct.pack("=I", int(gateway, 16)))
                yield Gateway(host, name, int(metric))


def parse_route6(text: str) -> Iterator[Gateway]:
    """Read `/proc/net/ipv6_route`: addresses are 32 hexadecimal digits."""
    for fields in (line.split() for line in text.splitlines()):
        with contextlib.suppress(ValueError, IndexError):
            destination, length, gateway, metric, flags, name = (fields[at] for at in (0, 1, 4, 5, 8, 9))
            is_default = int(destination, 16) == 0 and int(length, 16) == 0
            if is_default and int(flags, 16) & _RTF_UP and int(flags, 16) & _RTF_GATEWAY:
                host = ipaddress.IPv6Address(bytes.fromhex(gateway))
                zone = f"%{name}" if host.is_link_local else ""
                yield Gateway(f"{host}{zone}", name, int(metric, 16))


def parse_netstat(text: str) -> Iterator[Gateway]:
    """Read what `netstat -rn` of macOS and the BSDs prints; the preferred route of a family stands first."""
    for fields in (line.split() for line in text.splitlines()):
        if len(fields) >= 4 and fields[0] in ("default", "0.0.0.0/0", "::/0"):
            with contextlib.suppress(ValueError):
                yield Gateway(str(ipaddress.ip_address(fields[1])), fields[3])


def parse_route_print(text: str) -> Iterator[Gateway]:
    """Read what `route print` of Windows prints: destination, mask, gateway, interface, metric."""
    rows = (line.split() for line in text.splitlines())
    found = []
    for fields in rows:
        if len(fields) == 5 and fields[:2] == ["0.0.0.0", "0.0.0.0"]:  # noqa: S104 - to compare with
            with contextlib.suppress(ValueError):
                found.append(Gateway(str(ipaddress.ip_address(fields[2])), fields[3], int(fields[4])))
    yield from _ordered(found)


def _ordered(gateways: Iterable[Gateway]) -> list[Gateway]:
    return sorted(dict.fromkeys(gateways), key=lambda gateway: gateway.metric)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
