"""How a version of a room that is stored follows from one that a node has: a store can lose what it had. Pure.

A store that is started again may have lost the last it was told, or all of it (docs/relay-protocol.md section 4). A
node that has a newer version then stores that again. Only where another node has gone on from the older one is
something lost; what was said tells these cases apart.
"""

from __future__ import annotations

import enum

from icesignal.engines.shared.state import RoomState, count_of
from icesignal.room import LogEntry


class Lineage(enum.Enum):
    """What is stored, beside what a node has."""

    SAME = "the same"
    NEWER = "follows from it"
    FALLEN_BACK = "was before it"
    FORKED = "follows from what was before it"


def lineage(known: RoomState, stored: RoomState) -> Lineage:
    """Return how what is stored follows from what is known."""
    if stored.version == known.version:
        return Lineage.SAME
    if known.founding is None:
        return Lineage.NEWER
    is_less = count_of(stored.version) < count_of(known.version)
    if not stored.version or (is_less and stored.founding is None and not _has_ended(known, stored)):
        return Lineage.FALLEN_BACK
    if stored.founding != known.founding:
        return Lineage.NEWER  # another room has its key, or it has ended
    if stored.course.epoch != known.course.epoch:
        return Lineage.NEWER if stored.course.epoch > known.course.epoch else Lineage.FORKED
    if is_less:
        return Lineage.FALLEN_BACK if _begins_with(known, stored) else Lineage.FORKED
    is_equal = count_of(stored.version) == count_of(known.version)
    return Lineage.FORKED if is_equal or not _begins_with(stored, known) else Lineage.NEWER


def _has_ended(known: RoomState, stored: RoomState) -> bool:
    return known.founding is not None and stored.ended is not None and stored.ended.birth == known.founding.birth


def _begins_with(longer: RoomState, shorter: RoomState) -> bool:
    """Return whether all that one has in its order the other one has as well, as far as logs tell."""
    if longer.course.seq < shorter.course.seq:
        return False
    ours = {entry.seq: entry for entry in longer.log}
    return all(entry.seq not in ours or _is_same(entry, ours[entry.seq]) for entry in shorter.log)


def _is_same(one: LogEntry, other: LogEntry) -> bool:
    return one is other or one == other
