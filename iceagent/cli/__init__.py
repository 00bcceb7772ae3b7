"""The command line: one module per verb."""


def main() -> None:
    """Run the `iceagent` command."""
