-- Limits of power and overrides: ordered by a person, in force until the next order or the end.
-- All three tables are append-only.

CREATE TABLE supply_limit (
    number INTEGER PRIMARY KEY,
    service_point_id TEXT NOT NULL REFERENCES service_point,
    -- W; 0 is no limit.
    t1_w INTEGER NOT NULL CHECK (t1_w >= 0),
    t2_w INTEGER NOT NULL CHECK (t2_w >= 0),
    emergency_w INTEGER NOT NULL CHECK (emergency_w >= 0),
    utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    request_key TEXT NOT NULL
) STRICT;
CREATE INDEX supply_limit_point ON supply_limit (service_point_id, number);
CREATE TRIGGER supply_limit_frozen BEFORE UPDATE ON supply_limit
BEGIN SELECT RAISE(ABORT, 'supply_limit is append-only'); END;
CREATE TRIGGER supply_limit_kept BEFORE DELETE ON supply_limit
BEGIN SELECT RAISE(ABORT, 'supply_limit is append-only'); END;

CREATE TABLE supply_override (
    number INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('KEEP_CONNECTED', 'MAINTENANCE', 'RESTORE_ALL')),
    scope TEXT NOT NULL CHECK (scope IN ('point', 'feeder', 'site')),
    target TEXT NOT NULL CHECK ((scope = 'site') = (target = '')),
    from_utc_ms INTEGER NOT NULL,
    until_utc_ms INTEGER NOT NULL CHECK (until_utc_ms > from_utc_ms),
    reason TEXT NOT NULL CHECK (reason <> ''),
    actor TEXT NOT NULL,
    role TEXT NOT NULL,
    request_key TEXT NOT NULL
) STRICT;
CREATE TRIGGER supply_override_frozen BEFORE UPDATE ON supply_override
BEGIN SELECT RAISE(ABORT, 'supply_override is append-only'); END;
CREATE TRIGGER supply_override_kept BEFORE DELETE ON supply_override
BEGIN SELECT RAISE(ABORT, 'supply_override is append-only'); END;

-- An override ends once: by its time (`request_key` empty) or by a person.
CREATE TABLE supply_override_end (
    number INTEGER PRIMARY KEY REFERENCES supply_override,
    utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    request_key TEXT NOT NULL
) STRICT;
CREATE TRIGGER supply_override_end_frozen BEFORE UPDATE ON supply_override_end
BEGIN SELECT RAISE(ABORT, 'supply_override_end is append-only'); END;
CREATE TRIGGER supply_override_end_kept BEFORE DELETE ON supply_override_end
BEGIN SELECT RAISE(ABORT, 'supply_override_end is append-only'); END;
