"""The TLS listener: encrypted or not at all, and a certificate that does not fit is named."""

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.core.errors import ConfigurationError
from gateway.north.context import Listen, NorthSettings, open_north
from gateway.north.serve import serve
from tests.north.clocks import RealClock
from tests.north.conftest import Served, serving
from tests.north.small_site import Executor


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36_500))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    paths = directory / "cert.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


@pytest.fixture
def encrypted(settings: NorthSettings, tmp_path: Path) -> NorthSettings:
    """The site with one TLS listener."""
    certificate, key = make_certificate(tmp_path)
    return replace(settings, listen=(Listen("127.0.0.1", 0, certificate, key),))


@pytest.fixture
async def tls_site(encrypted: NorthSettings, executor: Executor) -> AsyncIterator[Served]:
    """A north that serves it."""
    async with serving(encrypted, executor) as served:
        yield served


def trusting(site: Served) -> ssl.SSLContext:
    """A client's context that trusts the site's certificate and nothing else."""
    path = site.context.settings.listen[0].certificate_path
    assert path is not None
    return ssl.create_default_context(cafile=path)


async def test_a_client_that_trusts_the_certificate_is_served(tls_site: Served) -> None:
    """HTTPS with the name checked; an unknown certificate is the client's to refuse."""
    assert tls_site.url.startswith("https://127.0.0.1:")
    async with httpx.AsyncClient(verify=trusting(tls_site)) as client:
        assert (await client.get(f"{tls_site.url}/healthz")).json() == {"status": "ok"}
    async with httpx.AsyncClient() as stranger:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.get(f"{tls_site.url}/healthz")


async def test_nothing_is_said_in_clear(tls_site: Served) -> None:
    """A client that speaks plain HTTP to the port gets no answer."""
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.TransportError):
            await client.get(tls_site.url.replace("https:", "http:") + "/healthz")


async def test_old_tls_is_refused(tls_site: Served) -> None:
    """Below 1.2 there is no connection, although the client could: another server takes it."""
    context = trusting(tls_site)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        # Without this the client itself would refuse, whatever the server does.
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")

    def connect(port: int) -> str | None:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
        ):
            return encrypted.version()

    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.to_thread(connect, int(tls_site.url.rsplit(":", 1)[1]))
    async with lenient_server(tls_site.context.settings.listen[0]) as port:
        assert await asyncio.to_thread(connect, port) == "TLSv1.1"


@asynccontextmanager
async def lenient_server(listen: Listen) -> AsyncIterator[int]:
    """The port of a server with the same certificate that takes TLS 1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    assert listen.certificate_path is not None
    context.load_cert_chain(listen.certificate_path, listen.key_path)
    server = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


async def test_a_wrong_key_is_named_at_the_start(
    encrypted: NorthSettings, executor: Executor, tmp_path: Path
) -> None:
    """A key of another certificate, or a text that is none: the configuration's key is in the
    message, and nothing is served."""
    other = tmp_path / "other"
    other.mkdir()
    _, strange_key = make_certificate(other)
    certificate = encrypted.listen[0].certificate_path
    settings = replace(encrypted, listen=(Listen("127.0.0.1", 0, certificate, strange_key),))
    async with open_north(settings, RealClock(), create=True) as context:
        with pytest.raises(ConfigurationError, match=r"north\.http\.tls"):
            await serve(context, asyncio.Event())
