"""Terms: whatever is accepted is stored, and what is stored is read at every start."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.credit import CreditTerms
from gateway.core.errors import RefusedError
from gateway.core.friendly_document import MAX_HOLIDAYS, MAX_WINDOWS
from gateway.core.friendly_presets import PRESETS
from gateway.core.money import Currency
from gateway.core.terms_document import terms_from_document, terms_to_document

INR = Currency("INR")
ZONE = "Asia/Kolkata"
WINDOW = {"from": "01:00", "to": "02:00"}

# Amounts, numbers and words near what is right, and everything else that JSON can say.
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.from_regex(r"-?0{0,12}[0-9]{1,20}(\.[0-9]{1,10})?", fullmatch=True)
    | st.sampled_from(["prepayment", "credit", "20 %", "3 days", "true", "in_uppcl", "uk_edf"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["from", "to", "days", "id", "limit"]), inner, max_size=4)
    ),
    max_leaves=8,
)
windows = st.fixed_dictionaries(
    {
        "from": st.from_regex(r"((mon|sat) )?(0[0-9]|1[0-9]):[0-5]0", fullmatch=True),
        "to": st.from_regex(r"((tue|sun) )?(0[0-9]|1[0-9]):[0-5]0", fullmatch=True),
    },
    optional={"days": st.lists(st.sampled_from(["mon", "sun", "holiday"]), min_size=1, max_size=3)},
)
calendars = st.fixed_dictionaries(
    {},
    optional={
        "preset": st.sampled_from([*PRESETS, "own"]),
        "windows": st.lists(windows, max_size=MAX_WINDOWS),
        "holidays": st.lists(st.dates().map(str) | st.just("second sat"), max_size=5),
        "timezone": st.sampled_from(["Europe/London", "UTC", "Asia", "../UTC"]),
    },
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "payment_mode": scalars,
        "disablement_threshold": scalars,
        "emergency": values
        | st.fixed_dictionaries(
            {}, optional={"limit": scalars, "threshold": scalars, "automatic": scalars}
        ),
        "low_credit": values | st.lists(scalars, max_size=5),
        "friendly_hours": values | calendars,
        "notice_days": scalars,
    },
)


def read(document: dict[str, object]) -> CreditTerms:
    """The terms of a document at this site."""
    return terms_from_document(document, INR, ZONE)


@pytest.mark.slow
@given(documents)
def test_what_is_accepted_can_be_read_again(document: dict[str, object]) -> None:
    """Control stores the document of the terms and reads it at each start: it must be able to."""
    try:
        terms = read(document)
    except RefusedError:
        return
    assert read(terms_to_document(terms, INR)) == terms


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize(
    ("key", "entries"),
    [
        ("windows", [WINDOW] * MAX_WINDOWS),
        ("holidays", [f"{2040 + n // 12}-{n % 12 + 1:02d}-15" for n in range(MAX_HOLIDAYS)]),
    ],
)
def test_a_preset_counts_among_the_entries_of_a_calendar(
    name: str, key: str, entries: list[object]
) -> None:
    """The preset is written out when terms are stored: with it there were too many to be read."""
    with pytest.raises(RefusedError) as refused:
        read({"friendly_hours": {"preset": name, key: entries}})
    assert f"friendly_hours.{key}" in refused.value.message
