"""Who may call what: every route, every role, and nobody."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from gateway.core.requests import BODIES, Role
from gateway.north.context import NorthSettings, open_north
from gateway.north.tokens import create_setup_token, create_token
from tests.north.clocks import ManualClock, RealClock
from tests.north.conftest import Served, serving
from tests.north.small_site import Executor

API = "/api/v1"
EVERYBODY = frozenset(Role)
VIEWERS = frozenset({Role.ADMIN, Role.MANAGER, Role.OPERATOR, Role.TECHNICIAN, Role.AUDITOR})
MONEY = VIEWERS - {Role.ADMIN}
MANAGER = frozenset({Role.MANAGER})
DESK = frozenset({Role.MANAGER, Role.OPERATOR})
FIELD = frozenset({Role.MANAGER, Role.TECHNICIAN})
ADMIN = frozenset({Role.ADMIN})

# Written from domain.md section 8, not from the code: the two must agree.
EXPECTED: Mapping[str, frozenset[Role]] = {
    "GET /api/v1/meters": VIEWERS,
    "GET /api/v1/meters/{meter_id}": VIEWERS,
    "GET /api/v1/meters/{meter_id}/measurements/latest": VIEWERS,
    "GET /api/v1/measurements/latest": VIEWERS,
    "GET /api/v1/meters/{meter_id}/commands": VIEWERS,
    "POST /api/v1/meters/{meter_id}/commands": FIELD | DESK,
    "GET /api/v1/commands/{command_id}": VIEWERS,
    "POST /api/v1/meters/{meter_id}/commissioning": FIELD,
    "POST /api/v1/mass-cut/release": MANAGER,
    "POST /api/v1/meters/{meter_id}/quarantine-release": MANAGER,
    "POST /api/v1/meters/{meter_id}/replacement": FIELD,
    "POST /api/v1/clock/confirmation": FIELD | ADMIN,
    "GET /api/v1/meters/{meter_id}/limits": VIEWERS,
    "POST /api/v1/meters/{meter_id}/limits": FIELD,
    "POST /api/v1/meters/{meter_id}/overload-release": FIELD,
    "POST /api/v1/feeders/{feeder}/shedding": FIELD,
    "POST /api/v1/feeders/{feeder}/shedding/end": FIELD,
    "GET /api/v1/overrides": VIEWERS,
    "POST /api/v1/overrides": FIELD,
    "POST /api/v1/overrides/{number}/end": FIELD,
    "POST /api/v1/restoration": MANAGER,
    "GET /api/v1/status": VIEWERS,
    "GET /api/v1/recovery": MONEY,
    "POST /api/v1/recovery/release": MANAGER,
    "GET /api/v1/accounts": MONEY,
    "POST /api/v1/accounts": DESK,
    "GET /api/v1/accounts/{account_id}": MONEY,
    "POST /api/v1/accounts/{account_id}/recharges": DESK,
    "GET /api/v1/accounts/{account_id}/transactions": MONEY,
    "POST /api/v1/transactions/{transaction_id}/reversal": MANAGER,
    "PUT /api/v1/accounts/{account_id}/terms": MANAGER,
    "POST /api/v1/accounts/{account_id}/points": DESK,
    "POST /api/v1/accounts/{account_id}/closure": MANAGER,
    "POST /api/v1/accounts/{account_id}/transfers": MANAGER,
    "POST /api/v1/accounts/{account_id}/emergency-credit": DESK,
    "POST /api/v1/accounts/{account_id}/debts": MANAGER,
    "POST /api/v1/accounts/{account_id}/write-offs": MANAGER,
    "POST /api/v1/accounts/{account_id}/notices": MANAGER,
    "POST /api/v1/service-points/{service_point_id}/removal": MANAGER,
    "PUT /api/v1/service-points/{service_point_id}/tariff": MANAGER,
    "GET /api/v1/tariffs": VIEWERS,
    "POST /api/v1/tariffs": MANAGER,
    "GET /api/v1/tariffs/{tariff_id}": VIEWERS,
    "POST /api/v1/tariffs/replay": DESK | {Role.AUDITOR},
    "GET /api/v1/tariff-drafts": VIEWERS,
    "POST /api/v1/tariff-drafts/{number}/decision": MANAGER,
    "GET /api/v1/stream": VIEWERS,
    "GET /api/v1/events": VIEWERS,
    "GET /api/v1/audit-log": MANAGER | {Role.AUDITOR},
    "GET /api/v1/requests/{key}": VIEWERS,
    "GET /api/v1/health": VIEWERS,
    "GET /metrics": VIEWERS,
    "GET /api/v1/auth/me": EVERYBODY,
    "GET /api/v1/openapi.json": EVERYBODY,
    "GET /api/v1/shifts": MONEY,
    "POST /api/v1/shifts": DESK,
    "GET /api/v1/shifts/{shift_number}": MONEY,
    "POST /api/v1/shifts/{shift_number}/closing": DESK,
    "GET /api/v1/vouchers": MONEY,
    "POST /api/v1/vouchers": DESK,
    "POST /api/v1/vouchers/redemptions": DESK | FIELD,
    "POST /api/v1/vouchers/unlock": MANAGER,
    "GET /api/v1/vouchers/{service_point_id}/{counter}": MONEY,
    "POST /api/v1/vouchers/{service_point_id}/{counter}/cancellation": MANAGER,
    "GET /api/v1/api-keys": ADMIN,
    "POST /api/v1/api-keys": ADMIN,
    "DELETE /api/v1/api-keys/{key_id}": ADMIN,
    "GET /api/v1/feeders": VIEWERS,
    "GET /api/v1/suspicions": VIEWERS,
    "POST /api/v1/meters/{meter_id}/changes-acknowledgement": FIELD,
    "GET /api/v1/devices": VIEWERS,
    "GET /api/v1/devices/{device_id}": VIEWERS,
    "POST /api/v1/devices/{device_id}/approval": FIELD,
    "POST /api/v1/devices/{device_id}/refusal": FIELD,
    "POST /api/v1/devices/{device_id}/settings": FIELD,
    "POST /api/v1/devices/{device_id}/identification": FIELD,
    "POST /api/v1/devices/{device_id}/restart": FIELD,
    "POST /api/v1/devices/{device_id}/counter-release": FIELD,
    "GET /api/v1/firmware-images": VIEWERS,
    "POST /api/v1/firmware-images": FIELD,
    "GET /api/v1/firmware-images/{sha256}": VIEWERS,
    "DELETE /api/v1/firmware-images/{sha256}": FIELD,
    "GET /api/v1/firmware-rollouts": VIEWERS,
    "POST /api/v1/firmware-rollouts": FIELD,
    "GET /api/v1/firmware-rollouts/{number}": VIEWERS,
    "POST /api/v1/firmware-rollouts/{number}/pause": FIELD,
    "POST /api/v1/firmware-rollouts/{number}/resume": FIELD,
    "POST /api/v1/firmware-rollouts/{number}/stop": FIELD,
    "GET /api/v1/accounts/{account_id}/bills/{period}": MONEY,
    "GET /api/v1/accounts/{account_id}/explanation": MONEY,
    "GET /api/v1/accounts/{account_id}/recharges/{transaction_id}/receipt": MONEY,
}
ANONYMOUS = frozenset({"GET /healthz", "GET /readyz"})
FORMS: Mapping[str, object] = {
    "POST /api/v1/meters/{meter_id}/commands": {"action": "confirm_reconnect"},
    "POST /api/v1/mass-cut/release": {"reason": "x"},
    "POST /api/v1/meters/{meter_id}/quarantine-release": {"accept": True, "reason": "x"},
    "POST /api/v1/meters/{meter_id}/replacement": {
        "closing_wh": [5, 0],
        "opening_wh": [0, 0],
        "reason": "x",
    },
    "POST /api/v1/meters/{meter_id}/limits": {
        "limit_t1_w": 5000,
        "limit_t2_w": 0,
        "limit_emergency_w": 0,
        "reason": "x",
    },
    "POST /api/v1/meters/{meter_id}/overload-release": {"reason": "x"},
    "POST /api/v1/feeders/{feeder}/shedding": {"to_w": 5000, "reason": "x"},
    "POST /api/v1/feeders/{feeder}/shedding/end": {"reason": "x"},
    "POST /api/v1/overrides": {
        "kind": "MAINTENANCE",
        "scope": "site",
        "until": "2020-01-01T00:00:00Z",
        "reason": "x",
    },
    "POST /api/v1/overrides/{number}/end": {"reason": "x"},
    "POST /api/v1/restoration": {"until": "2020-01-01T00:00:00Z", "reason": "x"},
    "POST /api/v1/clock/confirmation": {"reason": "x"},
    "POST /api/v1/recovery/release": {"reason": "x"},
    "PUT /api/v1/accounts/{account_id}/terms": {"notice_days": 15},
    "POST /api/v1/accounts/{account_id}/points": {"service_point_id": "x", "tariff_id": "none"},
    "POST /api/v1/accounts/{account_id}/closure": {"reason": "x"},
    "POST /api/v1/accounts/{account_id}/transfers": {"to": "x", "amount": "1", "reason": "x"},
    "POST /api/v1/accounts/{account_id}/debts": {
        "id": "x",
        "kind": "time",
        "amount": "1",
        "daily": "1",
        "reason": "x",
    },
    "POST /api/v1/accounts/{account_id}/write-offs": {
        "debt_id": "x",
        "amount": "1",
        "reason": "x",
    },
    "POST /api/v1/accounts/{account_id}/notices": {"amount": "1"},
    "PUT /api/v1/service-points/{service_point_id}/tariff": {"tariff_id": "none"},
    "POST /api/v1/accounts": {"id": "nobody", "tariff_id": "none"},
    "POST /api/v1/accounts/{account_id}/recharges": {"amount": "1"},
    "POST /api/v1/transactions/{transaction_id}/reversal": {"reason": "x"},
    "POST /api/v1/tariffs": {"id": "x"},
    "POST /api/v1/tariffs/replay": {"document": {"id": "x"}},
    "POST /api/v1/tariff-drafts/{number}/decision": {"accept": True, "reason": "x"},
    "POST /api/v1/shifts": {"drawer": "till-1"},
    "POST /api/v1/shifts/{shift_number}/closing": {"counted": {"counter": "0"}},
    "POST /api/v1/api-keys": {"label": "x", "role": "auditor"},
    "POST /api/v1/meters/{meter_id}/changes-acknowledgement": {"reason": "x"},
    "POST /api/v1/devices/{device_id}/approval": {"meter_id": "flat-1"},
    "POST /api/v1/devices/{device_id}/refusal": {"reason": "x"},
    "POST /api/v1/devices/{device_id}/settings": {"settings": {"poll_s": 2}},
    "POST /api/v1/devices/{device_id}/identification": {},
    "POST /api/v1/devices/{device_id}/counter-release": {"count": False, "reason": "x"},
    "POST /api/v1/firmware-images": {"bytes": "are bytes"},
    "POST /api/v1/firmware-rollouts": {"image": "0" * 64},
    "POST /api/v1/firmware-rollouts/{number}/pause": {"reason": "x"},
    "POST /api/v1/firmware-rollouts/{number}/resume": {"reason": "x"},
    "POST /api/v1/firmware-rollouts/{number}/stop": {"reason": "x"},
    "POST /api/v1/vouchers": {"service_point_id": "flat-1", "amount": "1"},
    "POST /api/v1/vouchers/redemptions": {"service_point_id": "flat-1", "token": "1" * 20},
    "POST /api/v1/vouchers/unlock": {"address": "10.0.0.7", "reason": "x"},
    "POST /api/v1/vouchers/{service_point_id}/{counter}/cancellation": {"reason": "x"},
}
PLACES = {
    "meter_id": "flat-1",
    "account_id": "flat-1",
    "tariff_id": "home",
    "transaction_id": "99",
    "shift_number": "99",
    "command_id": "none",
    "service_point_id": "flat-1",
    "counter": "1",
    "feeder": "riser-a",
    "number": "99",
    "key": "none",
    "key_id": "0" * 26,
    "period": "2025-01",
    "device_id": "node-1",
    "sha256": "0" * 64,
}


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that any user may enter (pytest's own are closed)."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def operations(document: Mapping[str, Mapping[str, Mapping[str, object]]]) -> Iterator[str]:
    """`METHOD path` of every operation in an OpenAPI document."""
    for path, item in document["paths"].items():
        for method in item:
            yield f"{method.upper()} {path}"


@pytest.mark.slow
async def test_matrix_of_every_route_and_role(site: Served) -> None:
    """Each role gets through exactly where it should; nobody gets through anywhere."""
    admin = await site.client(Role.ADMIN)
    document = (await admin.get(f"{API}/openapi.json")).json()
    found = set(operations(document))
    assert found == set(EXPECTED) | ANONYMOUS
    clients = {role: await site.client(role) for role in [*Role, None]}
    for operation in sorted(EXPECTED):
        for role, client in clients.items():
            key = f"{operation}-{role}".replace(" ", "-")
            status = await _try(client, operation, key, FORMS.get(operation))
            if role is None:
                assert (operation, status) == (operation, 401)
            elif role in EXPECTED[operation]:
                assert (operation, role, status in (401, 403)) == (operation, role, False)
            else:
                assert (operation, role, status) == (operation, role, 403)
        stated = document["paths"][operation.split()[1]][operation.split()[0].lower()]
        assert frozenset(stated["x-roles"]) == EXPECTED[operation]
        assert stated["security"]


@pytest.mark.slow
async def test_every_wish_has_a_route_for_each_of_its_roles(site: Served) -> None:
    """Whatever control carries out can be asked for: each type of request, by each role of it.

    Every route is called with its form, and what north then has on file is compared with `BODIES`.
    A tenant's wishes wait for tokens that are bound to an account.
    """
    reached: set[tuple[str, Role]] = set()
    actions = [
        ("POST /api/v1/meters/{meter_id}/commands", {"action": action, "reason": "x"})
        for action in ("disconnect", "reconnect")
    ]
    calls = [(operation, FORMS.get(operation)) for operation in sorted(EXPECTED)]
    for role in Role:
        client = await site.client(role)
        for number, (operation, form) in enumerate([*calls, *actions]):
            if role not in EXPECTED[operation] or operation.startswith("GET "):
                continue
            key = f"{role}-{number}"
            await _try(client, operation, key, form)
            stored = await site.context.records.request(key)
            if stored is not None:
                reached.add((stored.request.body.TYPE, role))
    wanted = {(kind, role) for kind, body in BODIES.items() for role in body.ROLES - {Role.TENANT}}
    assert reached == wanted


@pytest.mark.slow
async def test_actions_on_a_supply_have_their_own_roles(site: Served) -> None:
    """An operator may confirm for a customer, and may not disconnect or reconnect anybody."""
    path = f"{API}/meters/flat-1/commands"
    allowed = {
        "disconnect": FIELD,
        "reconnect": FIELD,
        "confirm_reconnect": FIELD | DESK,
    }
    for action, roles in allowed.items():
        for role in Role:
            client = await site.client(role)
            headers = {"idempotency-key": f"{action}-{role}"}
            form = {"action": action, "reason": "x"}
            answer = await client.post(path, json=form, headers=headers)
            assert (action, role, answer.status_code == 403) == (action, role, role not in roles)


async def test_nobody_learns_nothing(site: Served) -> None:
    """Without a token every path is 401, known or not, except whether the process is up."""
    nobody = await site.client(None)
    for path in (f"{API}/meters", f"{API}/nowhere", "/", "/docs", "/openapi.json", "//healthz"):
        answer = await nobody.get(path)
        assert (path, answer.status_code) == (path, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert (await nobody.get("/healthz")).json() == {"status": "ok"}
    assert (await nobody.get("/readyz")).json() == {"status": "ready"}


async def test_money_of_others_is_hidden_from_the_administrator(site: Served) -> None:
    """`/requests/{key}` shows an administrator its own wishes only."""
    operator, admin = await site.client(Role.OPERATOR), await site.client(Role.ADMIN)
    headers = {"idempotency-key": "k-1"}
    path = f"{API}/accounts/flat-1/recharges"
    await operator.post(path, json={"amount": "5"}, headers=headers)
    assert (await admin.get(f"{API}/requests/k-1")).status_code == 403


async def test_guessing_is_limited_and_the_right_token_still_works(site: Served) -> None:
    """After ten failures an address gets 429; a valid token from there is not locked out."""
    nobody = await site.client(None)
    nobody.headers["authorization"] = "Bearer pgw_wrong"
    statuses = [(await nobody.get(f"{API}/meters")).status_code for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert int((await nobody.get(f"{API}/meters")).headers["retry-after"]) >= 1
    client = await site.client(Role.AUDITOR)
    assert (await client.get(f"{API}/meters")).status_code == 200


async def test_key_is_made_shown_once_and_revoked(site: Served) -> None:
    """A key works until it is revoked; its secret is in no list and not in the file."""
    admin = await site.client(Role.ADMIN)
    made = await admin.post(f"{API}/api-keys", json={"label": "Desk 1", "role": "operator"})
    assert made.status_code == 201
    key = made.json()
    desk = await site.client(None)
    desk.headers["authorization"] = f"Bearer {key['token']}"
    assert (await desk.get(f"{API}/auth/me")).json()["roles"] == ["operator"]
    listed = await admin.get(f"{API}/api-keys")
    assert key["token"] not in listed.text
    files = site.context.settings.north_dir.glob("north.db*")
    assert not any(key["token"].encode() in path.read_bytes() for path in files)
    for _ in range(2):
        revoked = await admin.delete(f"{API}/api-keys/{key['id']}")
        assert revoked.status_code == 200
        assert revoked.json()["revoked_at"] is not None
    assert (await desk.get(f"{API}/auth/me")).status_code == 401
    unknown = await admin.delete(f"{API}/api-keys/{'0' * 26}")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "TOKEN_UNKNOWN")


@pytest.mark.slow
async def test_keys_outlive_the_process(settings: NorthSettings, executor: Executor) -> None:
    """A token made before a restart is valid after it, and a revoked one stays revoked."""
    async with serving(settings, executor) as site:
        secret = (await site.client(Role.AUDITOR)).headers["authorization"]
        admin = await site.client(Role.ADMIN)
        gone = (await admin.post(f"{API}/api-keys", json={"label": "x", "role": "admin"})).json()
        await admin.delete(f"{API}/api-keys/{gone['id']}")
    async with serving(settings, executor) as site:
        client = await site.client(None)
        client.headers["authorization"] = secret
        assert (await client.get(f"{API}/auth/me")).status_code == 200
        client.headers["authorization"] = f"Bearer {gone['token']}"
        assert (await client.get(f"{API}/auth/me")).status_code == 401


async def test_first_start_writes_one_setup_token_for_a_day(
    settings: NorthSettings, tmp_path: Path
) -> None:
    """No default password: one administrator's token in a 0600 file, once, for 24 hours."""
    clock, path = ManualClock(), tmp_path / "setup-token"
    async with open_north(settings, clock, create=True) as context:
        assert await create_setup_token(context, path)
        secret = path.read_text().strip()
        token = context.tokens.find(secret)
        assert token is not None
        assert token.role is Role.ADMIN
        assert path.stat().st_mode & 0o777 == 0o600
        path.unlink()
        assert not await create_setup_token(context, path)
        assert not path.exists()
        clock.pass_s(24 * 3600)
        assert context.tokens.find(secret) is None


