"""The sections about nodes: the broker that they are heard over, and the one that is made here."""

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from gateway.app.config_place import quote
from gateway.app.config_section import Section
from gateway.app.config_types import (
    ExistingFile,
    Host,
    OptionalLine,
    Port,
    PrivateFile,
    is_own_host,
)
from gateway.core.errors import RefusedError


class ClientTls(Section):
    """TLS towards a server; files relative to the configuration file."""

    ca: ExistingFile | None = Field(
        default=None, description="Certificates to trust (PEM); the system's unless given."
    )
    cert: ExistingFile | None = Field(default=None, description="Own certificate (PEM).")
    key: PrivateFile | None = Field(default=None, description="Private key of `cert` (PEM).")


class SouthMqtt(Section):
    """The broker of ESP32 nodes."""

    # Before `host`, whose check needs both.
    tls: ClientTls | None = Field(default=None, description="TLS towards the broker; none: plain.")
    trusted_network: bool = Field(
        default=False,
        description="Says that nobody else is on the network to the broker: without it, a broker "
        "beyond this machine needs `tls`.",
    )
    host: Host = Field(description="Address of the broker.")
    port: Port = Field(default=1883, description="Port of the broker.")
    username: OptionalLine = Field(default="", description="User name; empty for none.")
    password_file: PrivateFile | None = Field(
        default=None, description="File whose first line is the password."
    )

    @field_validator("host")
    @classmethod
    def _protected(cls, host: str, info: ValidationInfo) -> str:
        # A key that was refused itself is absent here: its own problem is enough.
        plain = info.data.get("tls", "") is None and info.data.get("trusted_network") is False
        if plain and not is_own_host(host):
            raise ValueError(
                f"{quote(host)} is reached over the network without TLS: give south.mqtt.tls, or "
                "say south.mqtt.trusted_network: true"
            )
        return host


class BrokerTls(Section):
    """A certificate that somebody else issues; files relative to the configuration file."""

    ca: ExistingFile = Field(description="Certificates that the nodes trust (PEM).")
    cert: ExistingFile = Field(description="Certificate chain of the broker (PEM).")
    key: PrivateFile = Field(description="Private key of `cert` (PEM); mosquitto has to read it.")


class BrokerSection(Section):
    """A mosquitto of this site, for nodes alone."""

    names: tuple[Host, ...] = Field(
        min_length=1,
        max_length=16,
        description="Host names and addresses under which nodes reach the broker: its certificate "
        "is made out to them, and to this machine.",
    )
    port: Port = Field(default=8883, description="Port with TLS, on every interface.")
    plain_port: Port | None = Field(
        default=None, description="Port without TLS for programs on this machine; none: closed."
    )
    tls: BrokerTls | None = Field(
        default=None, description="A certificate of your own; one is made unless given."
    )

    @field_validator("plain_port")
    @classmethod
    def _two_ports(cls, plain: int | None, info: ValidationInfo) -> int | None:
        if plain is not None and plain == info.data.get("port"):
            raise ValueError(f"{plain} is the port with TLS already")
        return plain


class FirmwareSection(Section):
    """Which firmware may be rolled out to nodes."""

    public: tuple[ExistingFile, ...] = Field(
        default=(),
        max_length=8,
        description="Public keys (`firmware keygen` writes them): an image that none of them "
        "signed is refused; none: no image is taken.",
    )

    @field_validator("public")
    @classmethod
    def _are_keys(cls, public: tuple[Path, ...]) -> tuple[Path, ...]:
        # Where nobody rolls out firmware, nobody waits for the library.
        from gateway.app.firmware.signing import load_public  # noqa: PLC0415

        for path in public:
            try:
                load_public(path)
            except RefusedError as refused:
                # `check` may run as another user than the one that may read it.
                if refused.refusal_code == "KEY_REFUSED":
                    raise ValueError(refused.message) from refused
        return public


class SouthSection(Section):
    """Meters that speak first."""

    mqtt: SouthMqtt | None = Field(default=None, description="Broker of ESP32 nodes; none: off.")
    firmware: FirmwareSection = Field(
        default_factory=FirmwareSection, description="Which firmware may be rolled out."
    )
    broker: BrokerSection | None = Field(
        default=None, description="What `broker write` makes a mosquitto of; none: not ours."
    )
