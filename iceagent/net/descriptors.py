"""How many files and sockets a process may have open."""

from __future__ import annotations

import contextlib


def raise_descriptor_limit() -> int | None:
    """Raise the soft limit of open descriptors to the hard one; return it, or None where the system has no such thing.

    Servers hold a descriptor for each client. The soft limit is 1,024 by habit, for the sake of programs that use
    `select`; we do not.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS says "unlimited" and means less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
