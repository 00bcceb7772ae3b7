"""What the relay's port answers to plain HTTP: health, readiness, metrics, a status page. Totals only, never a name."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

from icesignal.http import HttpRequest, response

_GAUGES = frozenset({"connections_open", "sources", "engine_rooms", "engine_sessions", "engine_log_bytes"})
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_]")


def page(request: HttpRequest, statistics: Mapping[str, int], *, is_ready: bool) -> bytes:
    """Return the whole answer to a plain request."""
    head = request.method == "HEAD"
    if request.method not in ("GET", "HEAD"):
        return response(405)
    match request.path:
        case "/healthz":
            return response(200, "ok\n", head=head)
        case "/readyz":
            return response(200 if is_ready else 503, "ready\n" if is_ready else "not ready\n", head=head)
        case "/metrics":
            return response(
                200, metrics(statistics), content_type="text/plain; version=0.0.4; charset=utf-8", head=head
            )
        case "/":
            return response(200, status_page(statistics), content_type="text/html; charset=utf-8", head=head)
        case "/v1":
            return response(426, "this is a websocket\n", head=head)
        case _:
            return response(404, head=head)


def metrics(statistics: Mapping[str, int]) -> str:
    """Return the statistics as Prometheus text."""
    lines: list[str] = []
    for name, value in sorted(statistics.items()):
        kind = "gauge" if name in _GAUGES else "counter"
        metric = "icesignal_" + _NOT_IN_A_NAME.sub("_", name) + ("" if kind == "gauge" else "_total")
        lines += [f"# TYPE {metric} {kind}", f"{metric} {value}"]
    return "\n".join(lines) + "\n"


def status_page(statistics: Mapping[str, int]) -> str:
    """Return the statistics as a small page."""
    rows = "".join(
        f"<tr><td>{html.escape(name.replace('_', ' '))}</td><td>{value}</td></tr>"
        for name, value in sorted(statistics.items())
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>icesignal relay</title>"
        "<style>body{font:16px/1.5 system-ui;margin:3em auto;max-width:40em;padding:0 1em}"
        "td{padding:.1em 1em .1em 0}td+td{text-align:right;font-variant-numeric:tabular-nums}</style>"
        "<h1>icesignal relay</h1><p>It introduces peers to each other and sees only sealed messages.</p>"
        f"<table>{rows}</table></html>\n"
    )
