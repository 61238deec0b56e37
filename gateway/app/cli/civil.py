"""The site's own time and currency, as people read them."""

from datetime import datetime
from pathlib import Path


class Civil:
    """Local time and currency of the site that a configuration describes."""

    def __init__(self, config: Path) -> None:
        from gateway.app.config import load_config
        from gateway.core.civil import zone_of

        site = load_config(config).site
        self.timezone, self.currency = site.timezone, site.currency
        self._zone = zone_of(self.timezone)

    def month_now(self) -> str:
        """The month that runs, by the clock that all processes share."""
        from gateway.app.cli.serve import clock_of_environment
        from gateway.core.civil import month_period

        return month_period(self._zone, clock_of_environment().utc_ms()).label

    def time(self, moment: object) -> str:
        """Local date and time of an RFC 3339 moment, to the second."""
        return f"{datetime.fromisoformat(str(moment)).astimezone(self._zone):%Y-%m-%d %H:%M:%S}"

    def date(self, moment: object) -> str:
        """Its local date."""
        return self.time(moment)[:10]
