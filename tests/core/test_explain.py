"""Explanations: exact for every line, and wrong as soon as one figure is."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from gateway.core.documents.posted import seen_by
from gateway.core.documents.rates import RateBook
from gateway.core.explain import Component, Explainer, Explanation, shortfalls
from gateway.core.ledger import Entry, wallet
from tests.core.ledger_maker import FLAT, LedgerMaker, adjustment
from tests.core.test_documents import explained, january
from tests.core.test_prepaid_cases import instant, tariff


def test_a_tax_is_shown_with_its_cumulative_basis() -> None:
    """Case B08's remainder: each posting's tax is the difference of two floored taxes."""
    made = LedgerMaker(
        [tariff({"price": "7.333333"}, tax_bp="1800")], instant("2026-01-05T00:00:00+05:30")
    )
    for _ in range(2):
        made.use({"grid": 1}, 1_000)
        made.settle()
    first, second = (one.lines[0].components[0] for one in explained(made))
    assert (first.before_nano, first.after_nano, first.amount_nano) == (0, 1_319_999, 1_319_999)
    assert (second.before_nano, second.after_nano) == (1_319_999, 2_639_999)
    assert second.amount_nano == 1_320_000
    basis = second.basis
    assert basis is not None
    assert (basis.before_nano, basis.after_nano) == (7_333_333, 14_666_666)
    assert (basis.terms.rate_ppm, basis.terms.bases) == (180_000, ("energy",))


def spoilt(explanation: Explanation) -> Sequence[Explanation]:
    """Wrong explanations: each differs from the right one in one figure."""
    line = explanation.lines[0]
    energy, tax = line.energy[0], line.components[-1]
    assert energy.rate is not None
    assert tax.basis is not None
    dearer = replace(energy, rate=replace(energy.rate, price_micro=energy.rate.price_micro + 1))
    lines = [
        replace(line, energy=(replace(energy, wh=energy.wh + 1),)),
        replace(line, energy=(dearer,)),
        replace(line, energy=(replace(energy, rate=None),)),
        replace(line, components=()),
        replace(line, components=(_moved(tax, 1),)),
        replace(line, components=(replace(tax, before_nano=1, after_nano=tax.after_nano + 1),)),
        replace(
            line,
            components=(
                replace(tax, basis=replace(tax.basis, after_nano=tax.basis.after_nano + 100)),
            ),
        ),
    ]
    return [replace(explanation, lines=(wrong,)) for wrong in lines] + [
        replace(explanation, lines=()),
        replace(
            explanation,
            posted=replace(explanation.posted, own=(Entry(wallet(FLAT), -1),)),
        ),
    ]


def _moved(tax: Component, by: int) -> Component:
    return replace(tax, amount_nano=tax.amount_nano + by, after_nano=tax.after_nano + by)


@pytest.mark.parametrize("index", range(9))
def test_a_wrong_explanation_is_found(index: int) -> None:
    """Every single figure counts: change one and the explanation no longer adds up."""
    right = explained(january())[1]
    assert shortfalls(right) == ()
    assert shortfalls(spoilt(right)[index]) != ()


def test_a_reversal_is_explained_by_its_original() -> None:
    """It undoes every entry of it, and nothing else."""
    made = january()
    seq = made.recharge(10**9)
    made.reverse(seq)
    assert shortfalls(explained(made)[-1]) == ()
    other = seen_by(FLAT, 1, adjustment((Entry(wallet(FLAT), 5), Entry("opening", -5)), 0))
    assert "does not undo" in shortfalls(replace(explained(made)[-1], original=other))[0]


def test_a_fee_is_the_version_of_the_month_it_closes() -> None:
    """A version that begins with the new month does not tax the old month's fee."""
    old = tariff({"price": "5"}, tax_bp="1000", taxable=["fixed"], fixed="30")
    new = tariff(
        {"price": "6"}, tax_bp="2000", taxable=["fixed"], fixed="90", version=2,
        effective_from="2026-02-01",
    )  # fmt: skip
    made = LedgerMaker([old, new], instant("2026-01-31T23:59:00+05:30"))
    made.use({"grid": 0}, 120_000)
    made.settle()
    (explanation,) = explained(made)
    assert explanation.lines[0].version == 1
    assert shortfalls(explanation) == ()


def test_a_fee_that_an_older_version_taxed_is_found_by_its_tax() -> None:
    """A fee of the days before a change, posted after it: only the older version's rate fits."""
    old = tariff({"price": "5"}, tax_bp="1000", taxable=["fixed"])
    new = tariff(
        {"price": "6"}, tax_bp="2000", taxable=["fixed"], version=2, effective_from="2026-01-15"
    )
    rates = RateBook([old, new])
    posted = january().posted()[1]
    fee = replace(
        posted.lines[0], tariff_id="case", cells=(), advance_wh=(0,), period="2026-01",
        charges=(("fixed", 70), ("tax:VAT", 7)), to_utc_ms=instant("2026-01-15T00:00:01+05:30"),
    )  # fmt: skip
    assert rates.version_of(fee) == 2
    closing = replace(fee, to_utc_ms=instant("2026-02-01T00:00:01+05:30"))
    later = tariff({"price": "7"}, version=3, effective_from="2026-02-01")
    assert RateBook([old, new, later]).version_of(closing) == 2
    own = (Entry(wallet(FLAT), -77),)
    explanation = Explainer(rates).take(replace(posted, own=own, lines=(fee,)))
    assert explanation.lines[0].version == 1
    assert shortfalls(explanation) == ()
