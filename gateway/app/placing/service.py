"""Puts the points of many nodes into service, and proves their relays by switching them once."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Final, cast

from ulid import ULID

from gateway.app.config import NodeConfig
from gateway.app.placing.asking import carried_out
from gateway.core.errors import GatewayError, RefusedError, StoreAwayError
from gateway.north.client import LocalClient

PROOF_REASON: Final = "proof of the relay"
# Each is without supply for the minimum off time; reconnections of a feeder come one by one.
AT_ONCE: Final = 8
COMMANDS_MAX: Final = 50
MANUAL: Final = "MANUAL"
INTERNAL: Final = "INTERNAL"
OFF: Final = False
ON: Final = True
VERIFIED: Final = "verified"
# What we opened is closed again even where north is started anew meanwhile: waits before each try.
CLOSE_WAITS_S: Final = (0.0, 1.0, 4.0, 10.0, 20.0)
Answer = dict[str, object]
# Follows a switch (of a meter; on or off) to its end: `follow` of gateway/app/cli/meter.py.
Follow = Callable[[LocalClient, str, Answer, bool], Answer]


@dataclass(frozen=True, slots=True)
class Served:
    """What became of a node's point: `in_service` and `proof` in words, `problem` empty if none."""

    meter_id: str
    device_id: str
    in_service: str
    proof: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """What the gateway says before anything is done, by the meter's id.

    `since`: when its device was heard first. `accounts`: service points with an active one.
    """

    meters: Mapping[str, Answer]
    devices: Mapping[str, str]
    since: Mapping[str, str]
    accounts: frozenset[str]

    @classmethod
    def seen_by(cls, north: LocalClient) -> "Site":
        """Ask north. Raises StoreAwayError, RefusedError."""
        items = cast("list[Answer]", north.call("GET", "/devices")["items"])
        serving = {str(item["meter_id"]): item for item in items if item["status"] == "approved"}
        return cls(
            meters={str(item["id"]): item for item in north.pages("/meters")},
            devices={meter_id: str(item["id"]) for meter_id, item in serving.items()},
            since={meter_id: str(item["first_seen_at"]) for meter_id, item in serving.items()},
            accounts=frozenset(
                str(item["service_point_id"])
                for item in north.pages("/accounts")
                if item["status"] == "active"
            ),
        )


class _LeftOpenError(GatewayError):
    """What was opened for a proof could not be closed again."""


