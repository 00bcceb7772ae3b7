"""Writes below one folder, and nowhere else, whatever the names and whatever is planted there meanwhile.

Folders are opened one part after the other, each in the one before it and never through a link (`openat`, `O_NOFOLLOW`;
POSIX.1-2017). So neither `..` nor a link, sent or planted, leads out. A system without these is asked for each part
whether it is a link.

A file grows under another name, which says for which name, size and time it is, and gets its own once it is complete
and verified. What an interruption leaves is found by that name again.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Final

from iceagent.errors import LocalIOError
from iceagent.files.manifest import MODES, PART_SUFFIX, Entry
from iceagent.files.words import shown

MAX_OPEN: Final = 64  # folders that are kept open
OWNER_FILE: Final = 0o600  # what the owner must be allowed while a file grows
OWNER_FOLDER: Final = 0o700
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_BINARY: Final = getattr(os, "O_BINARY", 0)
_FOLDER: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
HAS_DIR_FD: Final = {os.open, os.mkdir, os.stat, os.unlink, os.rename} <= os.supports_dir_fd
HAS_LINK: Final = HAS_DIR_FD and os.link in os.supports_dir_fd and os.link in os.supports_follow_symlinks
_REPARSE_POINT: Final = 0x400  # FILE_ATTRIBUTE_REPARSE_POINT: Windows' links and junctions


def part_name(entry: Entry) -> str:
    """Return the name under which a file grows: by its own, and by the size and time that it will have."""
    version = f"{entry.size} {entry.mtime_ns} {entry.path}".encode(errors="replace")
    return f".{name_key(entry.parts[-1])}-{sha256(version).hexdigest()[:16]}{PART_SUFFIX}"


def name_key(name: str) -> str:
    """Return what all parts of files with this name begin with, after the dot."""
    return sha256(name.encode(errors="replace")).hexdigest()[:16]


class Folder:
    """An open folder below the target; names are single parts."""

    def __init__(self, path: str, descriptor: int | None) -> None:
        """`descriptor` is closed by `close`; None on systems that cannot open folders."""
        self.path = path
        self._fd = descriptor

    def close(self) -> None:
        """Close it."""
        if self._fd is not None and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1  # no folder's: None would be the working directory

    def status(self, name: str) -> os.stat_result | None:
        """Return what has a name here, links as links; None if nothing has."""
        with suppress(FileNotFoundError):
            if HAS_DIR_FD:
                return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            return os.lstat(self._at(name))
        return None

    def names(self) -> set[str]:
        """Return all names here."""
        return set(os.listdir(self._fd if self._fd is not None else self.path))

    def open(self, name: str, flags: int, mode: int = 0o666) -> int:
        """Open a file that is no link."""
        if HAS_DIR_FD:
            return os.open(name, flags | _NO_LINK, mode, dir_fd=self._fd)
        if self._is_link(name):
            raise OSError(errno.ELOOP, "it is a link")
        return os.open(self._at(name), flags | _BINARY, mode)

    def make_folder(self, name: str, mode: int) -> None:
        """Make a folder."""
        if HAS_DIR_FD:
            os.mkdir(name, mode, dir_fd=self._fd)
        else:
            os.mkdir(self._at(name), mode)

    def open_folder(self, name: str) -> Folder:
        """Open a folder here that is no link.

        Raises:
            OSError: it is no folder, or a link.
        """
        if HAS_DIR_FD:
            return Folder(self._at(name), os.open(name, _FOLDER | _NO_LINK, dir_fd=self._fd))
        if self._is_link(name) or not os.path.isdir(self._at(name)):
            raise NotADirectoryError(errno.ENOTDIR, "it is no folder, or a link")
        return Folder(self._at(name), None)

    def remove(self, name: str) -> None:
        """Remove a file or a link; nothing if there is none."""
        with suppress(FileNotFoundError):
            if HAS_DIR_FD:
                os.unlink(name, dir_fd=self._fd)
            else:
                os.unlink(self._at(name))

    def publish(self, part: str, name: str, *, replace: bool) -> None:
        """Give a file its own name; `replace`: also if something has that name, which is gone then.

        Raises:
            FileExistsError: something has the name, and may not be replaced.
        """
        if not replace and self._has_linked(part, name):
            self.remove(part)
            return
        if not replace and self.status(name) is not None:
            raise FileExistsError(errno.EEXIST, "it has appeared meanwhile", name)
        if HAS_DIR_FD:
            os.rename(part, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        else:
            os.replace(self._at(part), self._at(name))

    def _has_linked(self, part: str, name: str) -> bool:
        """Give a file a second name, which unlike renaming never replaces another; False where there is no such."""
        if not HAS_LINK:
            return False
        try:
            os.link(part, name, src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:  # FAT, some network file systems
            return False
        return True

    def make_link(self, name: str, target: str) -> None:
        """Make a symbolic link."""
        if HAS_DIR_FD:
            os.symlink(target, name, dir_fd=self._fd)
        else:
            os.symlink(target, self._at(name))

    def read_link(self, name: str) -> str:
        """Return where a link leads."""
        return os.readlink(name, dir_fd=self._fd) if HAS_DIR_FD else os.readlink(self._at(name))

    def finish(self, entry: Entry) -> None:
        """Give a folder that was made here its permissions and time."""
        place = self.path if self._fd is None else self._fd
        if ~entry.mode & OWNER_FOLDER and os.name == "posix":
            os.chmod(place, stat.S_IMODE(os.stat(place).st_mode) & (entry.mode | ~OWNER_FOLDER))
        os.utime(place, ns=(time.time_ns(), entry.mtime_ns))

    def _at(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _is_link(self, name: str) -> bool:
        with suppress(FileNotFoundError):
            status = os.lstat(self._at(name))
            return stat.S_ISLNK(status.st_mode) or bool(getattr(status, "st_file_attributes", 0) & _REPARSE_POINT)
        return False


class Target:
    """The folder that is received into. Close it."""

    def __init__(self, root: str) -> None:
        """Open `root`, which may be a link, and is made if it is not there.

        Raises:
            LocalIOError: it cannot be.
        """
        self.root = root
        self._folders: OrderedDict[tuple[str, ...], Folder] = OrderedDict()
        try:
            os.makedirs(root, exist_ok=True)
            self._top = Folder(root, os.open(root, _FOLDER) if HAS_DIR_FD else None)
        except OSError as error:
            raise LocalIOError(f"cannot receive into {shown(root)}: {error.strerror}") from error

    def close(self) -> None:
        """Close all folders."""
        for folder in self._folders.values():
            folder.close()
        self._folders.clear()
        self._top.close()

    def free_bytes(self) -> int | None:
        """Return how many bytes fit into the target; None where the system does not say."""
        with suppress(OSError, AttributeError):
            answer = os.statvfs(self.root)
            return answer.f_bavail * answer.f_frsize
        return None

    def folder(self, parts: tuple[str, ...]) -> Folder:
        """Return a folder below the target that is there; it stays open as long as there is room.

        Raises:
            OSError: it is not there, or something in its path is a link or no folder.
        """
        if not parts:
            return self._top
        known = self._folders.get(parts)
        if known is not None:
            self._folders.move_to_end(parts)
            return known
        opened = self.folder(parts[:-1]).open_folder(parts[-1])
        self._folders[parts] = opened
        if len(self._folders) > MAX_OPEN:
            self._folders.popitem(last=False)[1].close()
        return opened


class PartFile:
    """A file that grows below the target, until `publish`. Close it, whatever happens: what is there stays."""

    def __init__(self, folder: Folder, entry: Entry, offset: int) -> None:
        """Open the file that an earlier attempt has left, from `offset` on, or with 0 a new one.

        Raises:
            OSError: it cannot be, or what was left is not what it was.
        """
        self._folder = folder
        self._entry = entry
        self._name = part_name(entry)
        mode = (entry.mode & MODES) | OWNER_FILE
        if offset:
            self.descriptor = folder.open(self._name, os.O_RDWR)
            try:
                _check_ours(os.fstat(self.descriptor), offset)
                os.ftruncate(self.descriptor, offset)
                os.lseek(self.descriptor, offset, os.SEEK_SET)
            except BaseException:
                os.close(self.descriptor)
                raise
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            self.descriptor = folder.open(self._name, flags, mode)
        except FileExistsError:
            folder.remove(self._name)
            self.descriptor = folder.open(self._name, flags, mode)

    def write(self, data: memoryview) -> None:
        """Write all of it."""
        written = os.write(self.descriptor, data)
        while written < len(data):
            written += os.write(self.descriptor, data[written:])

    def publish(self, *, replace: bool) -> None:
        """Give it its permissions, its time and its name, and close it."""
        entry = self._entry
        if ~entry.mode & OWNER_FILE and os.name == "posix":
            mode = stat.S_IMODE(os.fstat(self.descriptor).st_mode)
            os.fchmod(self.descriptor, mode & (entry.mode | ~OWNER_FILE))
        if os.utime in os.supports_fd:
            os.utime(self.descriptor, ns=(time.time_ns(), entry.mtime_ns))
        self.close()
        self._folder.publish(self._name, entry.parts[-1], replace=replace)
        if os.utime not in os.supports_fd:
            os.utime(os.path.join(self._folder.path, entry.parts[-1]), ns=(time.time_ns(), entry.mtime_ns))

    def discard(self) -> None:
        """Close and remove it."""
        self.close()
        self._folder.remove(self._name)

    def close(self) -> None:
        """Close it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _check_ours(status: os.stat_result, offset: int) -> None:
    """Refuse what is not the plain file of our own that it was: something else may have been put in its place."""
    is_ours = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    if not (stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and is_ours and status.st_size >= offset):
        raise OSError(errno.EIO, "what an earlier attempt has left is no longer what it was")


def parts_left(names: set[str]) -> Iterator[tuple[str, str]]:
    """Yield what earlier attempts have left in a folder: the key of a name, and the name of the part."""
    for name in names:
        if name.endswith(PART_SUFFIX) and name[0] == "." and name[17:18] == "-":
            yield name[1:17], name
