"""`iceagent ping`: how long there and back takes, and on which path."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from math import inf

import click
import trio
from icesignal.seconds import Seconds
from msgspec import structs

from iceagent.cli.connection import ConnectionOptions, connection_options
from iceagent.cli.options import Common, code_argument, output_options, relay_option, timeout_option
from iceagent.cli.output import Output
from iceagent.cli.peer_options import JoinWish, verification, verify_option
from iceagent.cli.progress import follow_paths, shown_progress
from iceagent.cli.run import run_verb
from iceagent.cli.timeline import kept_timeline, timeline_option
from iceagent.errors import NetworkError
from iceagent.net.tasks import open_background
from iceagent.session.path import format_ms
from iceagent.session.ping import Pinger, open_pinger
from iceagent.session.session import Session

INTERVAL_S = 1.0
SHORTEST_S = 0.1  # the other side answers 20 a second
MAX_KEPT = 10_000  # round trips from which the median is taken: the last ones
LOST_S = 2.0  # no answer for so long: lost
DIRECT_S = 30.0  # ours: for a direct path to come; hard NATs take up to 20

_EXAMPLE = """
Example:  there$ iceagent listen --allow any
          here$  iceagent ping --until-direct 7-guitar-ozone
"""


@dataclass(frozen=True, slots=True)
class _PingWish:
    count: int | None
    interval_s: float
    until_direct: bool
    direct_s: float


@click.command("ping", epilog=_EXAMPLE)
@code_argument
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many; without, at Ctrl-C.")
@click.option(
    "--interval",
    "interval_s",
    type=Seconds(min=SHORTEST_S),
    default=INTERVAL_S,
    metavar="SECONDS",
    help="From one to the next; 1.",
)
@click.option("--until-direct", is_flag=True, help="End with 0 once the path is direct, with 7 if it does not get so.")
@timeout_option("With a name: give up if the peer does not come. With --until-direct: wait so long, not 30 s.")
@verify_option
@relay_option
@connection_options
@timeline_option
@output_options
def command(
    code: str,
    count: int | None,
    interval_s: float,
    until_direct: bool,
    timeout_s: float | None,
    verify: bool,
    relay: Sequence[str],
    connection: ConnectionOptions,
    timeline: str | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> int:
    """Measure the way to the other side, and see whether it is direct.

    CODE is what `iceagent listen` printed there, or the name of a paired peer, which runs `iceagent listen --name`.
    """
    output = Common(as_json, quiet, verbose).open_output()
    join = JoinWish(code, relay, verification(output, wanted=verify), timeout_s)
    wish = _PingWish(count, interval_s, until_direct, DIRECT_S if timeout_s is None else timeout_s)
    return run_verb(lambda: _ping(join, wish, connection, timeline, output), output, has_peer=True)


async def _ping(
    join: JoinWish, wish: _PingWish, connection: ConnectionOptions, timeline: str | None, output: Output
) -> None:
    join.check()
    with kept_timeline(timeline) as kept:
        config = connection.config()
        async with (
            shown_progress(output, kept) as progress,
            join.join(config, progress) as link,
            open_background() as nursery,
        ):
            await nursery.start(lambda task_status: follow_paths(link, output, task_status=task_status))
            async with open_pinger(link) as pinger:
                pings = _Pings(link, pinger, output)
                try:
                    await _measure(link, pings, wish)
                finally:
                    pings.sum_up()
                pings.check()


async def _measure(session: Session, pings: _Pings, wish: _PingWish) -> None:
    """Ping until all is done that was wished."""
    async with open_background() as nursery:
        if not wish.until_direct:
            nursery.start_soon(session.wait_closed)
            await pings.run(wish.count, wish.interval_s)
            return
        nursery.start_soon(pings.run, wish.count, wish.interval_s)
        with trio.move_on_after(wish.direct_s) as patience:
            await pings.first_done.wait()
            await wait_direct(session)
        if patience.cancelled_caught:
            from iceagent.session.insisting import still_relayed

            raise still_relayed(session, wish.direct_s)


async def wait_direct(session: Session) -> None:
    """Wait until the session's path is direct.

    Raises:
        PeerLost, PeerLeft: the session ends before.
    """
    async with open_background() as nursery:
        nursery.start_soon(session.wait_closed)
        async for path in session.paths():
            if path.direct:
                return


class _Pings:
    """What was sent, what came back, and how long that took."""

    def __init__(self, session: Session, pinger: Pinger, output: Output) -> None:
        self.first_done = trio.Event()
        self._session = session
        self._pinger = pinger
        self._output = output
        self._sent = self._answered = 0
        self._shortest_s, self._longest_s = inf, 0.0
        self._last_s: deque[float] = deque(maxlen=MAX_KEPT)

    async def run(self, number: int | None, interval_s: float) -> None:
        """Send so many, one each `interval_s`."""
        for index in count(1) if number is None else range(1, number + 1):
            next_at = trio.current_time() + interval_s
            self._sent += 1
            self._take(index, await self._pinger.ping(LOST_S))
            self.first_done.set()
            if index != number:
                await trio.sleep_until(next_at)

    def _take(self, index: int, rtt_s: float | None) -> None:
        if rtt_s is not None:
            self._answered += 1
            self._last_s.append(rtt_s)
            self._shortest_s, self._longest_s = min(self._shortest_s, rtt_s), max(self._longest_s, rtt_s)
        path = self._session.path
        took = "no answer" if rtt_s is None else f"rtt {format_ms(rtt_s)} ms"
        way = "no path" if path is None else str(structs.replace(path, rtt_s=None))
        self._output.line(
            "ping",
            f"{index}: {took}, {way}",
            number=index,
            rtt_ms=_ms(rtt_s),
            direct=None if path is None else path.direct,
            path=None if path is None else way,
        )

    def sum_up(self) -> None:
        """Print how it was."""
        lost = self._sent - self._answered
        percent = 100 * lost / self._sent if self._sent else 0.0
        shortest, middle, longest = (
            (self._shortest_s, statistics.median(self._last_s), self._longest_s) if self._answered else (None,) * 3
        )
        text = f"{self._sent} sent, {self._answered} answered, {percent:.0f} % lost"
        if shortest is not None and middle is not None and longest is not None:
            text += f"; rtt min/median/max {format_ms(shortest)}/{format_ms(middle)}/{format_ms(longest)} ms"
        self._output.line(
            "pings",
            text,
            essential=True,
            sent=self._sent,
            answered=self._answered,
            lost=lost,
            min_ms=_ms(shortest),
            median_ms=_ms(middle),
            max_ms=_ms(longest),
        )

    def check(self) -> None:
        """Refuse to call it well if none came back.

        Raises:
            NetworkError: so it is.
        """
        if self._sent and not self._answered:
            raise NetworkError(
                f"none of {self._sent} pings was answered; the path has gone silent, or loses everything: see "
                "`iceagent status`, and try again"
            )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
