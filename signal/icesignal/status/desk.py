"""What is served under `/status`: a page that anybody may load, since it knows nothing, and numbers for the token."""

from __future__ import annotations

import json
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import trio

from icesignal import http
from icesignal.status.door import Admission, TokenDoor
from icesignal.status.history import STEP_S, History, values_of
from icesignal.status.readings import Readings

logger = logging.getLogger("icesignal.server")

VERSION = 1  # of the two answers in JSON
POLL_S = 5.0  # ours: how often the page asks
PATH = "/status"
WHY_NOT_HERE = (
    "there is no status page without a token: name a file that has one, with --status-token-file FILE or as"
    " status_token_file in the configuration\n"
)
# Scripts and styles from here and nowhere else, no frame around it, no form that goes anywhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_FILES = {
    PATH: ("page.html", "text/html; charset=utf-8"),
    f"{PATH}/page.css": ("page.css", "text/css; charset=utf-8"),
    f"{PATH}/page.js": ("page.js", "text/javascript; charset=utf-8"),
    f"{PATH}/chart.js": ("chart.js", "text/javascript; charset=utf-8"),
    f"{PATH}/icon.svg": ("icon.svg", "image/svg+xml"),
}


class StatusDesk:
    """Answers requests for the page, and remembers the past hour while `run` runs."""

    def __init__(
        self, token: bytes, metrics: Callable[[], str], state: Callable[[], str], counters: Counter[str]
    ) -> None:
        """Read the page.

        Args:
            token: what an operator has to have.
            metrics: gives the text of `/metrics`.
            state: gives `ready`, `full`, `draining` or `store-away`.
            counters: of the relay.
        """
        self._door = TokenDoor(token)
        self._metrics = metrics
        self._state = state
        self._counters = counters
        self._history = History()
        self._run = secrets.token_hex(8)
        self._node = socket.gethostname()
        self._began_at = 0.0
        folder = files("icesignal.status")
        self._pages = {path: (folder.joinpath(name).read_text("utf-8"), kind) for path, (name, kind) in _FILES.items()}

    async def run(self) -> None:
        """Look at the numbers every few seconds. What goes wrong leaves a gap, and ends nothing else."""
        self._began_at = trio.current_time()
        while True:
            try:
                self._history.note(trio.current_time(), Readings.of(self._metrics()))
            except Exception:
                self._counters["internal_errors"] += 1
                logger.debug("the numbers could not be read", exc_info=True)
            await trio.sleep(STEP_S)

    def answer(self, request: http.HttpRequest, host: str) -> bytes:
        """Return the whole answer to a request whose path begins with `/status`.

        Args:
            request: what came.
            host: the address that it came from.
        """
        head = request.method == "HEAD"
        if request.method not in ("GET", "HEAD"):
            return http.response(405)
        if request.path in self._pages:
            text, kind = self._pages[request.path]
            return http.response(200, text, content_type=kind, head=head, policy=POLICY)
        tell = {f"{PATH}/now.json": self._now, f"{PATH}/history.json": self._past}.get(request.path)
        if tell is None:
            return http.response(404, head=head)
        now = trio.current_time()
        verdict = self._door.check(now, host, request.values(b"authorization"))
        if verdict is not Admission.RIGHT:
            self._counters["status_tokens_wrong"] += 1
            return http.response(verdict, head=head)
        told = json.dumps(tell(now, Readings.of(self._metrics())), separators=(",", ":"))
        return http.response(200, told, content_type="application/json", head=head)

    def _now(self, now: float, readings: Readings) -> dict[str, Any]:
        return {
            "version": VERSION,
            "run": self._run,
            "node": self._node,
            "state": self._state(),
            "uptime_s": round(now - self._began_at, 1),
            "poll_s": POLL_S,
            "values": values_of(readings),
            "samples": {key: one.value for key, one in readings.samples.items()},
        }

    def _past(self, now: float, readings: Readings) -> dict[str, Any]:
        return {
            "version": VERSION,
            "run": self._run,
            "meanings": readings.meanings,
            **self._history.told(now),
        }
