"""`meter commission` and its reports: prove a meter's wiring, sign what was seen, enforce."""

import signal
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.app.cli.local import KeyOption, key_or_new, local_client, not_polled
from gateway.app.cli.output import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    complain,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    import asyncio

    from gateway.app.clock import SystemClock
    from gateway.app.commission.findings import Finding
    from gateway.app.commission.run import Examined, Wishes
    from gateway.app.config import Config, MeterConfig
    from gateway.core.signing import Signer

REPORTS_DIR: Final = "commissioning"
# Longer than a commissioning takes, so that a change of ours is no sign of tampering.
ANNOUNCED_S: Final = 300
CONCURRENCY: Final = 8

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Where reports are; beside the configuration unless given."
    ),
]
ByOption = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Who did it; the login unless given.")
]


def add_to(group: typer.Typer) -> None:
    """Add the commands to the group `meter`."""
    group.command()(commission)
    group.command("commission-report")(commission_report)
    group.command("verify-report")(verify_report)


def commission(
    config: ConfigOption,
    meter: Annotated[
        str | None, typer.Argument(metavar="ID", help="The meter; or give --all.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All meters without a good report yet.")
    ] = False,
    with_load: Annotated[
        bool, typer.Option("--with-load", help="Open and close the supply and see it.")
    ] = False,
    reference_w: Annotated[
        float | None, typer.Option(min=20, help="A known load that is switched on alone.")
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Set the output's type of use and remote timeout.")
    ] = False,
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Answer for a failed check; may be repeated."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; needed with --accept.")] = "",
    check_only: Annotated[
        bool, typer.Option("--check-only", help="Report only; supply is not enforced.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before switching.")] = False,
    by: ByOption = None,
    out: OutOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a meter and its wiring, write a signed report, and enforce supply once proved."""
    from gateway.app.commission.checks import serials_of
    from gateway.app.commission.run import Wishes
    from gateway.app.config import load_config

    if every and key is not None:
        raise typer.BadParameter("one key is for one meter", param_hint="--key")
    found = load_config(config)
    meters = _chosen(found, meter, every=every)
    session = _Session(found, out, by, check_only=check_only)
    if every:
        meters = session.left(meters, with_load=with_load)
    if with_load and not yes:
        names = ", ".join(each.meter_id for each in meters)
        typer.confirm(
            f"This takes the supply of {names} away for up to a minute. Go on?",
            abort=True,
            err=True,
        )
    wishes = Wishes(
        serials=serials_of(found.meters),
        reference_w=reference_w,
        with_load=with_load,
        fix=fix,
        check_only=check_only,
        accepted=_accepted(accept or [], reason),
    )
    told = session.run(meters, wishes, key, quiet=as_json)
    if as_json:
        shown = [each.as_json() for each in told]
        show_json(shown if every else shown[0])
    else:
        _show(told, every=every)
    for each in told:
        complain(*(f"{each.meter}: {problem}" for problem in each.problems))
    if any(each.problems for each in told):
        raise typer.Exit(EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class _Told:
    """What came of one meter. `problems` keep it from being done, `unsigned` says why no key."""

    meter: str
    verdict: str
    report: Path
    unsigned: str
    commissioned: str
    problems: tuple[str, ...]
    findings: "tuple[Finding, ...]"
    fixed: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "meter": self.meter,
            "verdict": self.verdict,
            "commissioned": self.commissioned or None,
            "report": str(self.report),
            "unsigned_because": self.unsigned or None,
            "problems": list(self.problems),
            "findings": [finding.as_json() for finding in self.findings],
            "fixed": list(self.fixed),
        }


class _Session:
    """One call of `meter commission`: where reports go, who signs, who is told."""

    def __init__(
        self, config: "Config", out: Path | None, by: str | None, *, check_only: bool
    ) -> None:
        from gateway.app.cli.serve import clock_of_environment
        from gateway.app.commission.report import require_directory, signer_of
        from gateway.app.paths import paths_of

        self.config = config
        self.directory = out or config.path.parent / REPORTS_DIR
        self._by = _plain(by or _login())
        self.clock: SystemClock = clock_of_environment()
        self._check_only = check_only
        # Not after somebody's supply was taken away for it.
        require_directory(self.directory)
        self._signer: Signer | None
        self._signer, self._unsigned = signer_of(paths_of(config).control_dir)

    def left(self, meters: "Sequence[MeterConfig]", *, with_load: bool) -> "list[MeterConfig]":
        """The meters that a person still has to do: `--all` goes on where it stopped."""
        from gateway.app.commission.report import is_done
        from gateway.core.errors import StoreAwayError

        enforced: Mapping[str, object] | None = None
        if not self._check_only:
            try:
                with local_client(self.config.path) as north:
                    enforced = {
                        str(item["id"]): item["commissioned"] for item in north.pages("/meters")
                    }
            except StoreAwayError:
                enforced = None  # then the reports alone say what is done
        return [
            meter
            for meter in meters
            if not is_done(self.config, self.directory, meter, with_load=with_load)
            or (enforced is not None and enforced.get(meter.meter_id) is not True)
        ]

    def run(
        self, meters: "Sequence[MeterConfig]", wishes: "Wishes", key: str | None, *, quiet: bool
    ) -> list[_Told]:
        """Examine meters, a few at once (with load one after the other), report and tell control.

        Ctrl-C, SIGTERM and a closed terminal end it; a supply that is open then is closed first.
        """
        import asyncio

        from gateway.app.cli.serve import run_loop
        from gateway.app.commission.run import examine
        from gateway.app.commission.switchers import choose_switcher
        from gateway.app.control.polls import fail_safe_of

        told: dict[str, _Told] = {}

        async def one(meter: "MeterConfig", free: "asyncio.Semaphore") -> None:
            async with free:
                # The proof of a fall-back sets a short time, too.
                if wishes.fix or (wishes.with_load and fail_safe_of(meter) is not None):
                    await asyncio.to_thread(self._announce, meter)
                choose = partial(choose_switcher, self.config, meter, self.clock)
                examined = await examine(meter, self.clock, wishes, choose)
                told[meter.meter_id] = await asyncio.to_thread(self._conclude, meter, examined, key)

        async def run() -> None:
            from rich.console import Console
            from rich.progress import Progress

            free = asyncio.Semaphore(1 if wishes.with_load else CONCURRENCY)
            with Progress(
                console=Console(stderr=True), transient=True, disable=quiet or len(meters) < 2
            ) as bar:
                task = bar.add_task("meters", total=len(meters))
                async with asyncio.TaskGroup() as group:
                    for meter in meters:
                        work = group.create_task(one(meter, free), name=meter.meter_id)
                        work.add_done_callback(lambda _: bar.advance(task))

        if not run_loop(lambda: _until_signal(run())):
            complain(f"interrupted after {len(told)} of {len(meters)} meters")
            raise typer.Exit(EXIT_FAILED)
        return [told[meter.meter_id] for meter in meters]

    def _announce(self, meter: "MeterConfig") -> None:
        """Tell control that settings will change, or it would take that for tampering."""
        from gateway.core.errors import RefusedError, StoreAwayError

        body = {"reason": "commissioning", "for_s": ANNOUNCED_S}
        path = f"/meters/{meter.meter_id}/changes-acknowledgement"
        # Where control is away its first reading shows the change: it says so, and that is right.
        with suppress(StoreAwayError, RefusedError), local_client(self.config.path) as north:
            north.call("POST", path, body, key_or_new(None))

    def _conclude(self, meter: "MeterConfig", examined: "Examined", key: str | None) -> _Told:
        """Write the report, tell control where all fits, and say what came of it."""
        from gateway.app.commission.findings import failures
        from gateway.app.commission.pages import meter_page
        from gateway.app.commission.report import meter_report, utc_text, write_report
        from gateway.core.errors import RefusedError, StoreAwayError

        at = utc_text(self.clock.utc_ms())
        document = meter_report(self.config, meter, examined, by=self._by, at=at)
        path = write_report(
            self.directory, meter.meter_id, document, meter_page(document), self._signer
        )
        problems = [
            f"{finding.check.value}: {finding.text}; {finding.next_step}"
            for finding in failures(examined.findings, examined.accepted)
        ]
        answer: Mapping[str, object] = {}
        if not problems and not self._check_only:
            try:
                with local_client(self.config.path) as north:
                    answer = north.call(
                        "POST", f"/meters/{meter.meter_id}/commissioning", None, key_or_new(key)
                    )
            except StoreAwayError as error:
                problems.append(f"supply is not enforced: {error}; repeat while the gateway runs")
            except RefusedError as error:
                problems.append(f"supply is not enforced: {error.refusal_code} {error.message}")
        return _Told(
            meter=meter.meter_id,
            verdict=examined.verdict,
            report=path,
            unsigned=self._unsigned,
            commissioned=str(answer.get("state", "")),
            problems=tuple(problems),
            findings=examined.findings,
            fixed=examined.fixed,
        )


def commission_report(
    config: ConfigOption, by: ByOption = None, out: OutOption = None, as_json: JsonOption = False
) -> None:
    """Write the site's report from the meters' reports: who is done, signed, and what is open."""
    from gateway.app.cli.serve import clock_of_environment
    from gateway.app.commission.pages import site_page
    from gateway.app.commission.report import (
        SITE_NAME,
        signer_of,
        site_report,
        site_rows,
        utc_text,
        write_report,
    )
    from gateway.app.config import load_config
    from gateway.app.paths import paths_of

    found = load_config(config)
    directory = out or found.path.parent / REPORTS_DIR
    rows = site_rows(found, directory)
    at = utc_text(clock_of_environment().utc_ms())
    document = site_report(found, rows, at, _plain(by or _login()))
    signer, unsigned = signer_of(paths_of(found).control_dir)
    path = write_report(directory, SITE_NAME, document, site_page(document), signer)
    if as_json:
        show_json(document)
    else:
        show_table(
            f"{found.site.name}: {document['commissioned']} of {len(rows)} meters "
            f"({document['percent']} %) commissioned with a signed report",
            ("meter", "verdict", "at", "by", "signed", "open points"),
            [
                (row.meter, row.verdict, row.at, row.by, row.signature, ", ".join(row.open_points))
                for row in rows
            ],
        )
        complain(f"report: {path}")
    if unsigned:
        complain(f"the report is not signed: {unsigned}")


def verify_report(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A report (JSON).")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="The site whose key must fit."),
    ] = None,
    public_key: Annotated[
        str | None, typer.Option(help="The site's public key (hex), as site-key.pub holds it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a report's signature: exit 0, or 1 where it was changed or another key signed it."""
    from gateway.app.commission.report import read_report, verify, verify_here
    from gateway.app.config import load_config

    document, signature = read_report(file)
    if public_key is None and config is not None:
        checked = verify_here(load_config(config), document, signature)
    else:
        wanted = None if public_key is None else public_key.strip().lower()
        checked = verify(document, signature, wanted)
    told = {name: document.get(name) for name in ("site", "meter", "at", "verdict")}
    if as_json:
        show_json(
            {
                "valid": checked.is_valid,
                "public_key": checked.public_key,
                "compared": public_key is not None or config is not None,
                "problem": checked.problem or None,
                **told,
            }
        )
    elif checked.is_valid:
        # A file's name proves nothing: whose report it is stands inside.
        whose = ", ".join(_plain(str(value)) for value in told.values() if value is not None)
        typer.echo(f"{file}: {whose}: signed by {checked.public_key}, unchanged")
        if public_key is None and config is None:
            complain("compare that key with the site's site-key.pub, or give --config")
    if not checked.is_valid:
        complain(f"{file}: {checked.problem}")
        raise typer.Exit(EXIT_FAILED)


