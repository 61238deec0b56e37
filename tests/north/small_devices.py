"""Requests about devices as the small site carries them out: what is kept, not what it does."""

from dataclasses import replace

from gateway.core.errors import RefusedError
from gateway.core.requests import ApproveDevice, RefuseDevice
from gateway.store.db import Connection
from gateway.store.devices import DeviceStatus, put_devices, read_devices

DeviceBody = ApproveDevice | RefuseDevice


def decide_device(connection: Connection, body: DeviceBody) -> dict[str, object]:
    """Keep what was decided. Refuses DEVICE_UNKNOWN."""
    record = read_devices(connection).get(body.device_id)
    if record is None:
        raise RefusedError("DEVICE_UNKNOWN", f"no device {body.device_id} was heard", "device_id")
    refused = isinstance(body, RefuseDevice)
    status = DeviceStatus.REFUSED if refused else DeviceStatus.APPROVED
    put_devices(connection, [replace(record, status=status)])
    return {"device_id": body.device_id, "status": status.value}
