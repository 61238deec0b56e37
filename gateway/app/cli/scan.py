"""`meter scan`, `meter import`: which meters are there, and which the gateway is told of."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.app.cli.output import (
    ConfigOption,
    JsonOption,
    complain,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from gateway.app.commission.import_csv import Difference
    from gateway.app.commission.scan import ScanRow
    from gateway.app.config import MeterConfig
    from gateway.south.discovery import FoundDevice


def add_to(group: typer.Typer) -> None:
    """Add the commands to the group `meter`."""
    group.command()(scan)
    group.command("import")(import_meters)


def scan(
    cidr: Annotated[str, typer.Argument(metavar="CIDR", help="Network, such as 10.10.1.0/24.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Compare with this configuration."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Modbus TCP port.")] = 502,
    public: Annotated[
        bool, typer.Option("--public", help="The network is mine although it is not private.")
    ] = False,
    write_csv: Annotated[
        Path | None,
        typer.Option(help="Write the meters that are not configured there (a new file)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find Modbus TCP devices by function 0x2B: one short connection to each address."""
    from gateway.app.cli.serve import run_loop
    from gateway.app.clock import SystemClock
    from gateway.app.commission import scan as scanner
    from gateway.app.config import load_config

    try:
        network = scanner.network_of(cidr, public=public)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="CIDR") from error
    meters = () if config is None else load_config(config).meters
    hosts = scanner.hosts_of(network)

    async def look() -> "list[FoundDevice]":
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True, disable=as_json) as bar:
            task = bar.add_task(f"{network} port {port}", total=len(hosts))
            return await scanner.scan(hosts, port, SystemClock(), lambda _: bar.advance(task))

    found = run_loop(look)
    rows = scanner.match(found, meters)
    missing = scanner.not_found(found, meters, hosts, port)
    if write_csv is not None:
        taken = [meter.meter_id for meter in meters]
        scanner.write_new(write_csv, scanner.new_rows(rows, taken))
        complain(f"{write_csv}: written; complete ids and p_max_w, compare the serial numbers")
    if as_json:
        show_json(_scan_json(str(network), rows, missing))
    else:
        _show_scan(str(network), len(hosts), rows, missing, compared=config is not None)


def _scan_json(
    network: str, rows: "list[ScanRow]", missing: "list[MeterConfig]"
) -> dict[str, object]:
    return {
        "network": network,
        "devices": [
            {
                "host": row.device.host,
                "port": row.device.port,
                "manufacturer": row.device.identity.manufacturer,
                "device": row.device.identity.device_name,
                "firmware": row.device.identity.firmware,
                "order_number": row.device.identity.order_number,
                "serial_number": row.device.identity.serial_number,
                "model": row.device.model,
                "meter": row.meter,
                "remark": row.remark,
            }
            for row in rows
        ],
        "not_found": [
            {"meter": meter.meter_id, "host": meter.host, "port": meter.settings.port}
            for meter in missing
        ],
    }


def _show_scan(
    network: str,
    tried: int,
    rows: "list[ScanRow]",
    missing: "list[MeterConfig]",
    *,
    compared: bool,
) -> None:
    show_table(
        f"{network}: {len(rows)} of {tried} addresses answer",
        ("address", "vendor", "product", "revision", "serial number", "meter", "remark"),
        [
            (
                row.device.host,
                row.device.identity.manufacturer,
                row.device.identity.device_name,
                row.device.identity.firmware,
                row.device.identity.serial_number,
                row.meter or ("not in the configuration" if compared else ""),
                row.remark,
            )
            for row in rows
        ],
    )
    if missing:
        show_table(
            "Configured, and not found",
            ("meter", "address", "next step"),
            [
                (meter.meter_id, f"{meter.host}:{meter.settings.port}", "power, cable, address")
                for meter in missing
            ],
        )


def import_meters(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new meters file (CSV).")],
    config: ConfigOption,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check, and show what would change.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Also where meters would be gone.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a meters file against the whole configuration, and put it in place of the present.

    Control takes it over at its next reload (SIGHUP). Nothing changes where a line is wrong.
    """
    from gateway.app.commission.import_csv import apply, difference
    from gateway.app.config import load_config
    from gateway.core.errors import RefusedError

    if file.exists() and not file.is_file():
        # It is read twice, to check and to copy: a pipe would be empty then.
        raise RefusedError("FILE_REFUSED", f"{file} is no file: write the meters into one")
    present = load_config(config)
    found = difference(present, load_config(config, meters_file=file))
    kept: Path | None = None
    if not dry_run:
        if present.meters_file is None:
            raise RefusedError(
                "FILE_REFUSED", f"{config} names no meters_file: add meters_file: {file.name}"
            )
        if found.gone and not remove:
            raise RefusedError(
                "METERS_GONE",
                f"{len(found.gone)} meters would be gone ({', '.join(found.gone[:5])}): close "
                "their accounts first, then give --remove",
            )
        kept = apply(file, present.meters_file)
    if as_json:
        show_json(
            {
                "applied": kept is not None,
                "added": list(found.added),
                "gone": list(found.gone),
                "changed": {
                    name: [{"key": key, "from": old, "to": new} for key, old, new in changes]
                    for name, changes in found.changed.items()
                },
                "unchanged": found.unchanged,
            }
        )
        return
    _show_difference(str(file), found)
    if kept is not None:
        complain(f"in place; the old file is {kept}. Reload control with SIGHUP")


def _show_difference(title: str, found: "Difference") -> None:
    rows = [("added", name, "", "", "") for name in found.added]
    rows += [("gone", name, "", "", "") for name in found.gone]
    for name, changes in found.changed.items():
        rows += [("changed", name, key, str(old), str(new)) for key, old, new in changes]
    show_table(
        f"{title}: {len(found.added)} added, {len(found.changed)} changed, {len(found.gone)} gone, "
        f"{found.unchanged} as before",
        ("what", "meter", "key", "from", "to"),
        rows,
    )
