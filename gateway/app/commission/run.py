"""One meter from the first connection to its verdict."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.app.commission.checks import check_survey
from gateway.app.commission.fall_back import prove_fall_back
from gateway.app.commission.findings import (
    NEVER_ACCEPTED,
    Check,
    Finding,
    Result,
    failed,
    failures,
    not_done,
    ok,
    unproven,
)
from gateway.app.commission.proof import (
    BY_HAND,
    LEFT_OPEN,
    Switcher,
    fix_output,
    prove_switching,
)
from gateway.app.commission.survey import Survey, survey, survey_client
from gateway.app.config import MeterConfig
from gateway.app.control.polls import fail_safe_of
from gateway.core.clock import Clock
from gateway.core.errors import MeterError, MeterExceptionError, MeterIdentityError, RefusedError
from gateway.south.meter import MeterClient

PASSED: Final = "passed"
ACCEPTED: Final = "accepted"
FAILED: Final = "failed"
# With one of these failed a switch would prove nothing, or not come back.
BEFORE_SWITCHING: Final = frozenset(
    {
        *(Check.OUTPUT_MODE, Check.REMOTE_TIMEOUT, Check.PROTECTION, Check.WRITE),
        *(Check.FEEDBACK, Check.SERIAL),
    }
)

# Chooses how to move a supply; raises RefusedError with the reason where nobody may.
ChooseSwitcher = Callable[[MeterClient], Awaitable[Switcher]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a person asked for. `accepted` is codes of checks with the reason given for them.

    Unless `check_only` the point is to be enforced, which takes a switch proof.
    """

    serials: Mapping[str, str]
    reference_w: float | None = None
    with_load: bool = False
    fix: bool = False
    check_only: bool = False
    accepted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Examined:
    """What came of it. `seen` is None where the meter could not be read."""

    seen: Survey | None
    findings: tuple[Finding, ...]
    fixed: tuple[str, ...]
    accepted: Mapping[str, str]

    @property
    def verdict(self) -> str:
        """Passed, accepted (with a failed check that a person answers for) or failed."""
        if failures(self.findings, self.accepted):
            return FAILED
        return ACCEPTED if self.accepted else PASSED


async def examine(
    meter: MeterConfig, clock: Clock, wishes: Wishes, choose: ChooseSwitcher
) -> Examined:
    """Check one meter, and switch it where asked; the supply is closed again on every way out.

    Never raises for what the meter does: that is a finding.
    """
    findings: list[Finding] = []
    fixed: list[str] = []
    seen: Survey | None = None
    try:
        if wishes.fix:
            findings += await _fix(meter, clock, choose, fixed)
        seen = await survey(meter, clock)
        identity = seen.identity
        findings.append(
            ok(
                Check.IDENTITY,
                f"{identity.manufacturer} {identity.device_name}, {identity.order_number}, "
                f"firmware {identity.firmware}",
            )
        )
        findings += check_survey(
            meter, seen, serials=wishes.serials, reference_w=wishes.reference_w
        )
        proof = await _switching(meter, clock, wishes, findings, choose)
        findings += proof
        if not wishes.check_only:
            findings += unproven(proof)
    except MeterIdentityError as error:
        findings.append(
            failed(Check.IDENTITY, str(error), "another device has this address: follow its cable")
        )
    except (MeterError, RefusedError) as error:
        code = error.refusal_code if isinstance(error, RefusedError) else error.code
        findings.append(
            failed(
                Check.REACH,
                f"{code}: {error}",
                "power, cable, address, port; is a third client holding all connections?",
            )
        )
    wrong = {
        finding.check.value
        for finding in failures(findings, {})
        if finding.check not in NEVER_ACCEPTED
    }
    accepted = {code: why for code, why in wishes.accepted.items() if code in wrong}
    return Examined(seen, tuple(findings), tuple(fixed), accepted)


async def _switching(
    meter: MeterConfig,
    clock: Clock,
    wishes: Wishes,
    findings: list[Finding],
    choose: ChooseSwitcher,
) -> list[Finding]:
    if not wishes.with_load:
        return [
            not_done(
                Check.SWITCH_OPEN,
                "not asked for: nobody saw the contactor open",
                "switch a load on and give --with-load",
            )
        ]
    hindered = [
        finding.check.value
        for finding in findings
        if finding.result is Result.FAILED and finding.check in BEFORE_SWITCHING
    ]
    if hindered:
        return [not_done(Check.SWITCH_OPEN, f"first put right: {', '.join(hindered)}")]
    client = survey_client(meter, clock)
    try:
        switcher = await choose(client)
        return await _proof(meter, client, switcher, clock)
    except RefusedError as error:
        return [not_done(Check.SWITCH_OPEN, f"{error.refusal_code}: {error.message}")]
    finally:
        await client.close()


async def _proof(
    meter: MeterConfig, client: MeterClient, switcher: Switcher, clock: Clock
) -> list[Finding]:
    proof = await prove_switching(meter, client, switcher, clock)
    if not failures(proof, {}):
        proof += await prove_fall_back(meter, client, switcher, clock)
    return proof


async def _fix(
    meter: MeterConfig, clock: Clock, choose: ChooseSwitcher, fixed: list[str]
) -> list[Finding]:
    """Make the output a switching one that follows `fail_safe`; `fixed` tells what was changed.

    Another device than the configured one is left alone. Raises MeterError.
    """
    client = survey_client(meter, clock)
    try:
        identity = await client.connect()
        if meter.serial_number not in (None, identity.serial_number):
            return []  # found below by its name
        switcher = await choose(client)
        mode = client.model.outputs.switching_mode
        rule = fail_safe_of(meter)
        timeout_s = 0 if rule is None else rule.after_s
        await fix_output(client, switcher, mode=mode, timeout_s=timeout_s, done=fixed)
    except MeterExceptionError:
        pass  # what refuses the change refuses switching too, and is found below by its name
    except RefusedError as error:
        if error.refusal_code == LEFT_OPEN:
            return [failed(Check.SWITCH_CLOSE, error.message, BY_HAND)]
        return [not_done(Check.OUTPUT_MODE, f"not changed: {error.refusal_code} {error.message}")]
    finally:
        await client.close()
    return []
