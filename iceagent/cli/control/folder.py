"""Where the control sockets are, and whose: a folder of this user's alone, and one socket for each running command."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

_NAME: Final = re.compile(r"([1-9][0-9]{0,9})\.sock\Z")
_DRAFT: Final = re.compile(r"\.([1-9][0-9]{0,9})\.new\Z")
MAX_COMMANDS: Final = 1024  # ours: names that are looked at
_LOCAL_PEERCRED: Final = 1  # macOS: sys/un.h; at the level SOL_LOCAL, 0
_XUCRED: Final = struct.Struct("=II")  # the first fields of macOS's struct xucred: version, user


class NoControl(OSError):
    """There can be no control sockets here; the message says why."""


def is_supported() -> bool:
    """Return whether this system has sockets in the file system, and says who is at their other end."""
    can_ask = hasattr(socket, "SO_PEERCRED") or sys.platform == "darwin"
    return hasattr(socket, "AF_UNIX") and hasattr(os, "geteuid") and can_ask


def control_folder(*, create: bool = True) -> Path:
    """Return the folder, which is this user's alone.

    `$XDG_RUNTIME_DIR/iceagent`; without such a folder, or with one of another user's (as under `sudo`),
    `$XDG_STATE_HOME/iceagent/run`, else `~/.local/state/iceagent/run`.

    Raises:
        NoControl: it is not there, cannot be made, belongs to somebody else, or others can get into it.
    """
    if not is_supported():
        raise NoControl("this system has no sockets that say who uses them")
    try:
        folder = _wanted_folder()
        if create:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        _check(folder)
    except RuntimeError:
        raise NoControl("this user has no home directory") from None
    except NoControl:
        raise
    except OSError as error:
        raise NoControl(f"the folder {error.filename} cannot be used: {error.strerror}") from error
    return folder


def _wanted_folder() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):  # a relative one is to be ignored (XDG Base Directory Specification)
        with suppress(OSError):
            if os.stat(runtime).st_uid == os.geteuid():
                return Path(runtime) / "iceagent"
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "iceagent" / "run"


def _check(folder: Path) -> None:
    """Refuse a folder that others could look into or put something into, or whose place they could give to another."""
    parent = os.stat(folder.parent)
    if parent.st_uid not in (os.geteuid(), 0) or (parent.st_mode & 0o022 and not parent.st_mode & stat.S_ISVTX):
        raise NoControl(f"others could replace the folder {folder}, since {folder.parent} is open to them")
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise NoControl(f"{folder} is no folder, or a link")
    if found.st_uid != os.geteuid():
        raise NoControl(f"the folder {folder} belongs to another user")
    if found.st_mode & 0o077:
        raise NoControl(f"others can get into the folder {folder}; run `chmod 700 {folder}`")


class _WithOptions(Protocol):
    def getsockopt(self, level: int, name: int, size: int, /) -> bytes:
        """Return an option's bytes, as a socket does."""
        ...


def user_of_peer(sock: _WithOptions) -> int:
    """Return the user id of the process at the other end, as the kernel noted it when the two were connected.

    Raises:
        OSError: the kernel does not say.
    """
    if hasattr(socket, "SO_PEERCRED"):
        _, user, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        return int(user)
    version, user = _XUCRED.unpack_from(sock.getsockopt(0, _LOCAL_PEERCRED, 128))
    if version:
        raise OSError(errno.EINVAL, "the system names users in a way that is not known here")
    return int(user)


def is_own_peer(sock: _WithOptions) -> bool:
    """Return whether the process at the other end is this user's."""
    try:
        return user_of_peer(sock) == os.geteuid()
    except OSError:
        return False


def socket_path(folder: Path, pid: int) -> Path:
    """Return where the control socket of a process is."""
    return folder / f"{pid}.sock"


def bind_control(folder: Path) -> tuple[socket.socket, Path]:
    """Return a listening socket that only this user may use, and its path: it is there once it listens, not before.

    Raises:
        OSError: it cannot be, or another process has the name: one of another container, which counts its own.
    """
    pid = os.getpid()
    draft, path = folder / f".{pid}.new", socket_path(folder, pid)
    if is_listening(path):
        raise NoControl(f"another process listens at {path}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_socket(draft)
        sock.bind(str(draft))
        os.chmod(draft, 0o600)
        sock.listen(8)
        sock.setblocking(False)
        os.replace(draft, path)
    except BaseException:
        sock.close()
        with suppress(OSError):
            os.unlink(draft)
        raise
    return sock, path


def is_listening(path: Path) -> bool:
    """Return whether somebody listens at a socket; in doubt, as where its backlog is full, so it is."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True


def commands(folder: Path) -> Iterator[tuple[int, Path]]:
    """Give the process ids that control sockets are named after, and the sockets; those of the dead among them."""
    found = [(int(match[1]), folder / name) for name in _names(folder) if (match := _NAME.match(name))]
    yield from sorted(found)[:MAX_COMMANDS]


def remove_dead(path: Path) -> bool:
    """Remove a socket at which nobody listens any more; return whether it was so. Anything else is left alone."""
    if not _is_own_socket(path) or is_listening(path):
        return False
    return _remove_socket(path)


def sweep(folder: Path) -> None:
    """Remove what processes have left behind that are no more."""
    for pid, path in commands(folder):
        if not _is_alive(pid):
            remove_dead(path)
    for name in _names(folder):
        match = _DRAFT.match(name)
        if match and not _is_alive(int(match[1])):
            remove_dead(folder / name)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _is_own_socket(path: Path) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid()


def _remove_socket(path: Path) -> bool:
    if not _is_own_socket(path):
        return False
    try:
        os.unlink(path)
    except OSError:
        return False
    return True
