"""Find Modbus TCP devices in a network and compare them with the configuration.

Gentle: at most 64 connections at once in the whole network, one to each address, closed before the
next step. A PAC3220 holds three connections (EM p99), so a running gateway is not disturbed.
"""

import asyncio
import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final

from gateway.app.config import MeterConfig
from gateway.core.clock import Clock
from gateway.core.errors import RefusedError
from gateway.south.discovery import FoundDevice, find_device

ADDRESSES_MAX: Final = 4_096
CONCURRENCY: Final = 64
WIDEST_PREFIX: Final = 20


@dataclass(frozen=True, slots=True)
class ScanRow:
    """One device found. `meter` is the configured meter that it is; `remark` what is odd."""

    device: FoundDevice
    meter: str | None
    remark: str


def network_of(cidr: str, *, public: bool = False) -> IPv4Network:
    """The network to scan. Raises ValueError with the reason and the next step.

    Addresses that the internet routes are refused unless `public`: nobody asked their owners.
    """
    try:
        network: IPv4Network | IPv6Network = ip_network(cidr.strip(), strict=False)
    except ValueError as error:
        raise ValueError(f"{error}; give a network such as 10.10.1.0/24") from error
    if isinstance(network, IPv6Network):
        raise ValueError(  # noqa: TRY004 -- the text is wrong, not its type
            f"{network} is IPv6, which holds too many addresses to try; meters have IPv4 addresses"
        )
    if network.num_addresses > ADDRESSES_MAX:
        part = IPv4Network((network.network_address, WIDEST_PREFIX))
        parts = 2 ** (WIDEST_PREFIX - network.prefixlen)
        raise ValueError(
            f"{network} has {network.num_addresses} addresses, at most {ADDRESSES_MAX}: "
            f"scan it in {parts} parts, beginning with {part}"
        )
    if not public and not network.is_private:
        raise ValueError(
            f"{network} is no private network: scan it only if it is yours, with --public"
        )
    return network


def hosts_of(network: IPv4Network) -> list[str]:
    """The addresses that a device may have."""
    return [str(host) for host in network.hosts()]


async def scan(
    hosts: Sequence[str], port: int, clock: Clock, seen: Callable[[FoundDevice | None], None]
) -> list[FoundDevice]:
    """Every device that answers, in the order of addresses; `seen` is called for each address."""
    free = asyncio.Semaphore(CONCURRENCY)

    async def look(host: str) -> FoundDevice | None:
        async with free:
            found = await find_device(host, port, clock)
        seen(found)
        return found

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(look(host), name=f"scan {host}") for host in hosts]
    return [found for task in tasks if (found := task.result()) is not None]


def match(found: Sequence[FoundDevice], meters: Sequence[MeterConfig]) -> list[ScanRow]:
    """Each device beside the meter that the configuration has at its address."""
    at = {(meter.host, meter.settings.port): meter for meter in meters}
    by_serial = {meter.serial_number: meter for meter in meters if meter.serial_number}
    rows = []
    for device in found:
        meter = at.get((device.host, device.port))
        serial = device.identity.serial_number
        owner = by_serial.get(serial)
        remark = device.problem
        if meter is None and owner is not None:
            remark = f"serial number of {owner.meter_id}, configured at {owner.host}"
        elif meter is not None and owner is not None and owner is not meter:
            remark = f"serial number of {owner.meter_id}: cables exchanged?"
        elif meter is not None and meter.serial_number not in (None, serial) and not remark:
            remark = f"serial number {meter.serial_number} is configured here"
        elif meter is not None and device.model != meter.model and not remark:
            remark = f"configured as {meter.model}"
        rows.append(ScanRow(device, None if meter is None else meter.meter_id, remark))
    return rows


def not_found(
    found: Sequence[FoundDevice], meters: Sequence[MeterConfig], hosts: Sequence[str], port: int
) -> list[MeterConfig]:
    """Configured meters whose address was tried and did not answer."""
    tried, answered = set(hosts), {device.host for device in found}
    return [
        meter
        for meter in meters
        if meter.host in tried and meter.settings.port == port and meter.host not in answered
    ]


def new_rows(rows: Sequence[ScanRow], taken: Sequence[str]) -> str:
    """The meters that the configuration does not have, as a CSV for a person to complete.

    Ids are made of the addresses; `taken` ids are avoided.
    """
    ids = set(taken)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("id", "model", "host", "port", "serial_number", "label"))
    for row in rows:
        device = row.device
        if row.meter is not None or device.model is None:
            continue
        octets = str(IPv4Address(device.host)).split(".")
        name = next(
            made
            for made in (f"meter-{'-'.join(octets[start:])}" for start in (2, 1, 0))
            if made not in ids or made == f"meter-{'-'.join(octets)}"
        )
        ids.add(name)
        serial = device.identity.serial_number
        # A cell that a spreadsheet would take for a formula came from the network.
        safe = "" if serial[:1] in {"=", "+", "-", "@"} else serial
        writer.writerow((name, device.model, device.host, device.port, safe, ""))
    return table.getvalue()


def write_new(path: Path, text: str) -> None:
    """Write a file that does not exist yet. Raises RefusedError FILE_EXISTS, FILE_REFUSED."""
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise RefusedError(
            "FILE_EXISTS", f"{path} exists: give another name; nothing is overwritten"
        ) from None
    except OSError as error:
        raise RefusedError("FILE_REFUSED", f"{path}: {error.strerror}") from error
