"""The form of every section of the configuration file, and the sections about load."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.app.config_types import Identifier

Watts = Annotated[int, Field(ge=1, le=10_000_000)]


class Section(BaseModel):
    """A map of known keys; nothing in it changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_defaults(cls, given: Any) -> Any:
        """`north:` with every key under it commented out is the section without keys."""
        return {} if given is None else given


class FeederEntry(Section):
    """A riser or feeder with a limit of its own."""

    id: Identifier = Field(description="Its name, as meters give it in `feeder`.")
    capacity_w: Watts = Field(
        description="What it carries: reconnections wait for head-room, and load is shed above it."
    )


class LimiterSection(Section):
    """The load limiter of every point that has a limit."""

    over_s: float = Field(
        default=30.0, ge=1, le=3_600, description="Time above the limit that opens supply."
    )
    restore_s: float = Field(
        default=120.0, ge=10, le=86_400, description="Time after which a trip is over."
    )
    max_trips: int = Field(
        default=4, ge=1, le=100, description="So many trips within the window lock a point out."
    )
    window_s: float = Field(default=1_800.0, ge=10, le=86_400, description="Length of that window.")
    auto_restore: bool = Field(
        default=False,
        description="Whether supply comes back after a trip without a person, in arm mode too.",
    )


class ShedSection(Section):
    """Load shedding of feeders that have a capacity."""

    over_s: float = Field(
        default=30.0, ge=1, le=3_600, description="Time above the capacity before load is shed."
    )
    release_s: float = Field(
        default=120.0, ge=1, le=86_400, description="Time after the last shedding before a return."
    )
    margin_percent: int = Field(
        default=10, ge=0, le=90, description="Share of the capacity that a return leaves free."
    )
    auto_restore: bool = Field(
        default=False,
        description="Whether supply comes back after a shedding without a person, in arm mode too.",
    )
