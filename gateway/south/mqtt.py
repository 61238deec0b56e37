"""The connection to the nodes' broker; the one file of this room that imports aiomqtt.

MQTT 3.1.1 with a clean session: what the broker kept while nobody listened would be old, and nodes
keep their own backlog.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiomqtt

from gateway.core.clock import Clock
from gateway.core.errors import MeterTimeoutError, MeterUnreachableError
from gateway.south.pacing import Jitter, backoff_s

# A broker that stands still is noticed after one and a half of these.
KEEP_ALIVE_S: Final = 10
CONNECT_DEADLINE_S: Final = 10.0
INCOMING_MAX: Final = 2_000
OUTGOING_MAX: Final = 1_000
_REFUSED: Final = 128

# The library says in its own words what this file says in ours.
_SILENT: Final = logging.getLogger("gateway.south.mqtt")
_SILENT.setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class BrokerTls:
    """TLS towards a broker: certificates to trust (None: the system's), own certificate and key."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and who we are to it; the password is read at each connection."""

    host: str
    port: int
    client_id: str
    username: str = ""
    password_file: Path | None = None
    tls: BrokerTls | None = None


class MqttLink:
    """Keeps one connection to a broker, subscribed to `topics`, until `run` is cancelled.

    `on_message(topic, payload, retained)` and `on_state(connected, reason)` are called in the
    event loop; an error of theirs, of whatever kind, ends `run`. `admits(topic)` is asked before a
    message takes room from others. `dropped` counts messages that came faster than they were taken.
    """

    def __init__(
        self,
        broker: Broker,
        topics: Sequence[str],
        clock: Clock,
        on_message: Callable[[str, bytes, bool], None],
        on_state: Callable[[bool, str], None],
        *,
        admits: Callable[[str], bool],
        jitter: Jitter,
    ) -> None:
        self.dropped = 0
        self._broker = broker
        self._topics = tuple(topics)
        self._clock = clock
        self._on_message = on_message
        self._on_state = on_state
        self._admits = admits
        self._jitter = jitter
        self._client: aiomqtt.Client | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the broker was there a moment ago."""
        return self._client is not None

    async def run(self) -> None:
        """Connect, hand over messages, and connect again with growing pauses."""
        failures = 0
        while True:
            try:
                await self._session()
                reason = "the connection ended"
            except aiomqtt.MqttError as error:
                reason = str(error) or type(error).__name__
            if self._client is not None:
                self._client, failures = None, 0
            failures += 1
            self._on_state(False, reason)  # noqa: FBT003 - a state, named by its receiver
            await self._clock.sleep(backoff_s(failures, self._jitter))

    async def publish(self, topic: str, payload: bytes, deadline_s: float) -> None:
        """Hand a message to the broker, QoS 1, within `deadline_s` event loop seconds.

        Raises MeterUnreachableError (no connection, refused) and MeterTimeoutError.
        """
        client = self._client
        if client is None:
            raise MeterUnreachableError("the broker is away")
        try:
            async with asyncio.timeout(deadline_s):
                await client.publish(topic, payload, qos=1, retain=False, timeout=deadline_s)
        except TimeoutError:
            raise MeterTimeoutError(f"the broker took nothing in {deadline_s:.1f} s") from None
        except (aiomqtt.MqttError, ValueError) as error:
            raise MeterUnreachableError(f"the broker took nothing: {error}") from error

    async def _session(self) -> None:
        """One connection, from its beginning to its end; MqttError is the broker's doing alone."""
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(self._made())
                await self._subscribe(client)
            except (OSError, ValueError) as error:
                raise aiomqtt.MqttError(str(error) or type(error).__name__) from error
            self._client = client
            self._on_state(True, "")  # noqa: FBT003 - a state, named by its receiver
            async for message in client.messages:
                payload = message.payload
                if isinstance(payload, bytes | bytearray):
                    retained = bool(message.retain)
                    self._on_message(message.topic.value, bytes(payload), retained)

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        """Raises ValueError where the broker refuses a topic."""
        for topic in self._topics:
            granted = await client.subscribe(topic, qos=1)
            if any(_code(one) >= _REFUSED for one in granted):
                raise ValueError(f"the broker refuses to let us hear {topic}")

    def _made(self) -> aiomqtt.Client:
        """Raises OSError (files), ValueError."""
        broker = self._broker
        password = None
        if broker.password_file is not None:
            password = broker.password_file.read_text(encoding="utf-8").partition("\n")[0].strip()
        return aiomqtt.Client(
            broker.host,
            broker.port,
            identifier=broker.client_id,
            username=broker.username or None,
            password=password,
            clean_session=True,
            keepalive=KEEP_ALIVE_S,
            timeout=CONNECT_DEADLINE_S,
            max_queued_incoming_messages=INCOMING_MAX,
            max_queued_outgoing_messages=OUTGOING_MAX,
            queue_type=self._counting_queue(),
            tls_context=_tls_context(broker.tls),
            logger=_SILENT,
        )

    def _counting_queue(self) -> type[asyncio.Queue[aiomqtt.Message]]:
        link = self

        class CountingQueue(asyncio.Queue[aiomqtt.Message]):
            def put_nowait(self, item: aiomqtt.Message) -> None:
                if not link._admits(item.topic.value):
                    return
                if self.full():
                    # The oldest tells least.
                    self.get_nowait()
                    link.dropped += 1
                super().put_nowait(item)

        return CountingQueue


def _code(granted: object) -> int:
    value = getattr(granted, "value", granted)
    return value if isinstance(value, int) else _REFUSED


def _tls_context(tls: BrokerTls | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
    return context
