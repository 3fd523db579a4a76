"""What a new fleet's lists say: that there is nothing yet, and how something comes to be."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from edgekit.cli import edgekit
from edgekit.fleet.folder import Fleet


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("release list", "edgekit release add BUNDLE.ekb"),
        ("fleet rollout status", "edgekit fleet rollout start NAME@VERSION"),
        ("fleet experiment list", "edgekit fleet experiment start"),
        ("fleet shadow list", "edgekit fleet shadow start"),
        ("fleet request list", "No request."),
        ("fleet devices list", "No device has spoken yet."),
        ("fleet devices list site=rome", "No device matches 'site=rome'."),
        ("fleet groups list", "edgekit fleet groups save NAME QUERY"),
        ("fleet enrolment list", "edgekit fleet enrolment create"),
        ("fleet token list", "edgekit fleet token create NAME ROLE"),
        ("fleet audit list", "No entry yet."),
    ],
)
def test_an_empty_list_says_so(fleet: Fleet, command: str, words: str) -> None:
    done = CliRunner().invoke(edgekit, [*command.split(), "--fleet", str(fleet.path)])
    assert done.exit_code == 0, done.exception
    assert words in done.output
    assert "---" not in done.output
