"""What a relay keeps of those who were there: tables with bounds, and after a while nothing."""

from __future__ import annotations

import gc
import tracemalloc
from secrets import token_bytes

from icesignal import wire
from icesignal.nameplates import Nameplates
from icesignal.rooms import RoomLimits, RoomTable
from icesignal.sources import Limits, SourceTable
from icesignal.wire import CloseReason

LIMITS = RoomLimits(nameplate_rest_s=60.0, resume_s=60.0, log_s=60.0)
CYCLE_S = 1.0


def meet_and_part(table: RoomTable, number: int, reason: CloseReason | None) -> None:
    """Have two meet, talk and part at second `number`; with no reason both just vanish."""
    now, inviter, joiner = number * CYCLE_S, 2 * number, 2 * number + 1
    levels = ((f"source {number}", 1.0), (f"network {number}", 2.0))
    table.handle_frame(now, inviter, wire.Allocate(session=token_bytes(16)), levels)
    frames = [output.frame for output in iter(table.poll_output, None)]
    room = next(frame for frame in frames if isinstance(frame, wire.Joined)).room
    table.handle_frame(now, joiner, wire.Join(session=token_bytes(16), nameplate=room), levels)
    for at in range(1, 4):
        for connection in (inviter, joiner):
            table.handle_frame(now, connection, wire.Send(client_seq=at, payload=token_bytes(100)))
    if reason is None:
        table.handle_disconnect(now, inviter)
    else:
        table.handle_frame(now, inviter, wire.Close(reason=reason))
    table.handle_disconnect(now, joiner)
    table.handle_timeout(now)
    while table.poll_output() is not None:
        pass


def kept() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_trap_56_a_relay_keeps_nothing_of_who_has_left() -> None:
    """A relay lives for months: what a room leaves behind has gone when its nameplate has rested."""
    table = RoomTable(randbytes=token_bytes, limits=LIMITS)
    reasons: list[CloseReason | None] = ["done", "left", "code-wrong", None]
    tracemalloc.start()
    try:
        for number in range(400):
            meet_and_part(table, number, reasons[number % 4])
        first = kept()
        for number in range(400, 1_200):
            meet_and_part(table, number, reasons[number % 4])
        grown = kept() - first
    finally:
        tracemalloc.stop()
    assert grown / 800 < 20, "bytes for each"
    for later in (10_000.0, 20_000.0):  # those who vanished are given up, then their nameplates rest
        table.handle_timeout(later)
        while table.poll_output() is not None:
            pass
    assert (table.room_count, table.session_count, table.log_bytes) == (0, 0, 0)
    assert table.next_timeout() is None, "nothing is waited for"


def test_trap_56_resting_nameplates_and_sources_have_a_bound() -> None:
    """Also while more come than rest: the longest-resting one is let go, the longest-silent one forgotten."""
    plates = Nameplates(token_bytes, rest_s=600.0, max_resting=50)
    for _ in range(500):
        plates.rest(0.0, plates.take(0.0))
    assert sum(plates.is_resting(str(number)) for number in range(1, 100_000)) <= 50
    table = SourceTable(Limits(max_sources=50))
    for number in range(500):
        table.party(float(number), f"192.0.{number % 250}.{number // 250}")
    assert len(table) <= 50
