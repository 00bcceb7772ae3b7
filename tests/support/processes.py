"""Real processes of iceagent and what they print, for the demonstration, the process tests and the benchmarks."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from iceagent.cli.json_lines import check_line

PATIENCE_S = 60.0
"""How long to wait for what is to come: so long that a busy machine is no reason to give up."""
ICEAGENT = (sys.executable, "-m", "iceagent")


class Ended(Exception):
    """A process ended, or stayed silent, before it printed what was waited for."""


class Process:
    """One child whose standard output is JSON lines; standard error is kept for the explanation of failures."""

    def __init__(self, command: Sequence[str], *, stdin: int = subprocess.DEVNULL) -> None:
        """Start `command`; `env` is this process's without iceagent's own variables."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("ICEAGENT_")}
        self.command = list(command)
        self.started_at = time.monotonic()
        self._popen = subprocess.Popen(
            self.command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True
        )
        self.lines: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.against_schema: list[str] = []
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._read_lines, self._read_errors)
        ]
        for thread in self._threads:
            thread.start()

    def _read_lines(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            try:
                found = json.loads(line)
            except ValueError:
                found = {"kind": "text", "text": line.rstrip("\n")}
            if isinstance(found, dict) and "schema" in found and "kind" in found:  # of our command, not of a helper
                self._check(found)
            self._queue.put(found)
        self._queue.put(None)

    def _check(self, line: dict[str, Any]) -> None:
        """Note what a line has that its published schema has not."""
        try:
            check_line(line)
        except ValueError as error:
            self.against_schema.append(str(error))

    def _read_errors(self) -> None:
        assert self._popen.stderr is not None
        for line in self._popen.stderr:
            self.errors.append(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        """The child's process id (inside `ip netns exec` it is the command's own: ip replaces itself)."""
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def wait_for(self, *kinds: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """Return the next JSON line of that kind, or of one of those.

        Raises:
            Ended: the process ended or `timeout_s` passed first; the message has all it printed.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Ended(self._story(f"no {' or '.join(kinds)} line within {timeout_s} s")) from None
            if line is None:
                self._queue.put(None)
                raise Ended(self._story(f"ended before a {' or '.join(kinds)} line"))
            self.lines.append(line)
            assert not self.against_schema, self._story(self.against_schema[0])
            if line.get("kind") in kinds:
                return line

    def rest(self) -> list[dict[str, Any]]:
        """Return the JSON lines that nobody has waited for yet; they can still be waited for."""
        with self._queue.mutex:
            return [line for line in self._queue.queue if line is not None]

    def say(self, **line: Any) -> None:
        """Write one JSON line to its standard input, which must be a pipe; a process that has ended hears nothing."""
        assert self._popen.stdin is not None
        with suppress(BrokenPipeError):
            self._popen.stdin.write(json.dumps(line) + "\n")
            self._popen.stdin.flush()

    def _story(self, what: str) -> str:
        return "\n".join([f"{' '.join(self.command)}: {what}", *map(str, self.lines), *self.errors])

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Return the exit code; raises `Ended` if there is none in time."""
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Ended(self._story(f"did not end within {timeout_s} s")) from None
        for thread in self._threads:
            thread.join(5)
        assert not self.against_schema, self._story(self.against_schema[0])
        return code

    def signal(self, number: int) -> None:
        """Send a signal to this process alone."""
        if self._popen.poll() is None:
            self._popen.send_signal(number)

    def resident_bytes(self) -> int:
        """Return the resident memory now, 0 once it has ended."""
        try:
            fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        except OSError:
            return 0
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, timeout_s: float = PATIENCE_S) -> int:
        """Interrupt, wait, kill if it does not listen; return the exit code."""
        self.signal(signal.SIGINT)
        try:
            return self.wait(timeout_s)
        except Ended:
            self._popen.kill()
            self._popen.wait()
            raise
        finally:
            for pipe in (self._popen.stdout, self._popen.stderr, self._popen.stdin):
                if pipe is not None:
                    pipe.close()


class Processes:
    """Starts processes and ends them, last first, when its `with` block ends."""

    def __init__(self, stack: ExitStack) -> None:
        """Use `processes()` instead."""
        self._stack = stack

    def start(self, *command: str, stdin: int = subprocess.DEVNULL) -> Process:
        """Start any command."""
        process = Process(command, stdin=stdin)
        self._stack.callback(self._end, process)
        return process

    def iceagent(self, *arguments: str, inside: Sequence[str] = ()) -> Process:
        """Start an iceagent command, perhaps behind a prefix such as `ip netns exec NAME`."""
        return self.start(*inside, *ICEAGENT, *arguments)

    @staticmethod
    def _end(process: Process) -> None:
        try:
            process.stop()
        except Ended as error:
            print(error, file=sys.stderr)


@contextmanager
def processes() -> Iterator[Processes]:
    """Give a `Processes` whose children have all ended when the block is left, however it is left."""
    with ExitStack() as stack:
        yield Processes(stack)


class MemoryWatch:
    """Samples the resident memory of some processes and remembers each one's peak."""

    def __init__(self, *watched: Process, interval_s: float = 0.05) -> None:
        """Watch while used as a context manager."""
        self.peaks = dict.fromkeys(watched, 0)
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(self._interval_s):
            for process in self.peaks:
                self.peaks[process] = max(self.peaks[process], process.resident_bytes())

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def peak_mb(self) -> list[float]:
        """Return each process's peak, in megabytes (10^6), in the order they were given."""
        return [peak / 1e6 for peak in self.peaks.values()]
