"""The way to the broker: join, log in, send what waits, take commands; again after every failure.

What waits goes in this order: results, events, an update's wish, status, telemetry, backlog.
"""

import asyncio
import gc
import json

from node import mqtt, telemetry, wifi
from node.port import const
from node.sealed import mqtt_password

_TIMEOUT_S = const(10)
_RESOLVE_S = const(5)
_PACKET_BYTES = const(2_304)  # a command of 2,048 bytes with its topic
_MOST_RESULTS = const(16)
_BEAT_S = const(180)  # joining, resolving and logging in, each with its deadline
_LOOK_S = 0.5
_STEADY_S = const(60)  # a connection that stood so long works


class Link:
    """One node's connection; `connected` while the broker takes what is sent."""

    def __init__(self, node):
        self._node = node
        self._backoff = wifi.Backoff(node.board.random)
        self._client = None
        self._results = []
        self._status = None
        self._address = None
        self._chunks = False  # whether the topic of update chunks is subscribed
        self._seq = 0
        self.connected = False
        self.lost_results = 0

    def topic(self, kind):
        """The topic of one kind of message."""
        return f"smartmeter/{self._node.device_id}/{kind}"

    async def run(self):
        """Be connected for ever."""
        while True:
            self._beat()
            try:
                await self._once()
            except (mqtt.MqttError, OSError, asyncio.TimeoutError):
                pass
            except MemoryError:
                raise  # the supervisor's: it collects and counts
            except Exception as error:
                # Whatever it is, metering goes on: a broker's fault restarts no node.
                self._node.supervisor.tell(error)
            finally:
                self._drop()
            await self._wait(self._backoff.failed())

    async def goodbye(self):
        """Send the results that wait, say that the node is offline, and disconnect."""
        client = self._client
        if not client or not self.connected:
            return
        try:
            while self._results:
                await self._send_result(client)
            await client.publish(self.topic("status"), telemetry.offline(self._node), True)
        except mqtt.MqttError:
            pass
        await client.disconnect()

    def _beat(self):
        self._node.supervisor.beat("link", _BEAT_S)

    async def _wait(self, wait_ms):
        while wait_ms > 0:
            self._beat()
            await asyncio.sleep(min(wait_ms, 1_000) / 1_000)
            wait_ms -= 1_000

    async def _once(self):
        """One connection from joining to its end."""
        node = self._node
        broker = wifi.kept(node.board, "broker")
        if not node.secret or not broker.get("host"):
            return
        if not await wifi.joined(node.board):
            return
        node.trial.note("wifi")
        self._client = mqtt.Client(
            node.board,
            node.device_id,
            (node.device_id, mqtt_password(node.secret)),
            (self.topic("status"), telemetry.offline(node), True),
            keepalive_s=node.settings["keepalive_s"],
            timeout_s=_TIMEOUT_S,
            most_bytes=_PACKET_BYTES,
        )
        tls = None
        if broker.get("ca"):
            tls = {"ca": broker["ca"].encode(), "host": broker["host"]}
            node.clock.date_certificates()
        await self._client.connect(await self._resolved(broker["host"]), broker["port"], tls)
        await self._client.subscribe(self.topic("command"))
        self._status, self._chunks = None, False
        node.reporter.asked = self.connected = True
        node.backlog.connected()
        node.trial.note("broker")
        await self._serve()

    async def _resolved(self, host):
        """The broker's address; the last one where the name server is silent."""
        try:
            self._address = await asyncio.wait_for(self._node.board.resolve(host), _RESOLVE_S)
        except (OSError, asyncio.TimeoutError):
            if not self._address:
                raise
        return self._address

    async def _serve(self):
        receiver = asyncio.create_task(self._receive())
        clock, since_s = self._node.clock, self._node.clock.now_s()
        try:
            while not self._client.closed and not receiver.done():
                self._beat()
                if clock.now_s() - since_s >= _STEADY_S:
                    self._backoff.worked()
                if not await self._send_next():
                    self._node.wake.clear()
                    try:
                        await asyncio.wait_for(self._node.wake.wait(), _LOOK_S)
                    except asyncio.TimeoutError:
                        pass
            if receiver.done():
                await receiver  # what else it raised is the supervisor's
        finally:
            receiver.cancel()

    async def _receive(self):
        """Take messages until the connection ends."""
        client, node = self._client, self._node
        while not client.closed:
            try:
                message = await client.receive(5)
            except mqtt.MqttError:
                return  # the connection is over; `closed` says why
            if not message:
                continue
            topic, payload, retained = message
            if topic == self.topic("command"):
                result = node.commands.take(payload, retained)
                if result:
                    self._add_result(result)
            elif topic == self.topic("firmware") and not retained:
                node.updating.take(payload)

    def _add_result(self, result):
        if len(self._results) >= _MOST_RESULTS:
            self._results.pop(0)
            self.lost_results += 1
        self._results.append(result)
        self._node.wake.set()

    async def _send_next(self):
        """Send the first of what waits. Returns False when nothing does. Raises MqttError."""
        node, client = self._node, self._client
        if self._results:
            await self._send_result(client)
            return True
        event = node.events.oldest()
        if event:
            await client.publish(self.topic("event"), event[1])
            node.events.sent(event[0])
            return True
        if node.updating.active and await self._fetch():
            return True
        status = telemetry.status(node)
        if status != self._status:
            await client.publish(self.topic("status"), json.dumps(status).encode(), True)
            self._status = status
            return True
        if node.reporter.due(node):
            self._seq += 1
            node.reporter.sent(node)
            await client.publish(self.topic("telemetry"), telemetry.telemetry(node, self._seq))
            return True
        backlog = node.backlog.next_message()
        if backlog:
            await client.publish(self.topic("backlog"), backlog)
        return backlog is not None

    async def _send_result(self, client):
        """Send the first result; at a goodbye two tasks may do so, and only one drops it."""
        result = self._results[0]
        await client.publish(self.topic("result"), result)
        if self._results and self._results[0] is result:
            self._results.pop(0)

    async def _fetch(self):
        """Ask for the next chunk of an update when it is time to."""
        node = self._node
        if not self._chunks:
            await self._client.subscribe(self.topic("firmware"))
            self._chunks = True
        wanted = node.updating.want()
        if wanted:
            node.events.add("update_want", **wanted)
        return wanted is not None

    def _drop(self):
        self.connected = False
        if self._client:
            self._client.abort()
            self._client = None
            # A session's buffers are large: the next one finds them free.
            gc.collect()
