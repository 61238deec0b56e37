"""The demo's broker: amqtt on loopback, with the logins and rules of a real site's mosquitto.

The one file that imports amqtt. It is no broker for a site: see `gateway/app/broker/`.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from amqtt.broker import Broker
from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from gateway.app.broker.mosquitto import GATEWAY_USER, NODE_HEARS, NODE_SAYS


def may(user: str, topic: str, *, speaks: bool) -> bool:
    """Whether a user may publish to a topic, else hear it or subscribe to it."""
    parts = topic.split("/")
    if len(parts) != 3 or parts[0] != "smartmeter":
        return False
    _, device, kind = parts
    if user == GATEWAY_USER:
        return kind in (NODE_HEARS if speaks else NODE_SAYS)
    return device == user and kind in (NODE_SAYS if speaks else NODE_HEARS)


class Logins(BaseAuthPlugin):  # type: ignore[misc]
    """Lets in who has its own password and calls itself by its own name."""

    async def authenticate(self, *, session: Session) -> bool:
        """Whether the client gets in."""
        user, given = session.username, session.password
        wanted = self._get_config_option("passwords", {}).get(user)
        if wanted is None or given is None:
            return False
        # A mosquitto is told to take the user for the client id: nobody throws another one out.
        if user not in (GATEWAY_USER, session.client_id):
            return False
        return hmac.compare_digest(given.encode(), wanted.encode())

    @dataclass
    class Config:
        """Passwords by user."""

        passwords: dict[str, str] = field(default_factory=dict)


class Rules(BaseTopicPlugin):  # type: ignore[misc]
    """Each node under its own name only; the gateway is the other end of all."""

    async def topic_filtering(
        self,
        *,
        session: Session | None = None,
        topic: str | None = None,
        action: Action | None = None,
    ) -> bool:
        """Whether that may be."""
        user = session.username if session is not None else None
        if user is None or topic is None:
            return False
        return may(user, topic, speaks=action is Action.PUBLISH)

    @dataclass
    class Config:
        """There is nothing to configure."""


class DemoBroker:
    """A broker on 127.0.0.1 for these users."""

    def __init__(self, port: int, passwords: Mapping[str, str]) -> None:
        here = Logins.__module__
        self._broker = Broker(
            {
                "listeners": {
                    "default": {
                        "type": "tcp",
                        "bind": f"127.0.0.1:{port}",
                        "max_connections": 2 * len(passwords) + 8,
                    }
                },
                "plugins": {
                    f"{here}.Logins": {"passwords": dict(passwords)},
                    f"{here}.Rules": {},
                },
            }
        )

    async def start(self) -> None:
        """Listen. Raises amqtt's BrokerError, OSError."""
        await self._broker.start()

    async def stop(self) -> None:
        """End all connections."""
        await self._broker.shutdown()
