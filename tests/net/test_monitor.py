"""The monitor of network changes: who is told what, and that nothing is left of it."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from iceagent.net import SystemNetwork, monitor
from iceagent.net.api import InterfaceAddress
from iceagent.net.monitor import Change, open_monitor

FIRST = InterfaceAddress("eth0", "192.0.2.1", 24)
SECOND = InterfaceAddress("wlan0", "192.0.2.2", 24)


class Silent:
    """A network that has to be looked at."""

    def __init__(self):
        self.addresses = [FIRST]

    def interfaces(self):
        return list(self.addresses)


class Telling(Silent):
    """A network that says when it changes."""

    def __init__(self):
        super().__init__()
        self.changed = trio.Event()

    async def wait_changed(self):
        await self.changed.wait()
        self.changed = trio.Event()


async def test_address_is_noticed_by_looking_where_nobody_tells(autojump_clock):
    """macOS, Windows: within a second or so."""
    network = Silent()
    async with open_monitor(network) as changes:
        network.addresses.append(SECOND)
        with trio.fail_after(2 * monitor.POLL_S):
            assert await changes.wait() == {Change.ADDRESSES}
        with trio.move_on_after(60) as waiting:
            await changes.wait()
        assert waiting.cancelled_caught, "nothing changed again"


async def test_network_that_tells_is_believed_at_once(autojump_clock):
    """Every watcher of it hears the same; a change of nothing but routes is told apart."""
    network = Telling()
    async with open_monitor(network) as one, open_monitor(network) as other:
        await trio.testing.wait_all_tasks_blocked()
        network.addresses = [SECOND]
        network.changed.set()
        with trio.fail_after(0.01):
            assert await one.wait() == await other.wait() == {Change.ADDRESSES}
        network.changed.set()
        with trio.fail_after(0.01):
            assert await one.wait() == {Change.ROUTES}


async def test_sleep_of_the_machine_is_noticed_after_it(autojump_clock, monkeypatch):
    """The monotonic clock stands still meanwhile: no timer tells that NAT bindings are gone."""
    slept_s = 0.0
    monkeypatch.setattr(monitor, "_slept_s", lambda: slept_s)
    monkeypatch.setattr(monitor, "_open_netlink", lambda: None)
    async with open_monitor(SystemNetwork()) as changes:
        await trio.sleep(10)
        slept_s = 3600.0
        with trio.fail_after(60):
            assert await changes.wait() == {Change.WOKE}


async def test_last_watcher_ends_the_task():
    """Nothing is left of an agent when it is closed, netlink socket included."""
    before = trio.lowlevel.current_statistics().tasks_living
    network = SystemNetwork()
    async with open_monitor(network), open_monitor(network):
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before + 1
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="only Linux has netlink")
async def test_kernel_lets_us_listen():
    """Without permission or netlink the monitor falls back to looking; here it must not have to."""
    netlink = monitor._open_netlink()
    assert netlink is not None
    netlink.close()


async def test_a_change_before_the_kernel_is_listened_to_is_not_missed() -> None:
    """The task starts some time after the first look, on a busy machine a long one; no message tells what was then."""

    class JustChanged(SystemNetwork):
        looks = 0

        def interfaces(self) -> list[InterfaceAddress]:
            self.looks += 1
            return [InterfaceAddress("eth0", f"192.0.2.{min(self.looks, 2)}", 24)]

    async with open_monitor(JustChanged()) as monitor:
        assert Change.ADDRESSES in await monitor.wait()
