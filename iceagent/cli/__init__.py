"""The command line: one module per verb, imported when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `iceagent` and return its exit code (see `iceagent.cli.exits`)."""
    try:
        from iceagent.cli.app import run_app  # here, so that Ctrl-C while modules are read ends as it should

        return run_app(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        from iceagent.cli.output import Output

        Output(as_json="--json" in sys.argv).error(130, "interrupted")
        return 130
