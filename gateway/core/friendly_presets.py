"""Calendars of friendly hours of other suppliers, as documents; looked up, not authoritative.

`uk_edf`: EDF (Great Britain), pay-as-you-go electricity. Its help pages say Monday to Saturday
    6 pm to 11 am, and any time on weekends and bank holidays until 11 am of the next working day:
    edfenergy.com/help-support/faq/will-my-meter-be-disconnected-if-i-run-out-credit-night-sundays-
    or-bank-holidays, the same hours (Monday to Friday) in …/what-are-non-disconnection-hours-
    electricity-meters. An older page (…/for-home/help-centre/faq/what-friendly-non-disconnect-
    function-my-prepayment-meter) ends at 9 am and has no Saturday daytime; the later hour is taken.
    Not verified: which of the pages is the current one. Bank holidays are those of England and
    Wales as rules, with their substitute days to 2035 derived from the rule (a holiday that falls
    on a weekend moves to the next working day); one-off bank holidays and those of Scotland and
    Northern Ireland are to be added.
`in_uppcl`: UPPCL (Uttar Pradesh). No disconnection from 6 pm to 8 am, on Sundays and public
    holidays: updatemarts.com/2025/09/uppcl.html and hindisamvad.com/2025/09/uppcl.html (19 Sep
    2025), jagran.com on Basti (23 Sep 2025). Nor on the second Saturday of a month: Hindustan Times
    of 29 Jan 2026 (htsyndication.com, article 97067768) and patrika.com (20 Jan 2026) on UPPCL's
    operating procedure. Those two print the daily hours differently ("6am and 8am", "6 to 8 in the
    evening"); the night is taken. Not verified: the order itself. Three days of emergency
    credit, which it also grants, are no calendar and are not part of this.
`in_bihar`: NBPDCL and SBPDCL (Bihar). Cut only from 10 am to 1 pm, and not on holidays that the
    state declared: an assistant electrical engineer in jantaserishta.com (29 Aug 2023). Not on
    Sundays: vandebihar.com and gaamgharnews.com on the outage of 2024. biharbijlismartmeter.com
    (no official site) describes other "happy hours": 17:30 to 11:00, Sundays and fixed holidays
    (26 Jan, 15 Aug, 2 Oct). The narrower time for cuts is taken. Not verified: the rule's own
    text; that cuts come on the third day only is not part of this.

The Indian presets name the three national holidays, which have fixed dates. All others are gazetted
for each year and are to be added under `holidays`.
"""

from collections.abc import Mapping
from typing import Final

_WHOLE_DAY: Final = {"from": "00:00", "to": "24:00"}
_NATIONAL_INDIA: Final = ["01-26", "08-15", "10-02"]

PRESETS: Final[Mapping[str, Mapping[str, object]]] = {
    "uk_edf": {
        "name": "EDF non-disconnection hours",
        "windows": [
            {"from": "18:00", "to": "11:00"},
            {"days": ["sat", "sun", "holiday"], **_WHOLE_DAY},
        ],
        "holidays": [
            "01-01",
            "good friday",
            "easter monday",
            "first mon in may",
            "last mon in may",
            "last mon in aug",
            "12-25",
            "12-26",
            # Substitute days; those that 26 December covers already are left out.
            "2026-12-28",
            "2027-12-27",
            "2027-12-28",
            "2028-01-03",
            "2032-12-27",
            "2032-12-28",
            "2033-01-03",
            "2033-12-27",
            "2034-01-02",
        ],
    },
    "in_uppcl": {
        "name": "UPPCL no-disconnection hours",
        "windows": [
            {"from": "18:00", "to": "08:00"},
            {"days": ["sun", "holiday"], **_WHOLE_DAY},
        ],
        "holidays": ["second sat", *_NATIONAL_INDIA],
    },
    "in_bihar": {
        "name": "Bihar: cuts from 10:00 to 13:00 only",
        "windows": [
            {"from": "13:00", "to": "10:00"},
            {"days": ["sun", "holiday"], **_WHOLE_DAY},
        ],
        "holidays": _NATIONAL_INDIA,
    },
}
