"""A tariff whose price rises by more than half: a draft, a second manager, and only then in force.

The real control: its stores, its engine and whoever carries out its requests.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gateway.core.requests import DecideTariff, Outcome, PublishTariff
from gateway.store.commands import find_outcome
from gateway.store.drafts import open_drafts
from tests.app.control_site import START_MS, TARIFF, ControlSite

DAY_MS = 86_400_000
FROM = "2027-01-20T00:00:00+05:30"
FROM_MS = 1_800_383_400_000


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ControlSite]:
    """A site of two flats."""
    site = ControlSite(tmp_path)
    yield site
    site.crash()


def dearer(price: str, **more: object) -> str:
    """The site's tariff from another price on."""
    return json.dumps(
        {**json.loads(TARIFF), "effective_from": FROM, "grid": {"price": price}, **more}
    )


async def later(site: ControlSite, seconds: float, wh: int = 0) -> None:
    """So much later both meters are read, the first with so much more used, and all is swept."""
    site.clock.pass_s(seconds)
    site.read(1_000_000 + wh)
    site.read(1_000_000, index=1)
    await site.sweeper.sweep()


async def spent_nano(site: ControlSite) -> int:
    """What 100 Wh cost flat 1 once the day of the wanted price has come."""
    await later(site, (FROM_MS - START_MS) / 1000)
    account = site.engine.points[0].account
    assert account is not None
    left_nano = account.available_nano
    await later(site, 60, 100)
    return left_nano - account.available_nano


def outcome_of(site: ControlSite, key: str) -> Outcome:
    """What became of a request."""
    found = find_outcome(site.file.connection, key)
    assert found is not None
    return found


async def drafted(site: ControlSite, price: str = "14.00") -> Mapping[str, object]:
    """Flat 1 is open at 8.00, and anna wants another price."""
    await later(site, 1)
    await site.open_flat(500_000_000_000)
    await site.do(PublishTariff(dearer(price)), key="rise", actor="anna")
    return outcome_of(site, "rise").result


async def test_a_big_rise_is_kept_and_not_published(site: ControlSite) -> None:
    """The answer says that nothing is in force, what rises, and who goes on how."""
    result = await drafted(site)
    assert (result["published"], result["draft"]) == (False, 1)
    assert str(result["rise"]).startswith("grid")
    assert "75 % more" in str(result["rise"])
    assert "prepaid-gateway tariff decide 1" in str(result["next"])
    assert len(site.found.shelf.known("home")) == 1
    (draft,) = open_drafts(site.file.connection)
    assert (draft.number, draft.actor, draft.document["effective_from"]) == (1, "anna", FROM)


async def test_a_rise_of_half_is_published_at_once(site: ControlSite) -> None:
    """More than half needs a second person; half does not."""
    result = await drafted(site, "12.00")
    assert result == {"tariff_id": "home", "version": 2}
    assert open_drafts(site.file.connection) == []


async def test_the_first_person_cannot_be_the_second(site: ControlSite) -> None:
    """Approving one's own draft is refused by name; refusing it is not."""
    await drafted(site)
    await site.do(DecideTariff(1, True, "I am sure"), key="own", actor="anna")
    refused = outcome_of(site, "own")
    assert refused.code == "SAME_PERSON"
    assert "draft 1 is your own (anna)" in refused.message
    assert len(site.found.shelf.known("home")) == 1
    await site.do(DecideTariff(1, False, "a mistake"), key="taken-back", actor="anna")
    assert outcome_of(site, "taken-back").result["accepted"] is False
    assert open_drafts(site.file.connection) == []


async def test_the_second_person_puts_it_in_force_to_the_last_nano(site: ControlSite) -> None:
    """After approval energy costs the new price from its beginning, over a restart too."""
    await drafted(site)
    await site.do(DecideTariff(1, True, "agreed"), key="second", actor="bert")
    result = outcome_of(site, "second").result
    assert (result["tariff_id"], result["version"], result["draft"]) == ("home", 2, 1)
    assert "75 % more" in str(result["rise"])
    site.restart()
    await later(site, 1)
    assert await spent_nano(site) == 100 * 14_000_000


