"""A number of seconds on a command line."""

from __future__ import annotations

import math

import click


class Seconds(click.FloatRange):
    """A time that ends: `nan` is in every range, and `inf` in those without an end."""

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds; what is no finite number of the range is told."""
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds, as in 30", param, ctx)
        return seconds