async def test_owner_over_the_local_socket_has_every_role(site: Served) -> None:
    """The kernel says who calls: the process's own user needs no token there."""
    client = site.local()
    me = (await client.get(f"{API}/auth/me")).json()
    assert me == {
        "actor": f"uid:{os.geteuid()}",
        "roles": sorted(Role),
        "source": "local socket",
    }
    headers = {"idempotency-key": "k-1"}
    path = f"{API}/accounts/flat-1/recharges"
    answer = await client.post(path, json={"amount": "5"}, headers=headers)
    assert answer.status_code == 201
    stored = await site.context.records.request("k-1")
    assert stored is not None
    assert stored.request.role is Role.MANAGER


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.slow
async def test_another_user_over_the_local_socket_is_refused(
    settings: NorthSettings, executor: Executor, reachable: Path
) -> None:
    """A user who can reach the socket is refused all the same, by what the kernel says."""
    moved = replace(settings, socket_path=reachable / "north.sock")
    async with serving(moved, executor):
        assert moved.socket_path.stat().st_mode & 0o777 == 0o660
        moved.socket_path.chmod(0o666)
        program = (
            "import os, socket, sys\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "link = socket.socket(socket.AF_UNIX)\n"
            "link.settimeout(5)\n"
            "link.connect(sys.argv[1])\n"
            "link.sendall(b'GET /api/v1/meters HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')\n"
            "link.shutdown(socket.SHUT_WR)\n"
            "print(link.makefile().read())\n"
        )
        child = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-I", "-c", program, str(moved.socket_path)],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    assert child.stdout.startswith("HTTP/1.1 403 ")
    assert '"code":"FORBIDDEN"' in child.stdout


