"""`iceagent check-config`: whether `iceagent serve --config` would start with a file."""

from __future__ import annotations

from pathlib import Path

import click
from icesignal.config_option import check_file

from iceagent.cli.exits import Exit
from iceagent.cli.options import Common, output_options
from iceagent.cli.serve_config import ServeConfig, serve_problems


@click.command("check-config", epilog="Example:  iceagent check-config /etc/iceagent/serve.toml")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@output_options
def command(file: Path, as_json: bool, quiet: bool, verbose: int) -> int:
    """Tell whether the configuration of a server can be used, and all that is wrong with it.

    Certificates, keys and files of secrets are looked at, too. Nothing is opened, and no port is needed.
    """
    output = Common(as_json, quiet, verbose).open_output()
    problems = check_file(file, ServeConfig, serve_problems)
    for problem in problems:
        output.error(Exit.USAGE, problem)
    if not problems:
        output.line("checked", f"{file} is good", file=str(file))
    return Exit.USAGE if problems else Exit.OK
