"""How far a transfer is, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class FileProgress:
    """Counted while a transfer runs. Bytes of what was there already count as done, but not as moved.

    Args:
        files: how many there are.
        size: bytes in all; 0 for a stream.
        is_stream: the size is not known.
        files_done: complete, verified on the receiver's side, or sent on the sender's.
        bytes_done: of `size`.
        bytes_there: of `bytes_done`, what did not have to be sent.
        current: the name of the file that is under way.
        missing: names of files that could not be sent, each with the reason.
    """

    files: int = 0
    size: int = 0
    is_stream: bool = False
    files_done: int = 0
    bytes_done: int = 0
    bytes_there: int = 0
    current: str = ""
    missing: list[str] = field(default_factory=list)

    @property
    def bytes_moved(self) -> int:
        """Bytes that went over the link."""
        return self.bytes_done - self.bytes_there
