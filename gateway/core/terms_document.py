"""The text form of what was agreed with a customer, checked as a whole.

    payment_mode: prepayment            # or credit: billed, cut only after a notice
    disablement_threshold: "0.00"
    emergency: {limit: "5.00", threshold: "1.00", automatic: false}
    notice_days: 15

Every key has a default. All problems are reported at once, each with its path.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from gateway.core.credit import CreditTerms, PaymentMode
from gateway.core.errors import RefusedError
from gateway.core.money import Currency, format_amount, parse_amount

KEYS: Final = ("payment_mode", "disablement_threshold", "emergency", "notice_days")
EMERGENCY_KEYS: Final = ("limit", "threshold", "automatic")
NOTICE_DAYS_MAX: Final = 365


class TermsProblemsError(RefusedError):
    """Terms are refused, with everything that is wrong with them."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        text = "\n".join(f"{place}: {message}" for place, message in self.problems)
        super().__init__("TERMS_INVALID", text, self.problems[0][0])


def terms_from_document(document: Mapping[str, object], currency: Currency) -> CreditTerms:
    """The terms that a document describes. Raises TermsProblemsError with every problem."""
    reader = _Reader(currency)
    keys = reader.mapping("", document, KEYS)
    given = reader.mapping("emergency", keys.get("emergency", {}), EMERGENCY_KEYS)
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
    )
    if reader.problems:
        raise TermsProblemsError(reader.problems)
    return terms


def terms_to_document(terms: CreditTerms, currency: Currency) -> dict[str, object]:
    """The document of terms; `terms_from_document` gives equal terms back."""
    return {
        "payment_mode": terms.payment_mode.value,
        "disablement_threshold": format_amount(terms.disablement_threshold_nano, currency),
        "emergency": {
            "limit": format_amount(terms.emergency_limit_nano, currency),
            "threshold": format_amount(terms.emergency_threshold_nano, currency),
            "automatic": terms.emergency_automatic,
        },
        "notice_days": terms.notice_days,
    }


class _Reader:
    """Walks a document once and collects problems instead of stopping at the first."""

    def __init__(self, currency: Currency) -> None:
        self.problems: list[tuple[str, str]] = []
        self._currency = currency

    def mapping(self, place: str, value: object, known: Sequence[str]) -> dict[str, object]:
        if not isinstance(value, Mapping):
            self._report(place, f"expected keys such as {', '.join(known)}")
            return {}
        found: dict[str, object] = {}
        for key, item in value.items():
            if key in known:
                found[str(key)] = item
                continue
            near = get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            self._report(f"{place}.{key}" if place else str(key), f"unknown key{hint}")
        return found

    def mode(self, value: object) -> PaymentMode:
        try:
            return PaymentMode(str(value))
        except ValueError:
            self._report("payment_mode", f"{value!r} is none of prepayment, credit")
            return PaymentMode.PREPAYMENT

    def amount(self, place: str, value: object, *, signed: bool = False) -> int:
        amount_nano = self._attempt(lambda: parse_amount(value, self._currency, place))
        if amount_nano < 0 and not signed:
            self._report(place, "must not be negative")
        return amount_nano

    def truth(self, place: str, value: object) -> bool:
        if value in (True, "true", "yes"):
            return True
        if value not in (False, "false", "no"):
            self._report(place, f"{value!r} is neither true nor false")
        return False

    def days(self, value: object) -> int:
        text = str(value)
        if not text.isascii() or not text.isdigit() or int(text[:9]) > NOTICE_DAYS_MAX:
            self._report("notice_days", f"{value!r} is no number of days up to {NOTICE_DAYS_MAX}")
            return 0
        return int(text)

    def _attempt(self, parse: Callable[[], int]) -> int:
        try:
            return parse()
        except RefusedError as refusal:
            self._report(refusal.place, refusal.message)
            return 0

    def _report(self, place: str, message: str) -> None:
        self.problems.append((place, message))
