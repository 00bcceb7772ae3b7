"""What is sent: names, kinds, sizes, permissions and times of files, folders and links, and which names may be.

A path is relative, its parts are joined by `/`, and its first part is the last one of what the user named. Nothing of a
path that comes from the other side is used before `check_path_untrusted` has seen it.
"""

from __future__ import annotations

import os
import stat
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from iceagent.errors import LocalIOError
from iceagent.files.errors import TransferFailed
from iceagent.files.words import shown

Kind = Literal["file", "folder", "link", "stream"]
STREAM_NAME = "stdin"
PART_SUFFIX = ".iceagent-part"
MAX_ENTRIES = 500_000
MAX_PATH = 4096  # bytes in UTF-8, as Linux has it
MAX_PART = 255  # bytes of one part
MAX_DEPTH = 200  # parts
MAX_SIZE = 1 << 60
MODES = 0o777  # set-user-id, set-group-id and sticky bits are for this machine's own users to give

_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{name}{number}" for name in ("COM", "LPT") for number in range(10))}
_WINDOWS_FORBIDS = set('<>:"\\|?*')


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One file, folder or link. Sizes in bytes, times in nanoseconds since 1970; `target` of a link."""

    path: str
    kind: Kind
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)] = 0
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o7777)] = 0o644
    mtime_ns: Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)] = 0
    target: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The path's parts."""
        return tuple(self.path.split("/"))


@dataclass(frozen=True, slots=True)
class Source:
    """An entry, and where it is on this machine."""

    entry: Entry
    place: Path


def check_path_untrusted(path: str, platform: str = sys.platform) -> tuple[str, ...]:
    """Return the parts of a path of the other side's that leads to nowhere but below a folder.

    Raises:
        TransferFailed: it might lead elsewhere, or cannot be a name here.
    """
    parts = tuple(path.split("/"))
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise _bad(path, "it is no text") from None
    if len(encoded) > MAX_PATH or len(parts) > MAX_DEPTH:
        raise _bad(path, "it is too long or too deep")
    for part in parts:
        reason = bad_part(part, platform)
        if reason:
            raise _bad(path, reason)
    return parts


def bad_part(part: str, platform: str = sys.platform) -> str:
    """Return why a part of a path cannot be a name, "" if it can."""
    if part in ("", ".", ".."):
        return "a part of it is no name"
    if "\0" in part or "/" in part:
        return "it has a character that no name can have"
    if len(part.encode(errors="replace")) > MAX_PART:
        return "a part of it is too long"
    if part.endswith(PART_SUFFIX):
        return f"{PART_SUFFIX} is for what is not complete yet"
    return _bad_for_windows(part) if platform == "win32" else ""


def _bad_for_windows(part: str) -> str:
    if part.split(".", maxsplit=1)[0].rstrip(" ").upper() in _DEVICES:
        return "it is the name of a device here"
    if part[-1] in ". " or any(one in _WINDOWS_FORBIDS or ord(one) < 32 for one in part):
        return "it cannot be a name here"
    return ""


def check_link_untrusted(entry: Entry, depth: int) -> None:
    """Refuse a link that could lead out of what is sent.

    `..` may stand at its beginning alone: behind a name, which may be another link, it could lead anywhere.

    Args:
        entry: the link.
        depth: how many folders of the transfer it is in.
    Raises:
        TransferFailed: it is absolute, leads out, or cannot be.
    """
    target = entry.target
    parts = target.split("/")
    ups = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    wrong = not target or len(target) > MAX_PATH or "\0" in target or "\\" in target
    # the folders above are the transfer's own; the one they are all in is not
    if wrong or target.startswith("/") or ":" in parts[0] or ups >= max(depth, 1) or ".." in parts[ups:]:
        raise _bad(entry.path, "it is a link that could lead out of what is sent")


