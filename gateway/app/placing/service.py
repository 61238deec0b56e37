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
from gateway.core.errors import RefusedError, StoreAwayError
from gateway.north.client import LocalClient

PROOF_REASON: Final = "proof of the relay"
# Each is without supply for the minimum off time; reconnections of a feeder come one by one.
AT_ONCE: Final = 8
COMMANDS_MAX: Final = 50
MANUAL: Final = "MANUAL"
VERIFIED: Final = "verified"
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
        if shown.get("quality") != "good":
            return replace(served, problem="no good reading: has it power and Wi-Fi?")
        try:
            with LocalClient(self._socket) as north:
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
        history = north.call("GET", f"/meters/{meter_id}/commands?limit={COMMANDS_MAX}")
        # Another device's proof is none of this one's relay.
        own = [
            command
            for command in cast("list[Answer]", history["items"])
            if str(command["issued_at"]) >= self._site.since[meter_id]
        ]
        open_now, proved = _proof_in(own)
        if proved:
            return "before", ""
        supply = cast("Answer", north.call("GET", f"/meters/{meter_id}").get("supply") or {})
        reasons = cast("list[str]", supply.get("block_reasons", []))
        off: Answer = {"state": VERIFIED, "verified_by": ["before"]}
        if not (open_now and reasons == [MANUAL]):
            if reasons or supply.get("output_closed") is not True:
                why = ", ".join(reasons) or str(supply.get("control_state", "not known"))
                return "", f"supply is off ({why}): switch it on, then run this again"
            if self._ending.is_set():
                return "", "interrupted"
            off = _switch(north, meter_id, "disconnect", follow)
        # Also where it did not open: the reason must not stay.
        on = _switch(north, meter_id, "reconnect", follow)
        for what, command in (("opened", off), ("closed", on)):
            if command["state"] != VERIFIED:
                said = command.get("message") or command["state"]
                return "", f"was not seen to be {what}: {said}"
        witnesses = cast("list[str]", off["verified_by"]) + cast("list[str]", on["verified_by"])
        return ", ".join(dict.fromkeys(witnesses)), ""


def _switch(north: LocalClient, meter_id: str, action: str, follow: Follow) -> Answer:
    body = {"action": action, "reason": PROOF_REASON, "cause": MANUAL}
    command = north.call("POST", f"/meters/{meter_id}/commands", body, str(ULID()))
    return follow(north, meter_id, command, action == "reconnect")


def _proof_in(commands: Sequence[Answer]) -> tuple[bool, bool]:
    """Of a meter's commands, newest first: is it open for a proof, and was one completed."""
    done = [command for command in commands if command["state"] == VERIFIED]
    opened = [command["action"] == "open" and command["reason"] == PROOF_REASON for command in done]
    closed = [command["action"] == "close" for command in done]
    completed = any(proof and any(closed[:place]) for place, proof in enumerate(opened))
    return bool(opened) and opened[0], completed