async def test_a_refused_draft_never_charges_anybody(site: ControlSite) -> None:
    """Its day comes and the old price goes on."""
    await drafted(site)
    await site.do(DecideTariff(1, False, "too much"), key="no", actor="bert")
    assert await spent_nano(site) == 100 * 8_000_000


async def test_a_draft_is_decided_once_and_only_where_it_is(site: ControlSite) -> None:
    """A second decision, a number that never was, and no reason: each is refused by name."""
    await drafted(site)
    await site.do(DecideTariff(2, True, "x"), key="none", actor="bert")
    await site.do(DecideTariff(1, True), key="silent", actor="bert")
    await site.do(DecideTariff(1, True, "agreed"), key="yes", actor="bert")
    await site.do(DecideTariff(1, False, "no"), key="late", actor="carla")
    codes = [outcome_of(site, key).code for key in ("none", "silent", "yes", "late")]
    assert codes == ["DRAFT_UNKNOWN", "REASON_MISSING", "", "DRAFT_UNKNOWN"]


async def test_a_draft_whose_day_has_passed_is_judged_by_the_present(site: ControlSite) -> None:
    """Approving late must not change what was charged: refused, and it stays to be refused."""
    await drafted(site)
    await later(site, (FROM_MS + DAY_MS - START_MS) / 1000)
    await site.do(DecideTariff(1, True, "agreed"), key="late", actor="bert")
    assert outcome_of(site, "late").code == "TARIFF_RETROACTIVE"
    assert [draft.number for draft in open_drafts(site.file.connection)] == [1]


async def test_a_version_in_between_is_what_a_draft_is_judged_against(site: ControlSite) -> None:
    """8.00 became 12.00 since: 14.00 is no longer 75 % more, and the answer says what it is."""
    await drafted(site)
    await site.do(PublishTariff(dearer("12.00", effective_from="2027-01-19")), key="between")
    await site.do(DecideTariff(1, True, "agreed"), key="second", actor="bert")
    result = outcome_of(site, "second").result
    assert (result["version"], result["rise"]) == (3, "grid energy: 16.7 % more")


async def test_a_rise_that_grew_since_is_agreed_on_by_nobody(site: ControlSite) -> None:
    """8.00 became 4.00 since: whoever approves has seen 75 %, and it would be 250 %. Refused, with
    both figures; the draft waits to be refused, over a restart too."""
    await drafted(site)
    cheaper = {"effective_from": "2027-01-19", "generator": {"price": "4.00"}}
    await site.do(PublishTariff(dearer("4.00", **cheaper)), key="between")
    assert outcome_of(site, "between").result["version"] == 2
    site.restart()
    await later(site, 1)
    await site.do(DecideTariff(1, True, "agreed"), key="second", actor="bert")
    refused = outcome_of(site, "second")
    assert refused.code == "RISE_GREW"
    assert "Then grid energy: 75 % more, now grid energy: 250 % more" in refused.message
    assert len(site.found.shelf.known("home")) == 2
    await site.do(DecideTariff(1, False, "it grew"), key="no", actor="bert")
    assert outcome_of(site, "no").result["accepted"] is False


@pytest.mark.slow
async def test_what_was_compared_stays_with_the_draft_and_decides_nothing(
    site: ControlSite,
) -> None:
    """The second person finds the first one's figures; a text that is no summary is refused."""
    await later(site, 1)
    await site.open_flat(500_000_000_000)
    replay = '{"compared": true, "pay_more": 3}'
    await site.do(PublishTariff(dearer("14.00"), replay), key="rise")
    assert outcome_of(site, "rise").result["replay"] == {"compared": True, "pay_more": 3}
    (draft,) = open_drafts(site.file.connection)
    assert (draft.replay, draft.follows) == ({"compared": True, "pay_more": 3}, 1)
    await site.do(PublishTariff(dearer("9.00"), replay), key="small")
    assert outcome_of(site, "small").result["replay"] == {"compared": True, "pay_more": 3}
    await site.do(PublishTariff(dearer("9.50", effective_from="2027-02-01"), "[1]"), key="list")
    assert outcome_of(site, "list").code == "REQUEST_FIELD"
