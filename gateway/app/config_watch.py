"""`watch`: what is looked for in readings, from how much on and for how long."""

from pydantic import Field, model_validator

from gateway.app.config_section import Section


class FeederSection(Section):
    """A feeder's check meter against the sum of the feeder's other meters, per half hour."""

    loss_percent: float = Field(
        default=5.0,
        gt=0,
        le=100,
        description="Difference above which a half hour counts, in percent of what was supplied. "
        "Two meters of class 1 with transformers of class 0.5 differ by up to 3 %, cables take 1 "
        "to 2 %; the Philippine regulator lets utilities pass on 5.5 % of a feeder.",
    )
    loss_wh: int = Field(
        default=200,
        ge=0,
        le=10_000_000,
        description="Difference that it must also exceed: at night a few percent are a few Wh. 200 "
        "in a half hour are 400 W.",
    )
    clear_percent: float = Field(
        default=3.0,
        ge=0,
        le=100,
        description="At or below it a half hour is calm; at most `loss_percent`, so that a loss "
        "at the edge does not come and go.",
    )
    half_hours: int = Field(
        default=4,
        ge=1,
        le=336,
        description="So many judged half hours in a row raise the alarm, and as many calm ones "
        "end it.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> "FeederSection":
        if self.clear_percent > self.loss_percent:
            raise ValueError("clear_percent is above loss_percent")
        return self


class TransformerSection(Section):
    """Current transformers that look the wrong way or do not fit, told from readings."""

    reversed_s: int = Field(
        default=1_800,
        ge=10,
        le=604_800,
        description="So long must the power of a phase be negative while current flows. Lifts and "
        "cranes feed back for seconds to a minute.",
    )
    feed_in_s: int = Field(
        default=86_400,
        ge=0,
        le=2_592_000,
        description="Unless `export` is `alarmed` it must also have been so for this long: a roof "
        "feeds in by day, and takes energy at night.",
    )
    overload_percent: int = Field(
        default=120,
        ge=100,
        le=1_000,
        description="Power above this share of `p_max_w` no breaker carries for long; transformers "
        "measure to 120 % of their primary current.",
    )
    overload_s: int = Field(
        default=300,
        ge=10,
        le=86_400,
        description="For so long; motors start within a minute.",
    )
    oversized_percent: float = Field(
        default=1.0,
        gt=0,
        le=50,
        description="Where `ct_ratio` is given: currents that stay below this share of the primary "
        "are too small to measure well. Class 0.5S is accurate from 1 % on, class 0.5 from 5 %.",
    )
    oversized_days: float = Field(
        default=7.0,
        gt=0,
        le=365,
        description="For so long; a week holds every habit of a household.",
    )
    contradiction_percent: int = Field(
        default=10,
        ge=1,
        le=100,
        description="Active power above apparent power, or apparent power apart from voltage x "
        "current, by more than this: registers or wiring are not what the model says.",
    )
    contradiction_s: int = Field(default=300, ge=10, le=86_400, description="For so long.")
    clear_s: int = Field(
        default=900,
        ge=10,
        le=86_400,
        description="The contrary for so long ends an alarm of these.",
    )


class WatchSection(Section):
    """What is looked for in readings. Nothing here cuts a supply."""

    export_day_wh: int = Field(
        default=100,
        ge=1,
        le=10_000_000,
        description="Energy from a customer in one local day that is told where `export` is "
        "`alarmed`; a lift that brakes gives some tens of Wh.",
    )
    feeder: FeederSection = Field(default=FeederSection(), description="Feeder losses.")
    transformer: TransformerSection = Field(
        default=TransformerSection(), description="Current transformers."
    )
