"""What control needs to know of a model, be it polled over Modbus or a node that speaks first."""

from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol

from gateway.core.reading import Lane
from gateway.south.models import meter_model
from gateway.south.registers import Diagnostic

NODE_MODEL: Final = "pzem-node"


class Metering(Protocol):
    """The part of a model that is the same for every kind of meter."""

    @property
    def name(self) -> str:
        """Name of the model, as the configuration has it."""
        ...

    @property
    def energy_import(self) -> tuple[str, ...]:
        """Cumulative import registers (Wh) in the order of their sources."""
        ...

    @property
    def energy_modulus_wh(self) -> int:
        """Where the registers wrap."""
        ...

    @property
    def refresh_s(self) -> float:
        """How often the registers are renewed."""
        ...

    @property
    def nvm_interval_s(self) -> int:
        """How much counting a power cut may lose."""
        ...

    @property
    def folds(self) -> bool:
        """Whether it goes on from resets of its counter by itself."""
        ...

    @property
    def power(self) -> str:
        """The value that is the total active power."""
        ...

    @property
    def change_counters(self) -> tuple[str, ...]:
        """Values that count changes of the meter's settings."""
        ...

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Bits by which the meter tells of itself."""
        ...

    @property
    def export_places(self) -> tuple[int, ...]:
        """Where the export registers stand among the values; none where it has none."""
        ...

    def names(self, lane: Lane) -> tuple[str, ...]:
        """Names of the values of one lane, in their order."""
        ...

    def unit(self, name: str) -> str:
        """The unit of a value. Raises ValueError when there is none of this name."""
        ...


@dataclass(frozen=True, slots=True)
class NodeModel:
    """An ESP32 node with a PZEM-004T: its values with their units. One register, one phase.

    The node folds roll-over and resets of its module into one total, so the register never wraps.
    It keeps the module's counter every five minutes, and polls it once a minute at least: a power
    cut that takes both takes back no more than that (docs/node-protocol.md).
    """

    name: str
    title: str
    units: dict[str, str]
    energy_import: tuple[str, ...]
    energy_modulus_wh: int = 10**15
    refresh_s: float = 1.0
    nvm_interval_s: int = 360
    folds: bool = True
    power: str = "active_power_total_w"
    change_counters: tuple[str, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    export_places: tuple[int, ...] = ()

    def names(self, lane: Lane) -> tuple[str, ...]:
        """All values come with every message; only the short lane has none."""
        return () if lane is Lane.SHORT else tuple(self.units)

    def unit(self, name: str) -> str:
        """The unit of a value. Raises ValueError when there is none of this name."""
        if name not in self.units:
            raise ValueError(f"{self.name}: no measurement {name!r}")
        return self.units[name]


# The names are those of the other models, so that whoever shows them need not care.
PZEM_NODE: Final = NodeModel(
    name=NODE_MODEL,
    title="ESP32 node with PZEM-004T",
    units={
        "voltage_l1_n_v": "V",
        "current_l1_a": "A",
        "active_power_total_w": "W",
        "power_factor_total": "",
        "frequency_hz": "Hz",
        "energy_import_t1_wh": "Wh",
        "rssi_dbm": "dBm",
        # How long after it was taken a reading came: above zero it was kept at the node.
        "delay_s": "s",
    },
    energy_import=("energy_import_t1_wh",),
)


@cache
def metering(model_name: str) -> Metering:
    """The model called `model_name`. Raises ValueError when there is none."""
    return PZEM_NODE if model_name == NODE_MODEL else meter_model(model_name)
