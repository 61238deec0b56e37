"""A replay for programs: amounts as exact decimal text, and in a few figures who pays more."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from gateway.app.tariff_replay import AccountReplay, ReplayReport
from gateway.core.money import Currency, format_amount
from gateway.core.tariff import Tariff


def report_json(report: ReplayReport, draft: Tariff, currency: Currency) -> dict[str, object]:
    """The whole report, the accounts in its order, with components of both tariffs."""

    def parts(components: Mapping[str, int]) -> dict[str, str]:
        return {name: format_amount(components[name], currency) for name in sorted(components)}

    def row(item: AccountReplay) -> dict[str, object]:
        return {
            "account_id": item.account_id,
            "energy_wh": item.energy_wh,
            "charged": format_amount(item.charged_nano, currency),
            "draft": format_amount(item.draft_nano, currency),
            "difference": format_amount(item.difference_nano, currency),
            "difference_percent": percent(item.difference_nano, item.charged_nano),
            "estimated_wh": item.estimated_wh,
            "unexplained": format_amount(item.unexplained_nano, currency),
            "charged_by_component": parts(item.charged),
            "draft_by_component": parts(item.draft),
        }

    charged, drafted = sums(report.accounts)
    return {
        "draft": draft.tariff_id,
        "currency": currency.code,
        "from": moment(report.from_utc_ms),
        "until": moment(report.until_utc_ms),
        "accounts": [row(item) for item in report.accounts],
        "total": {
            "energy_wh": sum(item.energy_wh for item in report.accounts),
            "charged": format_amount(charged, currency),
            "draft": format_amount(drafted, currency),
            "difference": format_amount(drafted - charged, currency),
            "difference_percent": percent(drafted - charged, charged),
            "estimated_wh": sum(item.estimated_wh for item in report.accounts),
            "unexplained": format_amount(
                sum(item.unexplained_nano for item in report.accounts), currency
            ),
        },
        "summary": summary_json(report, currency),
    }


def summary_json(report: ReplayReport, currency: Currency) -> dict[str, object]:
    """Who pays more in a few figures: what a second person is shown beside a draft."""
    charged, drafted = sums(report.accounts)
    more = [item for item in report.accounts if item.difference_nano > 0]
    less = [item for item in report.accounts if item.difference_nano < 0]
    most = max(more, key=lambda item: (item.difference_nano, item.account_id), default=None)
    return {
        "compared": True,
        "from": moment(report.from_utc_ms),
        "until": moment(report.until_utc_ms),
        "currency": currency.code,
        "accounts": len(report.accounts),
        "pay_more": len(more),
        "pay_less": len(less),
        "charged": format_amount(charged, currency),
        "draft": format_amount(drafted, currency),
        "difference": format_amount(drafted - charged, currency),
        "difference_percent": percent(drafted - charged, charged),
        "estimated_wh": sum(item.estimated_wh for item in report.accounts),
        "largest": most
        and {
            "account_id": most.account_id,
            "difference": format_amount(most.difference_nano, currency),
            "difference_percent": percent(most.difference_nano, most.charged_nano),
        },
    }


def percent(part_nano: int, whole_nano: int) -> str | None:
    """A share in percent with its sign and a decimal, half away from zero; None of nothing."""
    if whole_nano <= 0:
        return None
    tenths = (2_000 * abs(part_nano) + whole_nano) // (2 * whole_nano)
    sign = "" if not tenths else "-" if part_nano < 0 else "+"
    return f"{sign}{tenths // 10}.{tenths % 10}"


def sums(accounts: Sequence[AccountReplay]) -> tuple[int, int]:
    """What all were charged, and what the draft comes to."""
    return sum(item.charged_nano for item in accounts), sum(item.draft_nano for item in accounts)


def moment(utc_ms: int) -> str:
    """RFC 3339 UTC with milliseconds."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=utc_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
