"""The control socket of a running command: who owns it may ask what it does, and change that (docs/status.md)."""
