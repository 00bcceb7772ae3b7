"""A pytest plugin for the runner of mutants: writes how each phase of each test ended, one JSON object a line."""

from __future__ import annotations

import json
import os

import pytest


def _note(nodeid: str, when: str, outcome: str, message: str) -> None:
    with open(os.environ["MUTANTS_OUTCOMES"], "a", encoding="utf-8") as lines:
        print(json.dumps({"test": nodeid, "when": when, "outcome": outcome, "message": message}), file=lines)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report.nodeid, report.when or "", report.outcome, _message(report))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _note(report.nodeid, "collect", report.outcome, _message(report))


def _message(report: pytest.TestReport | pytest.CollectReport) -> str:
    if report.longrepr is None:
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longrepr)
