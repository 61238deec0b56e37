"""The broker's certificate, and the small authority that issues it: ECDSA on P-256 (X.509 v3).

The nodes hold the authority's certificate and trust nothing else; so it lives long, and the
broker's is renewed as often as one likes. `cryptography` is imported where it is used: `--help`
must not wait for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from gateway.core.errors import RefusedError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

AUTHORITY_LASTS: Final = timedelta(days=365 * 25)
BROKER_LASTS: Final = timedelta(days=730)
# Renewed by any run in this time before its end: a forgotten month does no harm.
RENEWED_BEFORE: Final = timedelta(days=180)
# A node's clock may be behind.
VALID_BEFORE: Final = timedelta(days=1)
OWN_NAMES: Final = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM; the key is None where it is kept elsewhere."""

    certificate: bytes
    key: bytes | None

    @property
    def ends(self) -> datetime:
        """When the certificate ends."""
        return _certificate(self.certificate).not_valid_after_utc


def authority_of(found: Pair | None, site_id: str, now: datetime) -> Pair:
    """The authority that there is, else a new one.

    Raises RefusedError BROKER_CERTIFICATE: it has ended, or cannot be read.
    """
    if found is None:
        return _authority(site_id, now)
    try:
        ends = found.ends
        fits = (
            found.key is None or _public(found.key) == _certificate(found.certificate).public_key()
        )
    except (ValueError, TypeError) as error:
        raise RefusedError("BROKER_CERTIFICATE", f"ca.pem or ca.key: {error}") from error
    if not fits:
        raise RefusedError("BROKER_CERTIFICATE", "ca.key is not the key of ca.pem")
    if ends <= now:
        raise RefusedError(
            "BROKER_CERTIFICATE",
            f"the authority ended on {ends:%Y-%m-%d}: move ca.pem and ca.key away, run this again, "
            "and give every node the new ca.pem",
        )
    return found


def broker_of(found: Pair | None, authority: Pair, names: Sequence[str], now: datetime) -> Pair:
    """The pair that there is where it will do, else a new one for `names` and this machine.

    Raises RefusedError BROKER_CERTIFICATE: a new one is due and the authority's key is not here.
    """
    wanted = tuple(dict.fromkeys((*names, *OWN_NAMES)))
    if found is not None and _will_do(found, authority, wanted, now):
        return found
    if authority.key is None:
        raise RefusedError(
            "BROKER_CERTIFICATE",
            "a new certificate of the broker is due and the authority's key is not here: put "
            "ca.key back beside ca.pem",
        )
    return _broker(authority.certificate, _private(authority.key), wanted, now)


def _will_do(pair: Pair, authority: Pair, names: tuple[str, ...], now: datetime) -> bool:
    from cryptography import x509  # noqa: PLC0415
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    try:
        found = _certificate(pair.certificate)
        found.verify_directly_issued_by(_certificate(authority.certificate))
        made_out = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        fits = pair.key is not None and _public(pair.key) == found.public_key()
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    # One that is as long as its authority's is renewed no more.
    due = min(now + RENEWED_BEFORE, authority.ends)
    return fits and made_out == _alternative_names(names) and found.not_valid_after_utc >= due


def _authority(site_id: str, now: datetime) -> Pair:
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"prepaid-gateway nodes of {site_id}")
    made = _signed(_draft(name, name, key.public_key(), now, now + AUTHORITY_LASTS), key, ())
    return Pair(made, _pem(key))


def _broker(
    authority: bytes, signer: "EllipticCurvePrivateKey", names: tuple[str, ...], now: datetime
) -> Pair:
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    root = _certificate(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    ends = min(now + BROKER_LASTS, root.not_valid_after_utc)
    draft = _draft(_name(names[0]), root.subject, key.public_key(), now, ends)
    return Pair(_signed(draft, signer, names), _pem(key))


def _draft(
    subject: "x509.Name",
    issuer: "x509.Name",
    public: "EllipticCurvePublicKey",
    begins: datetime,
    ends: datetime,
) -> "x509.CertificateBuilder":
    from cryptography import x509  # noqa: PLC0415

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - VALID_BEFORE)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _signed(
    draft: "x509.CertificateBuilder", signer: "EllipticCurvePrivateKey", names: tuple[str, ...]
) -> bytes:
    """A server's certificate for these names; without names an authority's."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    authority = not names
    usage = x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    limits = x509.BasicConstraints(ca=authority, path_length=0 if authority else None)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    draft = (
        draft.add_extension(limits, critical=True)
        .add_extension(usage, critical=True)
        .add_extension(issuer, critical=False)
    )
    if names:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        draft = draft.add_extension(_alternative_names(names), critical=False)
        draft = draft.add_extension(purpose, critical=False)
    return draft.sign(signer, SHA256()).public_bytes(Encoding.PEM)


def _name(text: str) -> "x509.Name":
    from cryptography import x509  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative_names(names: tuple[str, ...]) -> "x509.SubjectAlternativeName":
    from cryptography import x509  # noqa: PLC0415

    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(found)


def _certificate(pem: bytes) -> "x509.Certificate":
    from cryptography import x509  # noqa: PLC0415

    return x509.load_pem_x509_certificate(pem)


def _private(pem: bytes) -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an ECDSA key")
    return key


def _public(pem: bytes) -> "EllipticCurvePublicKey":
    return _private(pem).public_key()


def _pem(key: "EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
