"""`device approve` and `device commission`: one node, or all that a bench has made."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.app.cli.local import KeyOption, ask, local_client, tell
from gateway.app.cli.output import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    complain,
    show_json,
    show_reasons,
    show_table,
)

if TYPE_CHECKING:
    from gateway.app.config import Config, NodeConfig
    from gateway.app.placing.approval import Result
    from gateway.app.placing.places import Place
    from gateway.app.placing.service import Answer, Served, Site
    from gateway.north.client import LocalClient

RecordOption = Annotated[
    list[Path] | None,
    typer.Option("--record", metavar="FILE", help="A bench's record (boards.jsonl); repeatable."),
]
MEANING: Final = {
    "new": "would be approved",
    "approved": "approved now",
    "there": "approved before",
    "unheard": "not heard yet",
    "refused": "refused",
    "waiting": "kept, control has not answered yet",
    "unreached": "not asked: north did not answer",
}
FINE: Final = ("approved", "there")


def register(group: typer.Typer) -> None:
    """Add the commands to the group `device`."""
    group.command()(approve)
    group.command()(commission)


def approve(
    config: ConfigOption,
    device: Annotated[str | None, typer.Argument(metavar="DEVICE", help="Device id.")] = None,
    meter: Annotated[str | None, typer.Argument(metavar="METER", help="Its meter.")] = None,
    record: RecordOption = None,
    assign: Annotated[
        Path | None,
        typer.Option("--assign", metavar="FILE", help="Places: a CSV of serial and meter_id."),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Write meters that are missing into the meters file.")
    ] = False,
    wait: Annotated[
        int,
        typer.Option("--wait", min=0, max=86_400, metavar="S", help="For nodes not heard yet."),
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check, and show what would happen.")
    ] = False,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whose a device is, from when its readings count: DEVICE METER, or many from a bench.

    With --record and --assign all is checked before anything is done; give it again at any time.
    """
    if record or assign is not None:
        if not record or assign is None or device is not None or key is not None:
            raise typer.BadParameter("--record and --assign go together, and alone")
        _approve_many(config, record, assign, new=new, wait=wait, dry_run=dry_run, as_json=as_json)
        return
    if device is None or meter is None or new or wait or dry_run:
        raise typer.BadParameter("give DEVICE METER, or --record and --assign")
    answer = ask(config, "POST", f"/devices/{device}/approval", {"meter_id": meter}, key)
    tell(answer, f"{device} serves {meter}", as_json=as_json)


