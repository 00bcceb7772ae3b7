"""How a server lives: it says that it serves, reads its certificates again, drains, and ends."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence

import trio

from icesignal.systemd import Notifier

DRAIN_S = 5.0  # ours: those who come back in that time are a twentieth of all, each quarter of a second
HANGUP: tuple[int, ...] = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()


async def serve_until_signal(
    signals: Sequence[int],
    notifier: Notifier,
    *,
    announce: Callable[[], object],
    reload: Callable[[], object],
    drain: Callable[[], Awaitable[object]],
) -> int:
    """Wait while a server serves; return the signal that ended it.

    SIGHUP reloads, while it drains, too, since clients are still there. SIGTERM drains and then ends; a second one, or
    any other signal, ends at once.

    Args:
        signals: those to heed beside SIGTERM and SIGHUP.
        notifier: the service manager.
        announce: called when signals are heeded: whoever waits for its line may send one at once.
        reload: reads again what can be; must not raise.
        drain: returns when nothing is left to wait for.
    """
    ended_by = signal.SIGTERM
    with trio.open_signal_receiver(signal.SIGTERM, *HANGUP, *signals) as received:
        announce()
        notifier.ready("serving")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notifier.run_watchdog)
            is_draining = False
            async for number in received:
                if number in HANGUP:
                    if not is_draining:  # what has said that it ends is not ready again
                        notifier.reloading()
                    reload()
                    if not is_draining:
                        notifier.ready("serving")
                elif number == signal.SIGTERM and not is_draining:
                    is_draining = True
                    notifier.stopping("draining")
                    nursery.start_soon(_end_after, drain, nursery.cancel_scope)
                else:
                    ended_by = signal.Signals(number)
                    nursery.cancel_scope.cancel()
    return ended_by


async def _end_after(drain: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
    await drain()
    scope.cancel()


def at(host: str, port: int) -> str:
    """Return an address as it stands in URLs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
