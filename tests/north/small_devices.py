"""Requests about devices as the small site carries them out: what is kept, not what it does."""

import json
from dataclasses import replace

from gateway.core.errors import RefusedError
from gateway.core.requests import (
    ApproveDevice,
    IdentifyDevice,
    RefuseDevice,
    ReleaseDevice,
    RestartDevice,
    SetDevice,
)
from gateway.store.db import Connection
from gateway.store.devices import DeviceStatus, put_devices, read_devices

DEVICE_BODIES = (
    ApproveDevice,
    RefuseDevice,
    SetDevice,
    IdentifyDevice,
    RestartDevice,
    ReleaseDevice,
)
DeviceBody = (
    ApproveDevice | RefuseDevice | SetDevice | IdentifyDevice | RestartDevice | ReleaseDevice
)


def decide_device(connection: Connection, body: DeviceBody) -> dict[str, object]:
    """Keep what was decided. Refuses DEVICE_UNKNOWN."""
    record = read_devices(connection).get(body.device_id)
    if record is None:
        raise RefusedError("DEVICE_UNKNOWN", f"no device {body.device_id} was heard", "device_id")
    if not isinstance(body, ApproveDevice | RefuseDevice):
        if isinstance(body, SetDevice):
            state = {**record.state, "settings": json.loads(body.document)}
            put_devices(connection, [replace(record, state=state)])
        return {"device_id": body.device_id, "message": "done"}
    refused = isinstance(body, RefuseDevice)
    status = DeviceStatus.REFUSED if refused else DeviceStatus.APPROVED
    put_devices(connection, [replace(record, status=status)])
    return {"device_id": body.device_id, "status": status.value}
