"""Settings: nothing unknown or beyond its limits is taken, and a kept file never stops a node."""

from node import settings
from tests.firmware.same.tools import refused


def test_every_default_is_within_its_limits():
    """And is what a node starts with."""
    values = settings.defaults()
    for key, (default, low, high) in settings.NUMBERS.items():
        assert low <= default <= high
        assert values[key] == default
    assert values["modules"] == [1]


def test_limits_hold_at_their_edges():
    """Of every number, and no other kind of value."""
    for key, (_, low, high) in settings.NUMBERS.items():
        for value in (low - 1, high + 1, None, True, 1.0, "1", [1]):
            error = refused(ValueError, settings.changed, settings.defaults(), {key: value})
            assert str(error).startswith(key)
        if not key.startswith("voltage_"):
            for value in (low, high):
                assert settings.changed(settings.defaults(), {key: value})[key] == value


def test_modules_are_one_to_three_addresses():
    """Different ones, as the bus needs."""
    for value in ([], [1, 2, 3, 4], [0], [248], [1, 1], ["1"], 1, None):
        refused(ValueError, settings.changed, settings.defaults(), {"modules": value})
    assert settings.changed(settings.defaults(), {"modules": [1, 247, 2]})["modules"] == [1, 247, 2]


def test_what_contradicts_itself_or_is_unknown_is_refused():
    """All of the change, not its right half."""
    both = {"voltage_low_dv": 2_500, "voltage_high_dv": 1_900}
    refused(ValueError, settings.changed, settings.defaults(), both)
    error = refused(ValueError, settings.changed, settings.defaults(), {"poll_s": 2, "x": 1})
    assert str(error) == "x: unknown"


def test_a_change_leaves_the_old_settings_alone():
    """Whoever holds them may go on."""
    old = settings.defaults()
    assert settings.changed(old, {"poll_s": 5})["poll_s"] == 5
    assert old == settings.defaults()


def test_a_kept_file_is_read_as_far_as_it_is_right():
    """A key of another version and a wrong value are left out; no JSON is no settings."""
    text = '{"poll_s": 5, "record_s": 1, "of_later": 3}'
    values, left_out = settings.read(text)
    assert values["poll_s"] == 5
    assert values["record_s"] == 900
    assert left_out == ["of_later", "record_s"]
    for broken in ("", "{", "[]", "null"):
        assert settings.read(broken) == (settings.defaults(), ["all"])
    changed = settings.changed(settings.defaults(), {"modules": [7], "limit_w": 500})
    assert settings.read(settings.write(changed)) == (changed, [])
