"""`supply`: limits, shedding and overrides from a terminal."""

import json

import pytest

from tests.app import test_cli_site
from tests.app.test_cli_site import Desk

pytestmark = pytest.mark.slow

peer, config, settings = test_cli_site.peer, test_cli_site.config, test_cli_site.settings
executor, desk = test_cli_site.executor, test_cli_site.desk
WHY = ("--reason", "because")


async def test_a_limit_an_override_and_its_end(desk: Desk) -> None:
    """Each says what it did; the list shows what stands."""
    ended = await desk.run("supply", "limit", "flat-1", "--t1", "5000", "--t2", "0", *WHY)
    assert (ended.status, ended.out) == (0, "flat-1: limited\n")
    ended = await desk.run("supply", "keep", "flat-1", "--hours", "8", *WHY)
    assert ended.status == 0
    assert ended.out.startswith("override 1 stands until ")
    ended = await desk.run("supply", "maintenance", "--hours", "2", *WHY)
    assert ended.out.startswith("override 2 stands until ")
    listed = json.loads((await desk.run("supply", "overrides", "--json")).out)["items"]
    assert [(item["kind"], item["scope"], item["target"]) for item in listed] == [
        ("KEEP_CONNECTED", "point", "flat-1"),
        ("MAINTENANCE", "site", ""),
    ]
    assert "MAINTENANCE" in (await desk.run("supply", "overrides")).out
    ended = await desk.run("supply", "end-override", "2", *WHY)
    assert ended.out == "override 2 has ended\n"


async def test_shedding_and_restoring(desk: Desk) -> None:
    """One manager alone restores nothing, and is told so."""
    ended = await desk.run("supply", "shed", "riser-9", "--to", "0", *WHY)
    assert (ended.status, "FEEDER_UNKNOWN" in ended.err) == (1, True)
    ended = await desk.run("supply", "restore-all", "--hours", "1", *WHY)
    assert ended.out == "noted; a second, different manager has to ask within ten minutes\n"


async def test_what_is_refused_says_why(desk: Desk) -> None:
    """Exit code 1 for a rule, 2 for the wrong words."""
    ended = await desk.run("supply", "unlock", "flat-1", *WHY)
    assert (ended.status, "NOT_LOCKED" in ended.err) == (1, True)
    ended = await desk.run("supply", "shed", "riser-a", "--to", "1", "--below-priority", "3", *WHY)
    assert ended.status == 2
    ended = await desk.run("supply", "keep", "flat-1", "--hours", "73", *WHY)
    assert ended.status == 2
