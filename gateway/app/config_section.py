"""What every section of the configuration file has in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A map of known keys; nothing in it changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_defaults(cls, given: Any) -> Any:
        """`north:` with every key under it commented out is the section without keys."""
        return {} if given is None else given
