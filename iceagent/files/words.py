"""Names and sizes as people read them."""

from __future__ import annotations

MAX_SHOWN = 80  # ours: characters of a name


def shown(name: str, limit: int = MAX_SHOWN) -> str:
    """Return a name without anything that a terminal would obey, cut in the middle."""
    cut = name if len(name) <= limit else f"{name[: limit // 2]}…{name[-(limit // 2) :]}"
    return "".join(one if one.isprintable() else "?" for one in cut)


def format_size(size: float) -> str:
    """Return a number of bytes as people read it, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def count_of(files: int) -> str:
    """Return a number of files in words."""
    return "1 file" if files == 1 else f"{files} files"
