"""What of an offer is in the target already, what would be overwritten, and whether there is room for the rest."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from iceagent.errors import LocalIOError
from iceagent.files.manifest import Entry
from iceagent.files.target import Folder, Target, name_key, part_name, parts_left
from iceagent.files.wire import Have
from iceagent.files.words import shown

PART_OVERHEAD = 4096  # bytes that a file costs besides what is in it: one block, about


@dataclass(slots=True)
class Plan:
    """What is found in the target.

    Args:
        have: by index, how many bytes of a file are there; if all, under its own name.
        present: indexes of files that are there with their size and time; whether they are right, the hash will show.
        taken: names of what is there and differs, which would be overwritten.
        made: indexes of folders that are not there yet.
        needed: bytes that have to be written.
        stale: what earlier attempts with other versions of a file have left.
    """

    have: dict[int, int] = field(default_factory=dict)
    present: set[int] = field(default_factory=set)
    taken: list[str] = field(default_factory=list)
    made: set[int] = field(default_factory=set)
    needed: int = 0
    stale: list[tuple[tuple[str, ...], str]] = field(default_factory=list)

    def frames(self) -> list[Have]:
        """Return what the sender is told."""
        return [Have(index, size) for index, size in self.have.items()]


def plan_for(target: Target, entries: Sequence[Entry]) -> Plan:
    """Look at what is there; nothing is changed.

    Raises:
        LocalIOError: something is there that cannot be replaced: a folder, or a link where a folder must be.
    """
    return _Planner(target).run(entries)


class _Planner:
    def __init__(self, target: Target) -> None:
        self._target = target
        self._plan = Plan()
        self._names: dict[tuple[str, ...], set[str]] = {}
        self._left: dict[tuple[str, ...], dict[str, list[str]]] = {}

    def run(self, entries: Sequence[Entry]) -> Plan:
        for index, entry in enumerate(entries):
            *above, name = entry.parts
            parts = tuple(above)
            try:
                self._look(index, entry, parts, name)
            except OSError as error:
                raise LocalIOError(f"cannot look at {shown(entry.path)}: {error.strerror}") from error
        return self._plan

    def _look(self, index: int, entry: Entry, parts: tuple[str, ...], name: str) -> None:
        names = self._names_in(parts)
        if names is None:
            if entry.kind == "folder":
                self._plan.made.add(index)
            self._plan.needed += entry.size + PART_OVERHEAD
            return
        folder = self._target.folder(parts)
        status = folder.status(name) if name in names or not names else None
        if entry.kind == "folder":
            self._look_at_folder(index, entry, status)
        elif entry.kind == "link":
            if status is not None and not (stat.S_ISLNK(status.st_mode) and folder.read_link(name) == entry.target):
                self._take(entry, status)
        else:
            self._look_at_file(index, entry, folder, status)

    def _look_at_folder(self, index: int, entry: Entry, status: os.stat_result | None) -> None:
        if status is None:
            self._plan.made.add(index)
            self._plan.needed += PART_OVERHEAD
        elif not stat.S_ISDIR(status.st_mode):
            what = "a link, and nothing is written through links" if stat.S_ISLNK(status.st_mode) else "no folder"
            raise LocalIOError(f"{shown(entry.path)} must become a folder, and is {what}; take it away first")

    def _look_at_file(self, index: int, entry: Entry, folder: Folder, status: os.stat_result | None) -> None:
        parts = entry.parts[:-1]
        left = self._left[parts].get(name_key(entry.parts[-1]), []) if self._left[parts] else []
        part = part_name(entry) if left else ""
        is_plain = status is not None and stat.S_ISREG(status.st_mode)
        if entry.kind == "file" and status is not None and is_plain and _is_same(status, entry):
            self._plan.present.add(index)
            self._plan.have[index] = entry.size
            part = ""
        elif status is not None:
            self._take(entry, status)
        there = self._part_size(folder, part, entry) if part in left and entry.kind == "file" else 0
        if there:
            self._plan.have[index] = there
        if index not in self._plan.present:
            self._plan.needed += entry.size - there + PART_OVERHEAD
        self._plan.stale += [(parts, one) for one in left if not (there and one == part)]

    def _part_size(self, folder: Folder, part: str, entry: Entry) -> int:
        status = folder.status(part)
        if status is None or not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            return 0
        return min(status.st_size, entry.size)

    def _take(self, entry: Entry, status: os.stat_result) -> None:
        if stat.S_ISDIR(status.st_mode):
            raise LocalIOError(f"{shown(entry.path)} is a folder here; take it away first")
        self._plan.taken.append(entry.path)

    def _names_in(self, parts: tuple[str, ...]) -> set[str] | None:
        """Return the names in a folder of the target, None if there is no such folder yet."""
        if parts in self._names:
            return self._names[parts]
        if parts and (self._names_in(parts[:-1]) or set()).isdisjoint({parts[-1]}):
            return None
        with suppress(FileNotFoundError):
            names = self._target.folder(parts).names()
            self._names[parts] = names
            left: dict[str, list[str]] = {}
            for key, name in parts_left(names):
                left.setdefault(key, []).append(name)
            self._left[parts] = left
            return names
        return None


def _is_same(status: os.stat_result, entry: Entry) -> bool:
    return status.st_size == entry.size and status.st_mtime_ns == entry.mtime_ns
