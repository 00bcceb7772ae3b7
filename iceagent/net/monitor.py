"""Changes of the network while the program runs: addresses, routes, and waking up from sleep.

On Linux the kernel reports changes (netlink), and so does the virtual network; elsewhere addresses are read every
second. All watchers of one network share one task, which ends with the last of them.
"""

from __future__ import annotations

import errno
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Final, Protocol, runtime_checkable

import trio

from iceagent.net.api import InterfaceAddress, RealHost
from iceagent.net.tasks import PerRun, contained

logger = logging.getLogger("iceagent.net")

POLL_S: Final = 1.0  # ours: where the system reports no changes
MAX_PAUSE_S: Final = 60.0  # ours: before the watch begins again when it has failed over and over
JUMP_CHECK_S: Final = 2.0  # ours: how soon after waking up we notice
JUMP_S: Final = 5.0  # ours: a shorter sleep outlives every NAT binding and all consent
DEBOUNCE_S: Final = 0.05  # ours: an interface that comes up is reported in several messages

# linux/rtnetlink.h: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_MAX_MESSAGE: Final = 65536


class Change(Enum):
    """What happened.

    ADDRESSES: an address of this host came or went. ROUTES: only the routes changed. WOKE: the machine has slept.
    """

    ADDRESSES = "addresses"
    ROUTES = "routes"
    WOKE = "woke"


class ChangeMonitor:
    """One watcher's view of the changes. Made by `open_monitor`.

    Attributes:
        slept_s: how long the machine slept before it last woke, seconds.
    """

    def __init__(self) -> None:
        self.slept_s = 0.0
        self._changes: set[Change] = set()
        self._event = trio.Event()

    def notify(self, change: Change) -> None:
        """Let the watcher know."""
        self._changes.add(change)
        self._event.set()

    async def wait(self) -> frozenset[Change]:
        """Wait until something has changed since the last call; return what. Nothing is missed in between."""
        await self._event.wait()
        changes = frozenset(self._changes)
        self._changes.clear()
        self._event = trio.Event()
        return changes


class HasInterfaces(Protocol):
    """A network, as far as it is watched: all have that, and some can do what `ReportsChanges` and `RealHost` say."""

    def interfaces(self) -> list[InterfaceAddress]:
        """Return the addresses of all interfaces that are up."""
        ...


@runtime_checkable
class ReportsChanges(Protocol):
    """A network that can say when it has changed, as the virtual one."""

    async def wait_changed(self) -> None:
        """Wait until an address or an interface has changed."""
        ...


class _Watch:
    """The task that looks at one network, and whom it notifies."""

    def __init__(self, network: HasInterfaces) -> None:
        self.monitors: list[ChangeMonitor] = []
        self.scope = trio.CancelScope()
        self._network = network
        self._is_blind = False
        self._addresses: frozenset[InterfaceAddress] = frozenset(self._interfaces() or ())
        self._slept_s = _slept_s()

    async def run(self) -> None:
        """Watch until `scope` is cancelled. This is a system task: what it raised would end the whole program."""
        with self.scope:
            pause_s = POLL_S
            while True:
                with contained("watching the network for changes"):
                    await self._watch()
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _watch(self) -> None:
        if isinstance(self._network, ReportsChanges):
            await self._ask(self._network)
        netlink = _open_netlink() if isinstance(self._network, RealHost) else None
        if netlink is None:
            await self._poll()
        else:
            with netlink:
                await self._listen(netlink)

    async def _ask(self, network: ReportsChanges) -> None:
        while True:
            self._look()
            await network.wait_changed()
            if not self._look():
                self._notify(Change.ROUTES)

    async def _poll(self) -> None:
        is_real = isinstance(self._network, RealHost)
        while True:
            await trio.sleep(POLL_S)
            self._look()
            if is_real:
                self._check_sleep()

    async def _listen(self, netlink: trio.socket.SocketType) -> None:
        self._look()  # no message reports what changed before we listened
        while True:
            changed = False
            try:
                with trio.move_on_after(JUMP_CHECK_S):
                    await netlink.recv(_MAX_MESSAGE)
                    changed = True
                    with trio.move_on_after(DEBOUNCE_S):
                        while True:
                            await netlink.recv(_MAX_MESSAGE)
            except OSError as error:  # ENOBUFS: messages were lost; reading the addresses shows all
                changed = True
                if error.errno != errno.ENOBUFS:
                    logger.debug("the kernel reports no changes any more: %s", error)
                    self._look()
                    return
            self._check_sleep()
            was_blind = self._is_blind
            if (changed or was_blind) and not self._look() and changed:
                self._notify(Change.ROUTES)

    def _interfaces(self) -> list[InterfaceAddress] | None:
        """Return the addresses there are; None while nothing can be said of them, as without descriptors left."""
        try:
            return self._network.interfaces()
        except OSError as error:
            logger.warning("the addresses of this machine cannot be listed now: %s", error)
            return None

    def _look(self) -> bool:
        """Look for changes of the addresses and report them; return whether there were any, or may be."""
        entries = self._interfaces()
        self._is_blind = entries is None
        addresses = self._addresses if entries is None else frozenset(entries)
        if addresses == self._addresses:
            return False
        self._addresses = addresses
        self._notify(Change.ADDRESSES)
        return True

    def _check_sleep(self) -> None:
        slept_s = _slept_s()
        if slept_s - self._slept_s > JUMP_S:
            for monitor in self.monitors:
                monitor.slept_s = slept_s - self._slept_s
            self._notify(Change.WOKE)
        self._slept_s = slept_s

    def _notify(self, change: Change) -> None:
        for monitor in self.monitors:
            monitor.notify(change)


_watches: Final = PerRun[dict[int, _Watch]]("iceagent.net.monitor", dict)


@asynccontextmanager
async def open_monitor(network: HasInterfaces) -> AsyncIterator[ChangeMonitor]:
    """Watch a network; what changes while the body runs is reported by `ChangeMonitor.wait`."""
    watches = _watches.get()
    key = 0 if isinstance(network, RealHost) else id(network)
    watch = watches.get(key)
    if watch is None:
        watch = watches[key] = _Watch(network)
        trio.lowlevel.spawn_system_task(watch.run, name="iceagent.net.monitor")
    monitor = ChangeMonitor()
    watch.monitors.append(monitor)
    try:
        yield monitor
    finally:
        watch.monitors.remove(monitor)
        if not watch.monitors:
            watch.scope.cancel()
            del watches[key]


def _open_netlink() -> trio.socket.SocketType | None:
    """Return a socket to which the kernel reports changes, or None where there is none."""
    if sys.platform != "linux":
        return None
    try:
        raw = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except OSError:
        return None
    try:
        raw.bind((0, _GROUPS))
    except OSError:
        raw.close()
        return None
    return trio.socket.from_stdlib_socket(raw)


def _slept_s() -> float:
    """Return how far the clock that counts sleep is ahead of the one that does not; only its changes mean anything."""
    ahead: float
    if sys.platform == "linux":
        ahead = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    else:  # a clock that somebody sets looks like sleep, too: that costs a restart, and nothing else
        ahead = time.time() - time.monotonic()
    return ahead