@pytest.mark.slow
async def test_proxy_headers_are_believed_from_named_proxies_only(
    settings: NorthSettings, executor: Executor
) -> None:
    """X-Forwarded-For counts only from a configured proxy: else anybody could pose as another."""
    forged = {"x-forwarded-for": "203.0.113.9"}
    async with serving(settings, executor) as site:
        client = await site.client(Role.AUDITOR)
        assert (await client.get(f"{API}/auth/me", headers=forged)).json()["source"] == "127.0.0.1"
    proxied = replace(settings, listen=(replace(settings.listen[0], proxies=("127.0.0.1",)),))
    async with serving(proxied, executor) as site:
        client = await site.client(Role.AUDITOR)
        source = (await client.get(f"{API}/auth/me", headers=forged)).json()["source"]
    assert source == "203.0.113.9"


async def test_expired_token_is_refused_at_its_moment(settings: NorthSettings) -> None:
    """Expiry is judged by the gateway's clock at every call."""
    clock = RealClock()
    async with open_north(settings, clock, create=True) as context:
        _, secret = await create_token(context, label="x", role=Role.AUDITOR, hours=0)
        assert context.tokens.find(secret) is None


async def _try(client: httpx.AsyncClient, operation: str, key: str, form: object) -> int:
    method, template = operation.split()
    path = template.format(**PLACES)
    headers = {"idempotency-key": key}
    content = {} if form is None else {"json": form}
    async with client.stream(method, path, headers=headers, **content) as answer:  # type: ignore[arg-type]
        return answer.status_code