def check_all_untrusted(entries: Sequence[Entry], platform: str = sys.platform) -> None:
    """Refuse a list of entries that no folder could be: unsafe names, doubled ones, files that are folders, too.

    Raises:
        TransferFailed: the sentence says which, and why.
    """
    is_careless = platform in ("darwin", "win32")  # where names that differ in case are one
    kinds: dict[str, Kind] = {}
    for entry in entries:
        parts = check_path_untrusted(entry.path, platform)
        key = _folded(entry.path) if is_careless else entry.path
        if key in kinds:
            raise _bad(entry.path, "there are two of this name")
        kinds[key] = entry.kind
        above = key.rpartition("/")[0]
        if above and kinds.get(above) != "folder":
            raise _bad(entry.path, "the folder that it is in is not sent before it")
        if entry.kind == "link":
            check_link_untrusted(entry, len(parts) - 1)


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _bad(path: str, reason: str) -> TransferFailed:
    return TransferFailed(f"{shown(path)!r} cannot be received: {reason}")


@dataclass(slots=True)
class Scan:
    """What the user's paths are: in the order in which they are sent, and what is left out and why."""

    sources: list[Source]
    left_out: list[str]

    @property
    def size(self) -> int:
        """All bytes of files."""
        return sum(one.entry.size for one in self.sources)


def scan(paths: Sequence[str | os.PathLike[str]]) -> Scan:
    """Return what is to be sent, each folder before what is in it, links after all others.

    Sockets, pipes and devices are left out; so is a link that leads out of what is sent. A path that the user names
    may be a link: what it leads to is sent.

    Raises:
        LocalIOError: a path is not there or cannot be read, two have the same name, or there are too many.
    """
    found = Scan([], [])
    names: set[str] = set()
    for path in paths:
        place = Path(path)
        name = place.name if place.name not in ("", "..") else place.resolve().name
        if not name:
            raise LocalIOError(f"{path}: a folder without a name cannot be sent; name what is in it")
        if name in names:
            raise LocalIOError(f"two of the paths are called {shown(name)!r}; send them one after the other")
        names.add(name)
        try:
            _scan_one(found, place, name, place.stat())
        except OSError as error:
            raise LocalIOError(f"cannot read {error.filename or path}: {error.strerror}") from error
    links = [one for one in found.sources if one.entry.kind == "link"]
    if links:
        found.sources = [one for one in found.sources if one.entry.kind != "link"] + links
    return found


def _scan_one(found: Scan, place: Path, name: str, status: os.stat_result) -> None:
    """Add what is at a place, and all that is below it."""
    pending: list[tuple[str, str, os.stat_result]] = [(str(place), name, status)]
    while pending:
        where, path, status = pending.pop()
        reason = _add(found, where, path, status)
        if reason:
            found.left_out.append(f"{shown(path)}: {reason}")
        elif stat.S_ISDIR(status.st_mode):
            pending += reversed(list(_inside(where, path)))


def _inside(where: str, path: str) -> Iterator[tuple[str, str, os.stat_result]]:
    with os.scandir(where) as found:
        for one in sorted(found, key=lambda one: one.name):
            yield one.path, f"{path}/{one.name}", one.stat(follow_symlinks=False)


def _add(found: Scan, where: str, path: str, status: os.stat_result) -> str:
    """Add one entry; return why it is left out, "" if it is not."""
    if len(found.sources) >= MAX_ENTRIES:
        raise LocalIOError(f"more than {MAX_ENTRIES} files at once; pack them: tar c … | iceagent send -")
    mode, mtime_ns, target = status.st_mode & MODES, status.st_mtime_ns, ""
    size = 0
    kind: Kind
    if stat.S_ISREG(status.st_mode):
        kind, size = "file", status.st_size
        if not os.access(where, os.R_OK):
            raise LocalIOError(f"cannot read {shown(where)}: Permission denied")
    elif stat.S_ISDIR(status.st_mode):
        kind = "folder"
    elif stat.S_ISLNK(status.st_mode):
        kind, target = "link", os.readlink(where)
    else:
        return "it is no file"
    entry = Entry(path, kind, size, mode, mtime_ns, target)
    try:
        parts = check_path_untrusted(path)
        if kind == "link":
            target.encode()
            check_link_untrusted(entry, len(parts) - 1)
    except (TransferFailed, UnicodeEncodeError) as error:
        return str(error).partition(": ")[2] or "its name is no text"
    found.sources.append(Source(entry, Path(where)))
    return ""
