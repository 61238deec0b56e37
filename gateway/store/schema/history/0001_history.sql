-- Half hours and events of one UTC month.

CREATE TABLE interval (
    seq INTEGER PRIMARY KEY,
    meter_id TEXT NOT NULL,
    start_utc_ms INTEGER NOT NULL,
    end_utc_ms INTEGER NOT NULL,
    energy_wh TEXT NOT NULL,
    max_power_w REAL,
    readings INTEGER NOT NULL,
    estimated INTEGER NOT NULL CHECK (estimated IN (0, 1))
) STRICT;
CREATE UNIQUE INDEX interval_meter ON interval (meter_id, start_utc_ms);
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    utc_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    severity TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
