"""A replay in a process of its own: north starts one, asks on its input and reads its output.

Nothing here may hurt control: the process has the lowest priority, keeps no lock and no snapshot
for long, and ends by itself when its time is over, also where nobody is left to end it.
"""

import json
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

from gateway.app.config import load_config
from gateway.app.config_site import currency_of
from gateway.app.replay_report import report_json
from gateway.app.tariff_replay import ReplayReport, ReplayWish, replay_tariff
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.core.tariff_document import tariff_from_document


def answer(config_path: Path, wish: Mapping[str, object]) -> dict[str, object]:
    """What a wish comes to: the report, who pays more first, or why there is none.

    `document`, `days`, `accounts`, `tariff_ids` and `account_days_max` are as in `ReplayWish` and
    `replay_tariff`. Raises ConfigurationError.
    """
    config = load_config(config_path)
    site = config.site
    currency = currency_of(site)
    try:
        draft = tariff_from_document(cast("dict[str, object]", wish["document"]), currency)
        asked = ReplayWish(
            draft,
            cast("int", wish["days"]),
            tuple(cast("list[str]", wish["accounts"])),
            tuple(cast("list[str]", wish["tariff_ids"])),
        )
        most = cast("int", wish["account_days_max"])
        report = replay_tariff(config, asked, lambda _done, _all: None, account_days_max=most)
    except RefusedError as error:
        return {"code": error.refusal_code, "message": error.message, "place": error.place}
    except StoreAwayError as error:
        return {"code": error.code, "message": str(error), "place": ""}
    accounts = sorted(report.accounts, key=lambda item: (-item.difference_nano, item.account_id))
    report = ReplayReport(report.from_utc_ms, report.until_utc_ms, tuple(accounts))
    return {"report": report_json(report, draft, currency)}


def main() -> None:
    """Answer one wish from standard input on standard output."""
    with suppress(OSError):
        # Where memory runs out this goes, and not the north that answers everybody.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    wish = json.loads(sys.stdin.buffer.read())
    # The kernel ends this process then, whatever it does.
    signal.alarm(wish["deadline_s"])
    sys.stdout.write(json.dumps(answer(Path(sys.argv[1]), wish)))
