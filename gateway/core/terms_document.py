"""The text form of what was agreed with a customer, checked as a whole.

    payment_mode: prepayment            # or credit: billed, cut only after a notice
    disablement_threshold: "0.00"
    emergency: {limit: "5.00", threshold: "1.00", automatic: false}
    low_credit: ["100", "20 %", "3 days"]     # alerts: amount, share of the last recharge, days
    friendly_hours: {preset: in_uppcl}        # hours in which running out does not cut
    notice_days: 15

Every key has a default. All problems are reported at once, each with its path.
"""

from collections.abc import Callable, Mapping
from typing import Final

from gateway.core.credit import CreditTerms, PaymentMode
from gateway.core.errors import RefusedError
from gateway.core.friendly import FriendlyCalendar
from gateway.core.friendly_document import calendar_from_document, calendar_to_document
from gateway.core.lowcredit import Threshold, thresholds_from_document, thresholds_to_document
from gateway.core.money import Currency, format_amount, parse_amount
from gateway.core.problems import DocumentProblemsError, ProblemList, joined

LOW_CREDIT: Final = "low_credit"
FRIENDLY_HOURS: Final = "friendly_hours"
KEYS: Final = (
    "payment_mode",
    "disablement_threshold",
    "emergency",
    LOW_CREDIT,
    FRIENDLY_HOURS,
    "notice_days",
)
EMERGENCY_KEYS: Final = ("limit", "threshold", "automatic")
NOTICE_DAYS_MAX: Final = 365
DAYS_DIGITS_MAX: Final = 9


def terms_from_document(
    document: Mapping[str, object], currency: Currency, site_zone: str
) -> CreditTerms:
    """The terms that a document describes; `site_zone` is that of hours which name none.

    Raises DocumentProblemsError TERMS_INVALID (or the code that all its problems share).
    """
    reader = _Reader(currency, site_zone)
    keys = reader.problems.mapping("", document, KEYS)
    given = reader.problems.mapping("emergency", keys.get("emergency", {}), EMERGENCY_KEYS)
    terms = CreditTerms(
        payment_mode=reader.mode(keys.get("payment_mode", PaymentMode.PREPAYMENT.value)),
        disablement_threshold_nano=reader.amount(
            "disablement_threshold", keys.get("disablement_threshold", "0"), signed=True
        ),
        emergency_limit_nano=reader.amount("emergency.limit", given.get("limit", "0")),
        emergency_threshold_nano=reader.amount(
            "emergency.threshold", given.get("threshold", "0"), signed=True
        ),
        emergency_automatic=reader.truth("emergency.automatic", given.get("automatic", False)),
        notice_days=reader.days(keys.get("notice_days", CreditTerms().notice_days)),
        low_credit=reader.thresholds(keys.get(LOW_CREDIT, ())),
        calendar=reader.calendar(keys.get(FRIENDLY_HOURS)),
    )
    reader.problems.raise_if_any()
    return terms


def terms_to_document(terms: CreditTerms, currency: Currency) -> dict[str, object]:
    """The document of terms; `terms_from_document` gives equal terms back."""
    document: dict[str, object] = {
        "payment_mode": terms.payment_mode.value,
        "disablement_threshold": format_amount(terms.disablement_threshold_nano, currency),
        "emergency": {
            "limit": format_amount(terms.emergency_limit_nano, currency),
            "threshold": format_amount(terms.emergency_threshold_nano, currency),
            "automatic": terms.emergency_automatic,
        },
        "notice_days": terms.notice_days,
    }
    if terms.low_credit:
        document[LOW_CREDIT] = thresholds_to_document(terms.low_credit, currency)
    if terms.calendar is not None:
        document[FRIENDLY_HOURS] = calendar_to_document(terms.calendar)
    return document


class _Reader:
    """Walks a document once and collects problems instead of stopping at the first."""

    def __init__(self, currency: Currency, site_zone: str) -> None:
        self.problems = ProblemList("TERMS_INVALID")
        self._currency = currency
        self._site_zone = site_zone

    def mode(self, value: object) -> PaymentMode:
        try:
            return PaymentMode(str(value))
        except ValueError:
            self.problems.report("payment_mode", f"{value!r} is none of prepayment, credit")
            return PaymentMode.PREPAYMENT

    def amount(self, place: str, value: object, *, signed: bool = False) -> int:
        amount_nano = self._attempt(lambda: parse_amount(value, self._currency, place), place)
        if amount_nano < 0 and not signed:
            self.problems.report(place, "must not be negative")
        if abs(amount_nano) > self._currency.amount_max_nano:
            most = format_amount(self._currency.amount_max_nano, self._currency)
            self.problems.report(place, f"is beyond the maximum of {most}")
        return amount_nano

    def truth(self, place: str, value: object) -> bool:
        if value in (True, "true", "yes"):
            return True
        if value not in (False, "false", "no"):
            self.problems.report(place, f"{value!r} is neither true nor false")
        return False

    def days(self, value: object) -> int:
        text = str(value)
        # The length first: Python reads no number of thousands of digits.
        is_number = len(text) <= DAYS_DIGITS_MAX and text.isascii() and text.isdigit()
        if not is_number or int(text) > NOTICE_DAYS_MAX:
            problem = f"{text[:20]!r} is no number of days up to {NOTICE_DAYS_MAX}"
            self.problems.report("notice_days", problem)
            return 0
        return int(text)

    def thresholds(self, value: object) -> tuple[Threshold, ...]:
        if value in ((), []):
            return ()
        try:
            return thresholds_from_document(value, self._currency, LOW_CREDIT)
        except DocumentProblemsError as refusal:
            self._take(refusal, "")
            return ()

    def calendar(self, value: object) -> FriendlyCalendar | None:
        if value is None:
            return None
        try:
            return calendar_from_document(value, self._site_zone)
        except DocumentProblemsError as refusal:
            self._take(refusal, FRIENDLY_HOURS)
            return None

    def _take(self, refusal: DocumentProblemsError, below: str) -> None:
        for problem in refusal.problems:
            place = joined(below, problem.place) if below else problem.place
            self.problems.report(place, problem.message, problem.code)

    def _attempt(self, parse: Callable[[], int], place: str) -> int:
        try:
            return parse()
        except RefusedError as refusal:
            self.problems.report(place, refusal.message)
            return 0