def _approve_many(
    path: Path,
    records: list[Path],
    assign: Path,
    *,
    new: bool,
    wait: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from gateway.app.cli.serve import clock_of_environment
    from gateway.app.config import load_config
    from gateway.app.placing.approval import Approver, Result, devices_of, fate_of

    config = load_config(path)
    with local_client(path) as north:
        places = _checked(config, north, records, assign, new=new)
        missing = [place for place in places if place.is_new]
        if dry_run:
            devices = devices_of(north)
            results = [
                Result(one, fate_of(one, devices.get(one.board.device_id))) for one in places
            ]
        else:
            if missing:
                _add(config, north, missing)
            console = Console(stderr=True)
            with Progress(
                console=console, transient=True, disable=as_json or not console.is_terminal
            ) as bar:
                task = bar.add_task("devices", total=len(places))
                approver = Approver(north, clock_of_environment())
                results = approver.run(places, wait, lambda: bar.advance(task))
    if as_json:
        show_json(_document(results, dry_run=dry_run))
    else:
        _show(str(assign), results, dry_run=dry_run)
    if not dry_run and any(result.fate not in FINE for result in results):
        raise typer.Exit(EXIT_FAILED)


def _checked(
    config: "Config", north: "LocalClient", records: list[Path], assign: Path, *, new: bool
) -> "list[Place]":
    """The places, when everything fits; all problems are told, and nothing was done."""
    from gateway.app.config_place import refuse
    from gateway.app.placing.approval import devices_of
    from gateway.app.placing.boards import read_records
    from gateway.app.placing.meters_file import check_writable
    from gateway.app.placing.places import compare, read_places
    from gateway.core.errors import ConfigurationError

    try:
        boards = read_records(records)
        places, problems = read_places(assign, boards, config)
        meters = str(config.meters_file or "its meters file")
        problems += compare(places, devices_of(north), may_add=new, meters=meters)
        if problems:
            raise refuse(problems)
    except ConfigurationError as error:
        # The files are the person's, not the configuration: refused, status 1.
        complain(*error.problems)
        raise typer.Exit(EXIT_FAILED) from error
    if any(place.is_new for place in places):
        check_writable(config)
    return places


def _add(config: "Config", north: "LocalClient", missing: "list[Place]") -> None:
    import time

    from gateway.app.cli.serve import clock_of_environment
    from gateway.app.placing.meters_file import add_meters, reload_gateway
    from gateway.core.errors import ConfigurationError

    try:
        kept = add_meters(config, [place.meters_row() for place in missing])
    except ConfigurationError as error:
        complain(*error.problems)
        raise typer.Exit(EXIT_FAILED) from error
    complain(f"{config.meters_file}: {len(missing)} nodes added; the file of before is {kept}")
    names = [place.meter_id for place in missing]
    reload_gateway(config, north, names, clock_of_environment(), time.sleep)


def _show(title: str, results: "list[Result]", *, dry_run: bool) -> None:
    show_table(
        f"{title}: {'what would happen' if dry_run else 'what was done'}",
        ("serial", "device", "meter", "meters file", "what"),
        [
            (
                result.place.board.serial,
                result.place.board.device_id,
                result.place.meter_id,
                _line(result, dry_run=dry_run),
                MEANING[result.fate],
            )
            for result in results
        ],
    )
    show_reasons([(one.place.board.serial, f"{one.code} {one.message}".strip()) for one in results])
    counts = [(MEANING[fate], sum(result.fate == fate for result in results)) for fate in MEANING]
    typer.echo(", ".join(f"{count} {what}" for what, count in counts if count))
    if any(result.fate == "unheard" for result in results):
        complain(
            "not heard yet: have they power, Wi-Fi, a login at the broker (broker add-user "
            "--record)? At most ten new ones are taken up a minute; give this again, or --wait"
        )


def _line(result: "Result", *, dry_run: bool) -> str:
    if not result.place.is_new:
        return "there"
    return "would be added" if dry_run else "added"


def _document(results: "list[Result]", *, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "devices": [
            {
                "serial": result.place.board.serial,
                "device": result.place.board.device_id,
                "meter": result.place.meter_id,
                "meter_added": result.place.is_new and not dry_run,
                "fate": result.fate.value,
                "code": result.code,
                "message": result.message,
            }
            for result in results
        ],
    }


def commission(
    config: ConfigOption,
    meter: Annotated[
        list[str] | None, typer.Argument(metavar="METER...", help="Nodes of the configuration.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every node that has its device.")] = False,
    proof: Annotated[
        bool,
        typer.Option("--proof", help="Switch each off and on once: a minute without supply."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="The wiring was proved: do not ask.")] = False,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put nodes' points into service: from now on their supply is enforced.

    --proof switches each relay off and on, once, several nodes at a time, never critical points.
    Give it again at any time: what is in service or proved is left alone.
    """
    names = list(dict.fromkeys(meter or ()))
    if every == bool(names):
        raise typer.BadParameter("give meters, or --all", param_hint="METER")
    if len(names) == 1 and not proof:
        _ask_person(names[0], proof=False, yes=yes)
        answer = ask(config, "POST", f"/meters/{names[0]}/commissioning", None, key)
        tell(answer, f"{names[0]} is in service", as_json=as_json)
        return
    if key is not None:
        raise typer.BadParameter("for one meter, without --proof", param_hint="--key")
    _serve_many(config, names, proof=proof, yes=yes, as_json=as_json)


def _ask_person(which: str, *, proof: bool, yes: bool) -> None:
    relay = "" if proof else ", and that its relay switches them"
    question = f"Was it seen that {which} measures its customer{relay}?"
    if not yes:
        typer.confirm(question, abort=True, err=True)


def _serve_many(path: Path, names: list[str], *, proof: bool, yes: bool, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from gateway.app.cli.meter import follow
    from gateway.app.config import load_config
    from gateway.app.paths import paths_of
    from gateway.app.placing.service import Servant, Site

    loaded = load_config(path)
    with local_client(path) as north:
        site = Site.seen_by(north)
    nodes = _chosen(loaded, site, names)
    _ask_person(f"each of these {len(nodes)} nodes", proof=proof, yes=yes)
    console = Console(stderr=True)
    hidden = as_json or not console.is_terminal
    with Progress(console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("nodes", total=len(nodes))

        def say(text: str) -> None:
            if hidden:
                complain(text)
            else:
                bar.console.print(text, markup=False, highlight=False)

        def followed(north: "LocalClient", name: str, command: "Answer", on: bool) -> "Answer":
            return follow(north, name, command, on=on, say=say)

        servant = Servant(paths_of(loaded).socket, site, prove=followed if proof else None, say=say)
        served = servant.run(nodes, lambda: bar.advance(task))
    _tell_served(served, proof=proof, as_json=as_json)
    if any(one.problem for one in served):
        raise typer.Exit(EXIT_FAILED)


def _chosen(config: "Config", site: "Site", names: list[str]) -> "list[NodeConfig]":
    """The nodes of these names; all that have a device where there are none."""
    from gateway.app.doctor.findings import named
    from gateway.core.errors import RefusedError

    nodes = {node.meter_id: node for node in config.nodes}
    unknown = [name for name in names if name not in nodes]
    if unknown:
        raise RefusedError("METER_UNKNOWN", f"the configuration has no node {unknown[0]}")
    if names:
        return [nodes[name] for name in names]
    found = [node for node in config.nodes if node.meter_id in site.devices]
    if not found:
        raise RefusedError("DEVICE_UNKNOWN", "no node has a device yet: device approve")
    lacking = [node.meter_id for node in config.nodes if node.meter_id not in site.devices]
    if lacking:
        complain(f"left out, without a device yet: {named(lacking)}")
    return found


def _tell_served(served: "list[Served]", *, proof: bool, as_json: bool) -> None:
    if as_json:
        show_json(
            {
                "nodes": [
                    {
                        "meter": one.meter_id,
                        "device": one.device_id or None,
                        "in_service": one.in_service,
                        "proof": one.proof or None,
                        "problem": one.problem or None,
                    }
                    for one in served
                ]
            }
        )
        return
    show_table(
        f"{sum(one.in_service != 'no' for one in served)} of {len(served)} nodes are in service"
        + (f", {sum(bool(one.proof) for one in served)} relays proved" if proof else ""),
        ("meter", "device", "in service", "relay proved by"),
        [(one.meter_id, one.device_id, one.in_service, one.proof) for one in served],
    )
    show_reasons([(one.meter_id, one.problem) for one in served])
