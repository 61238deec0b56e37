"""The network: how meters are reached, who listens at our ports, how long certificates last."""

import http.client
import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway.app.config import Config
from gateway.app.doctor.findings import Finding, fine, named, warn, wrong
from gateway.app.doctor.stores import holder_of
from gateway.app.paths import paths_of
from gateway.core.clock import Clock
from gateway.store.db import LOCK_NAME

ROUTES: Final = Path("/proc/net/route")
_GATEWAY_FLAG: Final = 0x2
_LOOPBACK: Final = ipaddress.ip_network("127.0.0.0/8")
CONNECT_S: Final = 1.0
CERTIFICATE_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the kernel's table for IPv4; `via` is the router, empty for a direct link."""

    network: ipaddress.IPv4Network
    via: str
    interface: str


def look_at_network(config: Config, clock: Clock) -> Iterator[Finding]:
    """Everything about addresses, listeners and certificates."""
    yield from _ways(config)
    yield _listener(config)
    tls = config.north.http.tls
    if tls is not None:
        yield _certificate(tls.cert, clock)


def _ways(config: Config) -> Iterator[Finding]:
    """A PAC3220's IP filter refuses writes from outside its own subnet (EM p90)."""
    routes = read_routes()
    routed: list[str] = []
    lost: list[str] = []
    others: list[str] = []
    for meter in config.meters:
        try:
            address = ipaddress.IPv4Address(meter.host)
        except ValueError:
            others.append(meter.meter_id)
            continue
        if address in _LOOPBACK:
            continue
        route = route_to(address, routes)
        if route is None:
            lost.append(meter.meter_id)
        elif route.via:
            routed.append(meter.meter_id)
    if lost:
        yield wrong(
            "network",
            f"No network of this machine leads to {named(lost)}.",
            "Give the interface towards the meters an address in their subnet.",
        )
    if routed:
        yield warn(
            "network",
            f"{named(routed)} are reached through a router: a meter whose IP filter is on reads "
            "and refuses to switch.",
            "Give this machine an address in the meters' subnet, or switch the filter off.",
        )
    if others:
        yield fine(
            "network", f"{named(others)} are named, not numbered: the way was not looked at."
        )
    direct = len(config.meters) - len(lost) - len(routed) - len(others)
    if direct:
        yield fine("network", f"{direct} meters lie in a network of this machine.")


def read_routes() -> list[Route]:
    """The kernel's routes for IPv4, most specific first; empty where they cannot be read."""
    try:
        lines = ROUTES.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return []
    found = []
    for line in lines:
        interface, target, gateway, flags, *_, mask = line.split()[:8]
        network = ipaddress.IPv4Network(f"{_address(target)}/{_address(mask)}")
        via = str(_address(gateway)) if int(flags, 16) & _GATEWAY_FLAG else ""
        found.append(Route(network, via, interface))
    return sorted(found, key=lambda route: -route.network.prefixlen)


def route_to(address: ipaddress.IPv4Address, routes: list[Route]) -> Route | None:
    """The route that a packet takes, of routes with the most specific first."""
    return next((route for route in routes if address in route.network), None)


def _address(word: str) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int.from_bytes(bytes.fromhex(word), "little"))


def _listener(config: Config) -> Finding:
    listen = config.north.http
    where = f"{listen.host}:{listen.port}"
    try:
        socket.create_connection((_near(listen.host), listen.port), CONNECT_S).close()
    except ConnectionRefusedError:
        return warn(
            "network", f"Nobody listens at {where} yet.", "Start north: `prepaid-gateway north`."
        )
    except OSError as error:
        return wrong("network", f"{where} cannot be reached: {error}.", "Look at the firewall.")
    ours = holder_of(paths_of(config).north_dir / LOCK_NAME) != 0
    if not ours or (listen.tls is None and not _is_ours(_near(listen.host), listen.port)):
        return wrong(
            "network",
            f"Another program listens at {where}.",
            f"Find it with `ss -ltnp 'sport = :{listen.port}'`, or change north.http.listen.",
        )
    return fine("network", f"North answers at {where}.")


def _near(host: str) -> str:
    """Where a listener on all interfaces is reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only


def _is_ours(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=CONNECT_S)
    try:
        connection.request("GET", "/healthz")
        return b'"status"' in connection.getresponse().read(1_000)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _certificate(path: Path, clock: Clock) -> Finding:
    from cryptography import x509  # noqa: PLC0415 - only where TLS is configured

    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        return wrong("network", f"{path} cannot be used: {error}.", "Give north a certificate.")
    now = datetime.fromtimestamp(clock.utc_ms() / 1000, UTC)
    end = certificate.not_valid_after_utc
    days = (end - now).days
    if end <= now:
        return wrong("network", f"{path} expired on {end:%Y-%m-%d}.", "Renew it, restart north.")
    if days < CERTIFICATE_DAYS:
        return warn("network", f"{path} expires in {days} days.", "Renew it, then restart north.")
    return fine("network", f"{path} is good for {days} more days.")
