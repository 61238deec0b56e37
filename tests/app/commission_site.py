"""A simulated site for commissioning: three-phase points under a steady known load."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.app.clock import SystemClock
from gateway.app.commission.checks import serials_of
from gateway.app.commission.proof import DirectSwitcher, Switcher
from gateway.app.commission.run import Examined, Wishes, examine
from gateway.app.config import Config, MeterConfig, load_config
from gateway.sim.site import Customer, Site
from gateway.south.meter import MeterClient
from tests.sim.sim_sites import running_site

LOAD_W = 2_000
CONFIG = """\
site: {id: palm, name: Palm, timezone: Asia/Kolkata, currency: INR}
state_dir: state
runtime_dir: run
defaults: {pac3220: {feedback: "0.1", ct_ratio: 100/5}}
meters_file: meters.csv
"""
HEADER = "id,model,host,port,p_max_w,serial_number"


def csv_of(site: Site) -> str:
    """The meters file of a site, with the serial numbers of its plates."""
    rows = [HEADER]
    for customer in site.customers():
        port, serial = customer.port, customer.meter.options.serial
        cells = (customer.id, "pac3220", port.host, port.port, customer.p_max_w, serial)
        rows.append(",".join(map(str, cells)))
    return "\n".join(rows) + "\n"


@dataclass(frozen=True, slots=True)
class CommissionSite:
    """The simulated meters and the configuration that describes them."""

    site: Site
    path: Path
    config: Config

    def customer(self, index: int) -> Customer:
        """The customer at an index."""
        return self.site.customers()[index]

    def meter(self, index: int, **settings: object) -> MeterConfig:
        """The configured meter at an index, with other settings where given."""
        meter = self.config.meters[index]
        return replace(meter, settings=meter.settings.model_copy(update=settings))

    async def examine(
        self,
        meter: MeterConfig,
        *,
        with_load: bool = False,
        reference_w: float | None = None,
        fix: bool = False,
        check_only: bool = True,
        accepted: Mapping[str, str] | None = None,
    ) -> Examined:
        """Examine a meter, switching directly. Enforcing it (not `check_only`) takes a proof."""
        wishes = Wishes(
            serials=serials_of(self.config.meters),
            reference_w=reference_w,
            with_load=with_load,
            fix=fix,
            check_only=check_only,
            accepted=accepted or {},
        )
        return await examine(meter, SystemClock(), wishes, directly)


async def directly(client: MeterClient) -> Switcher:
    """Nobody runs control here."""
    return DirectSwitcher(client)


@asynccontextmanager
async def commission_site(
    directory: Path, *, meters: int, **options: object
) -> AsyncIterator[CommissionSite]:
    """A site of three-phase meters at LOAD_W each."""
    chosen: dict[str, object] = {"shop_every": 1, "load_w": LOAD_W, "swing": 0.0, **options}
    async with running_site(meters=meters, **chosen) as site:  # type: ignore[arg-type]
        path = directory / "config.yaml"
        path.write_text(CONFIG, encoding="utf-8")
        (directory / "meters.csv").write_text(csv_of(site), encoding="utf-8")
        yield CommissionSite(site, path, load_config(path))
