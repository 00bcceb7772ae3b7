"""Small files that are their owner's alone: read if they are, written as a whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from iceagent.session.errors import IdentityError

IS_POSIX = os.name == "posix"
MAX_BYTES = 1 << 20  # ours: a store of some thousand peers
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def data_folder() -> Path:
    """Return where this user's files are: `$XDG_DATA_HOME/iceagent`, else `~/.local/share/iceagent`.

    Raises:
        IdentityError: this user has no home.
    """
    named = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(named):  # a relative one is to be ignored (XDG Base Directory Specification)
        return Path(named) / "iceagent"
    try:
        return Path.home() / ".local" / "share" / "iceagent"
    except RuntimeError:
        raise IdentityError("this user has no home directory; set XDG_DATA_HOME, or ICEAGENT_IDENTITY") from None


def make_folder(path: Path) -> None:
    """Make a folder that others neither read nor write; one that exists must not be writable by others.

    Raises:
        IdentityError: it cannot be made, or others can write into it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise IdentityError(f"the folder {path} cannot be used: {error.strerror}") from error
    if IS_POSIX and found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise IdentityError(f"others can write into the folder {path}; run `chmod 700 {path}`")


def read_private(path: Path) -> bytes | None:
    """Return what a file holds, None if there is none.

    Raises:
        IdentityError: it is no plain file of this user's that nobody else can read or write, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "it is a link, or no file" if os.path.islink(path) else error.strerror
        raise IdentityError(f"{path} cannot be read: {why}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise IdentityError(f"{path} is no plain file")
    with open(descriptor, "rb") as file:
        if IS_POSIX and found.st_uid != os.geteuid():
            raise IdentityError(f"{path} belongs to another user; name another file with ICEAGENT_IDENTITY")
        if IS_POSIX and found.st_mode & 0o077:
            raise IdentityError(
                f"{path} can be read or written by others: run `chmod 600 {path}`, and pair again with a new identity "
                "if somebody may have read it"
            )
        try:
            return file.read(MAX_BYTES + 1)
        except OSError as error:
            raise IdentityError(f"{path} cannot be read: {error.strerror}") from error


def write_private(path: Path, content: bytes, *, replaces: bool) -> bool:
    """Write a file as a whole, on the disk when this returns, for its owner alone.

    Args:
        path: its folder exists.
        content: all of it.
        replaces: whether one that is there is replaced.
    Returns:
        False: there is one, and it was not replaced.
    Raises:
        IdentityError: it cannot be written; what was there is as it was.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            _write_new(draft, content)
            if replaces:
                os.replace(draft, path)
            else:
                os.link(draft, path)  # unlike a rename it fails where something is
            _sync_folder(path.parent)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft)
    except FileExistsError:
        return False
    except OSError as error:
        raise IdentityError(f"{path} cannot be written: {error.strerror}") from error
    return True


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
    with open(descriptor, "wb") as file:
        if IS_POSIX:
            os.fchmod(descriptor, 0o600)  # whatever the umask
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(path: Path) -> None:
    """Have the name of a file on the disk, too; not every system can."""
    if not IS_POSIX:
        return
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes that change the same file out while the body runs, which waits for nothing.

    Raises:
        IdentityError: the file beside it that is locked cannot be made.
    """
    try:
        import fcntl
    except ImportError:  # no POSIX: the last of two writers wins, each with a whole file
        yield
        return
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
    except OSError as error:
        raise IdentityError(f"{lock} cannot be opened: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # some folders of a network lock nothing
            raise IdentityError(f"{lock} cannot be locked: {error.strerror}") from error
        yield
    finally:
        os.close(descriptor)
