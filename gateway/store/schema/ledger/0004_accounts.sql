-- Accounts in full: several service points, terms that change, debts, credit that is no balance.

-- Which points an account pays for, and under which tariff; a stay is closed once, never changed.
CREATE TABLE account_point (
    number INTEGER PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account,
    service_point_id TEXT NOT NULL REFERENCES service_point,
    tariff_id TEXT NOT NULL,
    from_utc_ms INTEGER NOT NULL,
    to_utc_ms INTEGER
) STRICT;
CREATE UNIQUE INDEX account_point_one_open ON account_point (service_point_id)
WHERE to_utc_ms IS NULL;
CREATE INDEX account_point_account ON account_point (account_id);
INSERT INTO account_point (account_id, service_point_id, tariff_id, from_utc_ms, to_utc_ms)
SELECT account_id, service_point_id, tariff_id, opened_utc_ms, closed_utc_ms FROM account
ORDER BY opened_utc_ms, account_id;
CREATE TRIGGER account_point_kept BEFORE DELETE ON account_point
BEGIN SELECT RAISE(ABORT, 'account_point is append-only'); END;
CREATE TRIGGER account_point_closed BEFORE UPDATE ON account_point
WHEN OLD.to_utc_ms IS NOT NULL OR NEW.number <> OLD.number OR NEW.account_id <> OLD.account_id
    OR NEW.service_point_id <> OLD.service_point_id OR NEW.tariff_id <> OLD.tariff_id
    OR NEW.from_utc_ms <> OLD.from_utc_ms
BEGIN SELECT RAISE(ABORT, 'a stay may only be closed, once'); END;

-- What was agreed with a customer, as a JSON document; the newest number counts.
CREATE TABLE account_terms (
    account_id TEXT NOT NULL REFERENCES account,
    number INTEGER NOT NULL,
    document TEXT NOT NULL,
    utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    PRIMARY KEY (account_id, number)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER account_terms_frozen BEFORE UPDATE ON account_terms
BEGIN SELECT RAISE(ABORT, 'account_terms is append-only'); END;
CREATE TRIGGER account_terms_kept BEFORE DELETE ON account_terms
BEGIN SELECT RAISE(ABORT, 'account_terms is append-only'); END;
CREATE TRIGGER account_terms_next BEFORE INSERT ON account_terms
WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM account_terms
                    WHERE account_id = NEW.account_id)
BEGIN SELECT RAISE(ABORT, 'account_terms are consecutive'); END;

-- How a debt is collected; what remains of it is the balance of debt:<account>:<debt>.
CREATE TABLE debt (
    number INTEGER PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account,
    debt_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('payment', 'time')),
    share_ppm INTEGER NOT NULL CHECK (share_ppm BETWEEN 0 AND 1000000),
    daily_nano INTEGER NOT NULL CHECK (daily_nano >= 0),
    weekly_cap_nano INTEGER CHECK (weekly_cap_nano > 0),
    utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    UNIQUE (account_id, debt_id)
) STRICT;
CREATE TRIGGER debt_frozen BEFORE UPDATE ON debt
BEGIN SELECT RAISE(ABORT, 'debt is append-only'); END;
CREATE TRIGGER debt_kept BEFORE DELETE ON debt
BEGIN SELECT RAISE(ABORT, 'debt is append-only'); END;

-- What was known of the period when a line was charged; NULL in lines of older versions.
ALTER TABLE settlement ADD COLUMN facts TEXT;

CREATE TABLE account_state (
    account_id TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What a point uses by hour and weekday, and how long an account's credit lasts by that. Opaque.
CREATE TABLE usage_profile (
    service_point_id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE account_forecast (
    account_id TEXT PRIMARY KEY,
    utc_ms INTEGER NOT NULL,
    days_left_tenths INTEGER,
    zero_utc_ms INTEGER,
    cut_utc_ms INTEGER,
    top_up_by_utc_ms INTEGER,
    confidence TEXT NOT NULL,
    beyond_horizon INTEGER NOT NULL CHECK (beyond_horizon IN (0, 1))
) STRICT, WITHOUT ROWID;

-- A tariff whose prices rise so much that a second person decides on it.
CREATE TABLE tariff_draft (
    number INTEGER PRIMARY KEY,
    tariff_id TEXT NOT NULL,
    document TEXT NOT NULL,
    rise TEXT NOT NULL,
    utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL
) STRICT;
CREATE TRIGGER tariff_draft_frozen BEFORE UPDATE ON tariff_draft
BEGIN SELECT RAISE(ABORT, 'tariff_draft is append-only'); END;
CREATE TRIGGER tariff_draft_kept BEFORE DELETE ON tariff_draft
BEGIN SELECT RAISE(ABORT, 'tariff_draft is append-only'); END;

CREATE TABLE tariff_decision (
    number INTEGER PRIMARY KEY REFERENCES tariff_draft,
    accepted INTEGER NOT NULL CHECK (accepted IN (0, 1)),
    reason TEXT NOT NULL,
    utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL
) STRICT;
CREATE TRIGGER tariff_decision_frozen BEFORE UPDATE ON tariff_decision
BEGIN SELECT RAISE(ABORT, 'tariff_decision is append-only'); END;
CREATE TRIGGER tariff_decision_kept BEFORE DELETE ON tariff_decision
BEGIN SELECT RAISE(ABORT, 'tariff_decision is append-only'); END;
