"""Outages of a session's path, as they happen: silent, what is being tried, back after so many seconds."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class OutageKind(Enum):
    """What is reported of an outage.

    SILENT: nothing is answered. RESTARTING: ICE looks for another way. TRYING: it lasts, and so much is being done.
    BACK: the other side answers again.
    """

    SILENT = "silent"
    RESTARTING = "restarting"
    TRYING = "trying"
    BACK = "back"


class Outage(Struct, frozen=True):
    """A turn in an outage.

    Attributes:
        kind: what happened.
        seconds: since the other side last answered, or for BACK how long it had not.
        is_ours: the network of this machine has changed, or it slept or the program was stopped, so that the other side
            need not be the cause.
        stopped_s: how long it slept or was stopped, seconds.
        trying: for TRYING, what is being done.
        gives_up_s: for TRYING, in how many seconds the session is given up if nothing answers.
    """

    kind: OutageKind
    seconds: float
    is_ours: bool = False
    stopped_s: float = 0.0
    trying: str = ""
    gives_up_s: float | None = None

    def __str__(self) -> str:
        seconds = f"{self.seconds:.0f} s"
        match self.kind:
            case OutageKind.SILENT if self.stopped_s:
                return (
                    f"this machine slept, or this program was stopped, for {self.stopped_s:.0f} s; asking the other "
                    "side whether it is still there"
                )
            case OutageKind.SILENT if self.is_ours:
                return f"this machine's network has changed, and nothing has come through for {seconds}"
            case OutageKind.SILENT:
                return f"the other side has not answered for {seconds}; the session waits for it"
            case OutageKind.RESTARTING:
                return f"no path has answered for {seconds}; looking for another one"
            case OutageKind.TRYING:
                until = "" if self.gives_up_s is None else f"; giving up in about {self.gives_up_s:.0f} s"
                return f"still nothing after {seconds}; {self.trying}{until}"
            case OutageKind.BACK:
                return f"the other side answers again, after {seconds}"
