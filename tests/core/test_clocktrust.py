"""When the wall clock may be believed."""

from gateway.core.clocktrust import judge_clock, stepped

NOW = 1_800_000_000_000


def judged(
    *,
    utc_ms: int = NOW,
    synchronised: bool = False,
    last: int = NOW - 1000,
    meters: tuple[int, ...] = (NOW,),
    confirmed: bool = False,
) -> bool:
    return judge_clock(
        utc_ms=utc_ms,
        synchronised=synchronised,
        last_commit_utc_ms=last,
        meter_clocks_ms=meters,
        confirmed=confirmed,
    ).trusted


def test_meters_vouch_for_the_clock_without_internet() -> None:
    """Not before the last record and within an hour of the meters' median."""
    assert judged()
    assert judged(meters=(NOW - 3_500_000, NOW, NOW + 9_000_000))
    assert not judged(meters=(NOW - 3_700_000,))


def test_1970_at_boot_is_not_believed() -> None:
    """A flat battery shows as a time before the last record."""
    assert not judged(utc_ms=0)
    assert not judged(utc_ms=0, meters=(0,))


def test_no_witness_no_trust() -> None:
    """Nothing vouches: wait, unless the time service or a person does."""
    assert not judged(meters=())
    assert judged(meters=(), synchronised=True)
    assert judged(meters=(), confirmed=True)


def test_step_of_more_than_five_seconds_is_an_event() -> None:
    """Small slews are the time service at work."""
    assert stepped(11_000, 5_000)
    assert stepped(-130_000, 1_000)
    assert not stepped(5_900, 1_000)