def _chosen(config: "Config", meter: str | None, *, every: bool) -> "list[MeterConfig]":
    if every == (meter is not None):
        raise typer.BadParameter("give the meter's id, or --all", param_hint="ID")
    meters = [each for each in config.meters if every or each.meter_id == meter]
    if not meters and meter is not None:
        raise not_polled(config, meter)
    return meters


def _accepted(codes: Sequence[str], reason: str) -> dict[str, str]:
    """Codes of checks with the reason. Raises typer.BadParameter."""
    from gateway.app.commission.findings import NEVER_ACCEPTED, Check

    known = {check.value for check in Check if check not in NEVER_ACCEPTED}
    for code in codes:
        if code not in known:
            raise typer.BadParameter(
                f"{code} cannot be accepted; there are {', '.join(sorted(known))}",
                param_hint="--accept",
            )
    if codes and not reason.strip():
        raise typer.BadParameter("say why with --reason", param_hint="--accept")
    return dict.fromkeys(codes, _plain(reason))


async def _until_signal(work: Coroutine[None, None, None]) -> bool:
    """Run to the end (True) or until a signal; what the work does on its way out is awaited."""
    import asyncio

    loop = asyncio.get_running_loop()
    task = loop.create_task(work, name="commissioning")

    def end() -> None:
        # Once: a second Ctrl-C must not cut short the closing of a supply.
        if not task.cancelling():
            complain("ending; a supply that is open is closed first")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Only the main thread of a program gets signals.
        with suppress(ValueError, RuntimeError):
            loop.add_signal_handler(number, end)
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


def _show(told: Sequence[_Told], *, every: bool) -> None:
    if every:
        show_table(
            "Commissioning",
            ("meter", "verdict", "signed", "report"),
            [
                (each.meter, each.verdict, "no" if each.unsigned else "yes", each.report)
                for each in told
            ],
        )
    else:
        for each in told:
            show_table(
                f"{each.meter}: {each.verdict}; report {each.report}",
                ("check", "result", "what was seen", "next step"),
                [
                    (finding.check.value, finding.result.value, finding.text, finding.next_step)
                    for finding in each.findings
                ],
            )
            complain(*(f"{each.meter}: changed at the meter: {change}" for change in each.fixed))
            if each.commissioned:
                typer.echo(f"{each.meter}: supply is enforced from now on")
    unsigned = next((each.unsigned for each in told if each.unsigned), "")
    if unsigned:
        complain(f"the report is not signed: {unsigned}")


def _plain(text: str) -> str:
    """One line that every file and signature can hold, whatever the terminal's encoding."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def _login() -> str:
    """The name of the user who runs the command."""
    from getpass import getuser

    try:
        return getuser()
    except (KeyError, OSError):
        return "unknown"
