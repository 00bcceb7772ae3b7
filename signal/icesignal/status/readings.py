"""What stands in the text of `/metrics`, as numbers. Source: Prometheus' text format 0.0.4."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_SAMPLE = re.compile(r"(?P<key>(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?) (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_HELP = re.compile(r"# HELP (?P<name>[\w:]+) (?P<meaning>.*)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One number; the labels are as they stand in the text."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Readings:
    """All numbers of one text, by how they are called there, labels and all; and what the families mean, by name."""

    samples: dict[str, Sample] = field(default_factory=dict[str, Sample])
    meanings: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, text: str) -> Readings:
        """Return what a text says; lines that are none of the format are left out, and so are NaN and the infinite."""
        readings = cls()
        for line in text.splitlines():
            if (told := _HELP.fullmatch(line)) is not None:
                readings.meanings[told["name"]] = told["meaning"]
            elif (found := _SAMPLE.fullmatch(line)) is not None and (value := _finite(found["value"])) is not None:
                labels = dict(_LABEL.findall(found["labels"] or ""))
                readings.samples[found["key"]] = Sample(found["name"], labels, value)
        return readings


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
