"""What has to be removed however this process ends, so long as it can run code: also where no `finally` does."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

paths: set[Path] = set()


def remove(path: Path) -> None:
    """Remove one of `paths`."""
    paths.discard(path)
    with suppress(OSError):
        os.unlink(path)


def remove_all() -> None:
    """Remove all of them: this process ends at once. Waits for nothing, and may be called in any thread."""
    for path in list(paths):
        remove(path)