class Servant:
    """Serves nodes, several at once; with `prove`, which follows switches, relays are proved."""

    def __init__(
        self,
        socket: Path,
        site: Site,
        *,
        prove: Follow | None,
        say: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._socket = socket
        self._site = site
        self._follow = prove
        self._say = say
        self._sleep = sleep
        self._ending = Event()

    def run(self, nodes: Sequence[NodeConfig], progress: Callable[[], None]) -> list[Served]:
        """What became of each, in their order.

        An interrupt begins no more nodes; a supply that is open for its proof is closed first.
        """

        def one(node: NodeConfig) -> Served:
            try:
                return self._serve(node)
            finally:
                progress()

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="node") as workers:
            works = [workers.submit(one, node) for node in nodes]
            try:
                return [work.result() for work in works]
            except KeyboardInterrupt:
                self._ending.set()
                workers.shutdown(wait=False, cancel_futures=True)
                self._say("ending; what is open for its proof is closed first")
                raise

    def _serve(self, node: NodeConfig) -> Served:
        meter_id = node.meter_id
        device = self._site.devices.get(meter_id, "")
        shown = self._site.meters.get(meter_id, {})
        served = Served(meter_id, device, "before" if shown.get("commissioned") else "no")
        if not device:
            return replace(served, problem="no device is approved for it")
        try:
            with LocalClient(self._socket) as north:
                # A point that an earlier proof left open is closed whatever its readings are.
                if shown.get("quality") != "good" and not self._is_left(north, node, served):
                    return replace(served, problem="no good reading: `doctor` says why")
                if served.in_service == "no":
                    self._commission(north, meter_id)
                    served = replace(served, in_service="now")
                if node.service_point_id not in self._site.accounts:
                    message = "no account is open at it: nothing is enforced until then"
                    served = replace(served, problem=message)
                elif self._follow is not None:
                    proof, problem = self._prove(north, node, self._follow)
                    served = replace(served, proof=proof, problem=problem)
        except RefusedError as refused:
            return replace(served, problem=f"{refused.refusal_code} {refused.message}")
        except _LeftOpenError as left:
            return replace(served, problem=str(left))
        except StoreAwayError as away:
            return replace(served, problem=f"{away}: run this again")
        return served

    def _commission(self, north: LocalClient, meter_id: str) -> None:
        """Raises StoreAwayError where control does not answer in time: it is asked again."""
        path = f"/meters/{meter_id}/commissioning"
        if not carried_out(north, path, None, str(ULID()), self._sleep):
            raise StoreAwayError("control has not answered yet")

    def _prove(self, north: LocalClient, node: NodeConfig, follow: Follow) -> tuple[str, str]:
        """How the relay was proved, and what stands in the way."""
        meter_id = node.meter_id
        if node.critical:
            return "", "is critical: never cut for a proof"
        own, supply = self._seen(north, meter_id)
        off = _left_open(own, supply)
        if off is not None:
            on = self._close(north, meter_id, follow)
        elif _proof_in(own)[1]:
            return "before", ""
        else:
            reasons = cast("list[str]", supply.get("block_reasons", []))
            if reasons or supply.get("output_closed") is not True:
                why = ", ".join(reasons) or str(supply.get("control_state", "not known"))
                return "", f"supply is off ({why}): switch it on, then run this again"
            if self._ending.is_set():
                return "", "interrupted"
            off, on = self._open_and_close(north, meter_id, follow)
        ends = (("closed", on, ": see whether it has supply"), ("opened", off, ""))
        for what, command, next_step in ends:
            if command["state"] != VERIFIED:
                said = command.get("message") or command["state"]
                return "", f"was not seen to be {what}: {said}{next_step}"
        witnesses = cast("list[str]", off["verified_by"]) + cast("list[str]", on["verified_by"])
        return ", ".join(dict.fromkeys(witnesses)), ""

    def _seen(self, north: LocalClient, meter_id: str) -> tuple[list[Answer], Answer]:
        """Commands of the device that serves a meter, newest first, and its supply."""
        history = north.call("GET", f"/meters/{meter_id}/commands?limit={COMMANDS_MAX}")
        # Another device's proof is none of this one's relay.
        own = [
            command
            for command in cast("list[Answer]", history["items"])
            if str(command["issued_at"]) >= self._site.since[meter_id]
        ]
        shown = north.call("GET", f"/meters/{meter_id}")
        return own, cast("Answer", shown.get("supply") or {})

    def _is_left(self, north: LocalClient, node: NodeConfig, served: Served) -> bool:
        if self._follow is None or served.in_service == "no":
            return False
        return _left_open(*self._seen(north, node.meter_id)) is not None

    def _open_and_close(
        self, north: LocalClient, meter_id: str, follow: Follow
    ) -> tuple[Answer, Answer]:
        """Both switches as they ended. Whatever fails after the first was asked for, it is closed.

        Also where it did not open: the reason must not stay. Raises RefusedError, StoreAwayError,
        _LeftOpenError.
        """
        is_asked, on = True, Answer()
        try:
            try:
                command = _ask(north, meter_id, "disconnect", str(ULID()))
            except RefusedError as refused:
                # A fault of north's may have come after the wish was kept; so may no answer.
                is_asked = refused.refusal_code == INTERNAL
                raise
            off = follow(north, meter_id, command, OFF)
        finally:
            if is_asked:
                on = self._close(north, meter_id, follow)
        return off, on

    def _close(self, north: LocalClient, meter_id: str, follow: Follow) -> Answer:
        """The reconnection as it ended. Raises _LeftOpenError when all tries have failed."""
        key, told = str(ULID()), ""
        for wait_s in CLOSE_WAITS_S:
            self._sleep(wait_s)
            try:
                # Under the same key: what was taken already is not asked for twice.
                command = _ask(north, meter_id, "reconnect", key)
                return follow(north, meter_id, command, ON)
            except StoreAwayError as away:
                told = str(away)
            except RefusedError as refused:
                told = f"{refused.refusal_code} {refused.message}"
                if refused.refusal_code == "NOT_DISCONNECTED":
                    return {"state": "refused", "message": told}
                key = str(ULID())
        raise _LeftOpenError(
            f"may be WITHOUT SUPPLY: opened for its proof and not seen to be closed ({told}): run "
            f"this again with --proof, or: meter switch {meter_id} on"
        )


def _ask(north: LocalClient, meter_id: str, action: str, key: str) -> Answer:
    body = {"action": action, "reason": PROOF_REASON, "cause": MANUAL}
    return north.call("POST", f"/meters/{meter_id}/commands", body, key)


def _left_open(commands: Sequence[Answer], supply: Answer) -> Answer | None:
    """The opening of an earlier proof, where that and nothing else blocks supply now."""
    if supply.get("block_reasons") != [MANUAL] or not commands:
        return None
    if _proof_in(commands)[0]:
        return {"state": VERIFIED, "verified_by": ["before"]}
    newest = commands[0]
    is_ours = newest["action"] == "open" and newest["reason"] == PROOF_REASON
    return newest if is_ours else None


def _proof_in(commands: Sequence[Answer]) -> tuple[bool, bool]:
    """Of a meter's commands, newest first: is it open for a proof, and was one completed."""
    done = [command for command in commands if command["state"] == VERIFIED]
    opened = [command["action"] == "open" and command["reason"] == PROOF_REASON for command in done]
    closed = [command["action"] == "close" for command in done]
    completed = any(proof and any(closed[:place]) for place, proof in enumerate(opened))
    return bool(opened) and opened[0], completed
