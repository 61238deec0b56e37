"""Requests that a node itself carries out: settings, finding it, restart, a held counter."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final, TypeVar, cast

from gateway.app.control.department import Method
from gateway.app.control.desk import Desk, json_object
from gateway.app.control.devices import SET
from gateway.app.control.nodes import NodeOffice
from gateway.core.errors import (
    MeterError,
    MeterTimeoutError,
    NodeRefusedError,
    RefusedError,
)
from gateway.core.node_settings import MODULE_ADDRESS_MAX, MODULES, check_settings
from gateway.core.requests import (
    IdentifyDevice,
    ReleaseDevice,
    Request,
    RestartDevice,
    SetDevice,
)
from gateway.south.node_device import NodeDevice
from gateway.south.nodes import COMMAND_DEADLINE_S, NodeGroup
from gateway.store.db import Connection
from gateway.store.devices import DeviceRecord, DeviceStatus, put_devices

IDENTIFY_MAX_S: Final = 600
# By this setting a held counter may go on.
MAXIMUM: Final = "p_max_w"
T = TypeVar("T")


class NodeRequests:
    """Tells nodes what people want of them; the outcome has the node's own answer.

    The node has done it when it answers, so the commit follows. A gateway that dies in between
    sends a request once more as long as it has not expired: none of them does harm twice.
    """

    def __init__(self, desk: Desk, nodes: NodeOffice) -> None:
        self._desk = desk
        self._nodes = nodes

    @property
    def methods(self) -> Mapping[type, Method]:
        """What this carries out, by the type of the body."""
        return {
            SetDevice: self.set,
            IdentifyDevice: self.identify,
            RestartDevice: self.restart,
            ReleaseDevice: self.release,
        }

    async def set(self, body: SetDevice, request: Request) -> None:
        """Change settings of a node and keep what it took.

        Refuses SETTINGS_DOCUMENT, SETTING_UNKNOWN, SETTING_RANGE and as `_tell`.
        """
        changes = check_settings(json_object(body.document, "SETTINGS_DOCUMENT"))
        # Either may let the node's total jump, which only the gateway's guard judges.
        restarts = self._moves_meter(body.device_id, changes)
        message = await self._unleased(
            body.device_id,
            "settings",
            changes,
            moves=restarts or MAXIMUM in changes,
            until_restart=restarts,
        )
        record = self._known(body.device_id)
        kept = cast("Mapping[str, object]", record.state.get(SET, {}))
        fresh = replace(record, state={**record.state, SET: {**kept, **changes}})
        # At once in memory: what telemetry changes meanwhile goes on from it.
        self._nodes.book.put(fresh)
        await self._commit(
            request,
            {"settings": dict(changes), "message": message},
            lambda connection: put_devices(connection, [fresh]),
        )

    async def identify(self, body: IdentifyDevice, request: Request) -> None:
        """Let the lamp blink. Refuses IDENTIFY_RANGE and as `_tell`."""
        if not 1 <= body.for_s <= IDENTIFY_MAX_S:
            raise RefusedError("IDENTIFY_RANGE", f"for 1 to {IDENTIFY_MAX_S} seconds", "for_s")
        await self._tell(body.device_id, "identify", {"seconds": body.for_s})
        await self._commit(request, {"for_s": body.for_s})

    async def restart(self, body: RestartDevice, request: Request) -> None:
        """Restart the node. Refuses as `_tell`."""
        await self._tell(body.device_id, "restart", {})
        await self._commit(request, {})

    async def release(self, body: ReleaseDevice, request: Request) -> None:
        """Go on from a held counter. Refuses REASON_MISSING, MODULE_ADDRESS and as `_tell`.

        What it makes of the total is for the gateway's own guard to judge, as any reading.
        """
        if not body.reason:
            raise RefusedError("REASON_MISSING", "say what was found at the module", "reason")
        if not 0 <= body.module_address <= MODULE_ADDRESS_MAX:
            raise RefusedError(
                "MODULE_ADDRESS", f"an address is 1 to {MODULE_ADDRESS_MAX}", "module_address"
            )
        args: dict[str, object] = {"count": body.count}
        if body.module_address:
            args["address"] = body.module_address
        message = await self._unleased(body.device_id, "release", args, moves=body.count)
        await self._commit(request, {"counted": body.count, "message": message})

    # -- inside ----------------------------------------------------------------------------

    async def _unleased(
        self,
        device_id: str,
        kind: str,
        args: Mapping[str, object],
        *,
        moves: bool,
        until_restart: bool = False,
    ) -> str:
        """As `_tell`; where the total `moves` by it no lease cuts until the gateway has read it."""
        device, leases = self._serving(device_id)[1], self._nodes.leases
        if leases is None or not moves:
            return await self._tell(device_id, kind, args)
        before = await leases.hold_back(device, until_restart=until_restart)
        try:
            await _asked(leases.lift(device))
        except RefusedError:
            leases.go_on(device, before)
            raise
        try:
            message = await self._tell(device_id, kind, args)
        except RefusedError as refused:
            # One that does not answer may have taken it.
            leases.go_on(device, before if refused.refusal_code == "NODE_REFUSED" else None)
            raise
        leases.go_on(device)
        return message

    def _moves_meter(self, device_id: str, changes: Mapping[str, object]) -> bool:
        """Whether another module may be the meter from the node's next restart on."""
        if MODULES not in changes:
            return False
        told, wanted = self._serving(device_id)[1].modules, cast("list[int]", changes[MODULES])
        return not told or told[0].address != wanted[0]

    async def _tell(self, device_id: str, kind: str, args: Mapping[str, object]) -> str:
        """Send a node a command; the words of its answer.

        Refuses DEVICE_UNKNOWN, DEVICE_NOT_APPROVED, DEVICE_AWAY, DEVICE_SILENT, NODE_REFUSED.
        """
        group, device = self._serving(device_id)
        return (await _asked(group.order(device.index, kind, args))).message

    def _serving(self, device_id: str) -> tuple[NodeGroup, NodeDevice]:
        record, group = self._known(device_id), self._nodes.group
        if record.status is not DeviceStatus.APPROVED:
            raise RefusedError(
                "DEVICE_NOT_APPROVED",
                f"{device_id} is {record.status.value}: it is told nothing before it is approved",
                "device_id",
            )
        device = None if group is None else group.devices.get(device_id)
        if group is None or device is None or device.online is False or not device.session:
            raise RefusedError("DEVICE_AWAY", f"{device_id} is offline: nothing was sent")
        return group, device

    def _known(self, device_id: str) -> DeviceRecord:
        record = self._nodes.book.records.get(device_id)
        if record is None:
            raise RefusedError(
                "DEVICE_UNKNOWN", f"no device {device_id} was ever heard", "device_id"
            )
        return record

    async def _commit(
        self,
        request: Request,
        result: Mapping[str, object],
        keep: Callable[[Connection], object] = lambda _: None,
    ) -> None:
        made: dict[str, object] = {
            "device_id": getattr(request.body, "device_id", ""),
            **{name: value for name, value in result.items() if value != ""},
        }

        def effect(connection: Connection) -> dict[str, object]:
            keep(connection)
            return made

        await self._desk.commit(request, effect)


async def _asked(answer: Awaitable[T]) -> T:
    """What a node answered. Raises RefusedError DEVICE_AWAY, DEVICE_SILENT, NODE_REFUSED."""
    try:
        return await answer
    except NodeRefusedError as refused:
        words = str(refused)
        if refused.node_code == "UNKNOWN_TYPE":
            words += ": its firmware does not know this yet"
        raise RefusedError("NODE_REFUSED", words) from refused
    except MeterTimeoutError as error:
        raise RefusedError(
            "DEVICE_SILENT",
            f"no answer in {COMMAND_DEADLINE_S:.0f} s: it may have been carried out; look first",
        ) from error
    except MeterError as error:
        raise RefusedError("DEVICE_AWAY", f"nothing was sent: {error}") from error
