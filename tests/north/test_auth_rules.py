"""Tokens, roles and the limit on failures, without any socket."""

import stat
from pathlib import Path

import pytest

from gateway.core.address import site_of
from gateway.core.errors import RefusedError
from gateway.core.requests import Role
from gateway.north.http.auth import (
    FailureLimiter,
    Principal,
    TokenBook,
    bearer_of,
    hash_secret,
    new_secret,
    write_secret,
)
from gateway.store.tokens import ApiToken
from tests.north.clocks import ManualClock


def test_secrets_are_long_and_never_repeat() -> None:
    """A token carries 256 random bits: 1,000 of them differ and have full length."""
    secrets = {new_secret() for _ in range(1000)}
    assert len(secrets) == 1000
    assert {len(secret) for secret in secrets} == {len("pgw_") + 43}


def test_token_is_found_until_it_expires_or_is_revoked() -> None:
    """Only the exact secret opens, only before expiry, only while not revoked."""
    clock = ManualClock()
    secret, other = new_secret(), new_secret()
    token = ApiToken("t1", hash_secret(secret), "desk", Role.OPERATOR, 0, clock.utc_ms() + 5000)
    book = TokenBook(clock, [token])
    assert book.find(secret) == token
    assert book.find(other) is None
    assert book.find(secret + "x") is None
    assert book.find(secret[:-1]) is None
    clock.pass_s(5)
    assert book.find(secret) is None
    forever = ApiToken("t2", hash_secret(other), "desk", Role.OPERATOR, 0)
    book.put(forever)
    assert book.find(other) == forever
    book.put(ApiToken("t2", hash_secret(other), "desk", Role.OPERATOR, 0, None, 7))
    assert book.find(other) is None


def test_failures_are_limited_per_address_and_allowed_again_later() -> None:
    """Ten failures at once, then one in six seconds; another address is not affected."""
    clock = ManualClock()
    limiter = FailureLimiter(clock)
    assert all(limiter.failed("10.0.0.1") for _ in range(10))
    assert not limiter.failed("10.0.0.1")
    assert limiter.failed("10.0.0.2")
    clock.pass_s(6)
    assert limiter.failed("10.0.0.1")
    assert not limiter.failed("10.0.0.1")


def test_hammering_while_limited_does_not_extend_the_limit() -> None:
    """Refused attempts are not counted, so an allowance comes back after its time."""
    clock = ManualClock()
    limiter = FailureLimiter(clock)
    for _ in range(1000):
        limiter.failed("10.0.0.1")
    clock.pass_s(6)
    assert limiter.failed("10.0.0.1")


def test_table_of_addresses_is_bounded() -> None:
    """The address silent for longest is forgotten first and counted."""
    limiter = FailureLimiter(ManualClock(), max_addresses=3)
    for last in range(5):
        limiter.failed(f"10.0.0.{last}")
    assert limiter.forgotten == 2


def test_one_ipv6_site_is_one_address() -> None:
    """An attacker's own /64 does not give it 2^64 allowances; mapped IPv4 counts as IPv4."""
    assert site_of("2001:db8::1") == site_of("2001:db8::ffff") != site_of("2001:db8:0:1::1")
    assert site_of("::ffff:10.0.0.1") == site_of("10.0.0.1") == "10.0.0.1"
    assert site_of("unknown") == "unknown"


@pytest.mark.parametrize(
    ("header", "secret"),
    [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic abc", ""), ("", ""), ("Bearer", "")],
)
def test_bearer_scheme_is_read_and_no_other(header: str, secret: str) -> None:
    """Only the Bearer scheme carries a token; its name is case-insensitive (RFC 7235 2.1)."""
    assert bearer_of(header) == secret


def test_caller_gets_the_role_that_is_allowed() -> None:
    """A caller of several roles acts in one that may; without one it is FORBIDDEN."""
    owner = Principal("uid:0", frozenset(Role), "local socket")
    assert owner.role_for(frozenset({Role.OPERATOR, Role.MANAGER})) is Role.MANAGER
    auditor = Principal("token:1", frozenset({Role.AUDITOR}), "127.0.0.1")
    with pytest.raises(RefusedError) as refusal:
        auditor.role_for(frozenset({Role.MANAGER}))
    assert refusal.value.refusal_code == "FORBIDDEN"


def test_secret_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    """The set-up token goes to a file of mode 0600, never through an existing link or mode."""
    target = tmp_path / "elsewhere"
    target.write_text("kept")
    path = tmp_path / "token"
    path.symlink_to(target)
    write_secret(path, "pgw_secret")
    assert path.read_text() == "pgw_secret\n"
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert target.read_text() == "kept"
