"""With AGENTLM_REQUIRE_ALL=1 a test that needs Docker or vLLM fails where it would be skipped, so that no skip goes unseen."""

import os
from collections.abc import Generator

import pytest

REQUIRED = ("docker", "serve")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if os.environ.get("AGENTLM_REQUIRE_ALL") == "1" and report.skipped and not hasattr(report, "wasxfail") and _required(item):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"AGENTLM_REQUIRE_ALL=1 forbids to skip this test ({why})"
    return report


def _required(item: pytest.Item) -> bool:
    """Marked as needing what every full run has; a GPU and the shared data are not among that."""
    data = getattr(getattr(item, "module", None), "needs_data", None)
    without_data = data is not None and data.args[0] and data.mark in item.iter_markers("skipif")
    return any(map(item.get_closest_marker, REQUIRED)) and item.get_closest_marker("gpu") is None and not without_data
