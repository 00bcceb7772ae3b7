"""What a service manager hands over and wants to hear: sockets that are listening already, READY, STOPPING, a watchdog.

Without a manager all of it is nothing, and costs nothing. Source: sd_listen_fds(3), sd_notify(3), systemd.service(5).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import trio

FIRST_DESCRIPTOR = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START
MAX_SOCKETS = 64  # ours: a relay has one for each address that it listens at, an operator another
RELAY, ADMIN = "relay", "admin"  # FileDescriptorName= of a socket unit


class HandedOver(ValueError):
    """The sockets of the service manager cannot be used; the sentence says why."""


def take_sockets(environ: Mapping[str, str], first: int = FIRST_DESCRIPTOR) -> dict[str, list[socket.socket]]:
    """Return the listening sockets that this process was started with, by what they are for.

    Args:
        environ: of the process.
        first: the first descriptor.
    Returns:
        For `relay` (also of a unit that names its sockets not at all) and `admin`, where there are any.
    Raises:
        HandedOver: one of them is for something else, or does not listen for TCP; or there are none where it says.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = environ.get("LISTEN_FDS", "0")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {}
    if len(count) > len(str(MAX_SOCKETS)) or not count.isdecimal() or int(count) > MAX_SOCKETS:
        raise HandedOver(f"LISTEN_FDS is not a number of sockets up to {MAX_SOCKETS}; start it by its socket unit")
    for number in range(int(count)):
        name = names[number] if number < len(names) else ""
        use = RELAY if not name or name == "unknown" or name.endswith(".socket") else name
        if use not in (RELAY, ADMIN):
            raise HandedOver(f"a socket of the service manager is named {use!r}; FileDescriptorName= is relay or admin")
        found.setdefault(use, []).append(_listening(first + number, use))
    return found


def _listening(descriptor: int, use: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError:
        raise HandedOver(
            f"descriptor {descriptor}, which the service manager hands over as {use}, is no socket"
        ) from None
    is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    if not is_tcp or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise HandedOver(f"the socket that the service manager hands over as {use} is not one of ListenStream= for TCP")
    return sock


@dataclass(frozen=True, slots=True)
class Notifier:
    """Informs the service manager.

    Attributes:
        address: where; None: there is nobody.
        watchdog_s: within how many seconds it wants a sign of life; None: never.
    """

    address: str | None = None
    watchdog_s: float | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Notifier:
        """Return what the environment of the process says."""
        address = environ.get("NOTIFY_SOCKET") or None
        microseconds = environ.get("WATCHDOG_USEC", "")
        is_meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        has_watchdog = is_meant and microseconds.isdecimal() and int(microseconds) > 0
        return cls(address, int(microseconds) / 1e6 if has_watchdog else None)

    def ready(self, status: str) -> None:
        """Report that it serves, after the start or a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Report that the configuration is being read again."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """Report that it ends."""
        self._send("STOPPING=1", f"STATUS={status}")

    async def run_watchdog(self) -> None:
        """Give signs of life, twice as often as is wanted: a task of the loop that serves, so that they end with it."""
        while self.watchdog_s is not None:
            self._send("WATCHDOG=1")
            await trio.sleep(self.watchdog_s / 2)

    def _send(self, *lines: str) -> None:
        if self.address is None:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)  # a manager that does not read must not stop the relay
            sock.sendto("\n".join(lines).encode(), address)
