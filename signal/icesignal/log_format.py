"""Log lines, for people or as JSON objects, one a line. They hold no secret, and of addresses only pseudonyms."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Literal, TextIO

LogFormat = Literal["text", "json"]
FIELDS = ("event", "source")  # what a record may have beside its message, by `extra`
LOGGERS = ("icesignal", "iceagent")


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object with `time`, `level`, `logger`, `message`, and `event`, `source`, `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class QuietHandler(logging.StreamHandler[TextIO]):
    """Writes lines; one that cannot be written, since the disk is full or nobody reads, is lost and ends nothing."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Count on the next line being written."""


def handler_to(stream: TextIO, log_format: LogFormat) -> logging.Handler:
    """Return what writes log lines to a stream."""
    handler = QuietHandler(stream)
    plain = logging.Formatter("%(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else plain)
    return handler
