"""Where files are: state that must survive, and what lives as long as the processes."""

from dataclasses import dataclass
from pathlib import Path

from gateway.app.config import Config


@dataclass(frozen=True, slots=True)
class Paths:
    """Directories and files of an installation; each process owns its own directories."""

    control_dir: Path
    ledger: Path
    telemetry_dir: Path
    north_dir: Path
    live_dir: Path
    north_runtime_dir: Path

    @property
    def socket(self) -> Path:
        """The Unix socket of the command line."""
        return self.north_runtime_dir / "north.sock"

    @property
    def setup_token(self) -> Path:
        """Where the first start leaves its token (mode 0600)."""
        return self.north_dir / "setup-token"


def paths_of(config: Config) -> Paths:
    """The paths of a configuration."""
    control_dir = config.state_dir / "control"
    return Paths(
        control_dir=control_dir,
        ledger=control_dir / "ledger.db",
        telemetry_dir=control_dir / "telemetry",
        north_dir=config.state_dir / "north",
        live_dir=config.runtime_dir / "control",
        north_runtime_dir=config.runtime_dir / "north",
    )


def make_runtime_dir(path: Path) -> None:
    """Make a runtime directory that only owner and group may enter. Raises OSError."""
    path.mkdir(mode=0o750, parents=True, exist_ok=True)
