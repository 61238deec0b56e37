-- Vouchers. The digits of a voucher are nowhere here: they are made of these rows and a key that is
-- in no store. What became of a voucher is told by the rows about it; all tables are append-only.

-- Sold here. `recovery` is the last RECOVERY before the sale: what was sold after it cannot have
-- been redeemed in a ledger that is lost.
CREATE TABLE voucher (
    number INTEGER PRIMARY KEY,
    service_point_id TEXT NOT NULL REFERENCES service_point,
    counter INTEGER NOT NULL CHECK (counter >= 1),
    account_id TEXT NOT NULL,
    units INTEGER NOT NULL CHECK (units BETWEEN 1 AND 1048575),
    amount_nano INTEGER NOT NULL CHECK (amount_nano > 0),
    utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    provider TEXT NOT NULL,
    payment_reference TEXT NOT NULL,
    request_key TEXT NOT NULL UNIQUE,
    seq INTEGER NOT NULL UNIQUE REFERENCES ledger_transaction,
    key_mark TEXT NOT NULL CHECK (length(key_mark) = 16),
    recovery INTEGER NOT NULL CHECK (recovery >= 0),
    UNIQUE (service_point_id, counter)
) STRICT;
CREATE INDEX voucher_low ON voucher (service_point_id, counter & 4095);
CREATE INDEX voucher_point ON voucher (service_point_id, number);
CREATE TRIGGER voucher_frozen BEFORE UPDATE ON voucher
BEGIN SELECT RAISE(ABORT, 'voucher is append-only'); END;
CREATE TRIGGER voucher_kept BEFORE DELETE ON voucher
BEGIN SELECT RAISE(ABORT, 'voucher is append-only'); END;
CREATE TRIGGER voucher_next BEFORE INSERT ON voucher
WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM voucher)
BEGIN SELECT RAISE(ABORT, 'voucher has gaps'); END;

-- A counter is redeemed once, whoever sold it: `sold_here` is 0 for a voucher of another machine
-- that has the same key.
CREATE TABLE voucher_redemption (
    service_point_id TEXT NOT NULL REFERENCES service_point,
    counter INTEGER NOT NULL CHECK (counter >= 1),
    account_id TEXT NOT NULL,
    amount_nano INTEGER NOT NULL CHECK (amount_nano > 0),
    sold_here INTEGER NOT NULL CHECK (sold_here IN (0, 1)),
    utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    source TEXT NOT NULL,
    request_key TEXT NOT NULL UNIQUE,
    seq INTEGER NOT NULL UNIQUE REFERENCES ledger_transaction,
    PRIMARY KEY (service_point_id, counter)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER voucher_redemption_frozen BEFORE UPDATE ON voucher_redemption
BEGIN SELECT RAISE(ABORT, 'voucher_redemption is append-only'); END;
CREATE TRIGGER voucher_redemption_kept BEFORE DELETE ON voucher_redemption
BEGIN SELECT RAISE(ABORT, 'voucher_redemption is append-only'); END;

CREATE TABLE voucher_cancellation (
    service_point_id TEXT NOT NULL,
    counter INTEGER NOT NULL,
    utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL CHECK (reason <> ''),
    request_key TEXT NOT NULL UNIQUE,
    seq INTEGER NOT NULL UNIQUE REFERENCES ledger_transaction,
    PRIMARY KEY (service_point_id, counter),
    FOREIGN KEY (service_point_id, counter) REFERENCES voucher (service_point_id, counter)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER voucher_cancellation_frozen BEFORE UPDATE ON voucher_cancellation
BEGIN SELECT RAISE(ABORT, 'voucher_cancellation is append-only'); END;
CREATE TRIGGER voucher_cancellation_kept BEFORE DELETE ON voucher_cancellation
BEGIN SELECT RAISE(ABORT, 'voucher_cancellation is append-only'); END;

-- A counter ends in one way, and a redeemed one is not sold again. The INSERT triggers also stop
-- REPLACE, which deletes past DELETE triggers where recursive_triggers is off.
CREATE TRIGGER voucher_unused BEFORE INSERT ON voucher
WHEN EXISTS (SELECT 1 FROM voucher
             WHERE service_point_id = NEW.service_point_id AND counter = NEW.counter)
    OR EXISTS (SELECT 1 FROM voucher_redemption
               WHERE service_point_id = NEW.service_point_id AND counter = NEW.counter)
BEGIN SELECT RAISE(ABORT, 'a counter is used once'); END;
CREATE TRIGGER voucher_redeemed_once BEFORE INSERT ON voucher_redemption
WHEN EXISTS (SELECT 1 FROM voucher_redemption
             WHERE service_point_id = NEW.service_point_id AND counter = NEW.counter)
    OR EXISTS (SELECT 1 FROM voucher_cancellation
               WHERE service_point_id = NEW.service_point_id AND counter = NEW.counter)
BEGIN SELECT RAISE(ABORT, 'a voucher is redeemed once, and not when it is cancelled'); END;
CREATE TRIGGER voucher_redeemed_whole BEFORE INSERT ON voucher_redemption
WHEN NEW.sold_here <> (SELECT count(*) FROM voucher
                       WHERE service_point_id = NEW.service_point_id AND counter = NEW.counter)
    OR NEW.sold_here <> (SELECT count(*) FROM voucher
                         WHERE service_point_id = NEW.service_point_id AND counter = NEW.counter
                           AND account_id = NEW.account_id AND amount_nano = NEW.amount_nano)
BEGIN SELECT RAISE(ABORT, 'a voucher is redeemed as it was sold'); END;
CREATE TRIGGER voucher_cancelled_once BEFORE INSERT ON voucher_cancellation
WHEN EXISTS (SELECT 1 FROM voucher_cancellation
             WHERE service_point_id = NEW.service_point_id AND counter = NEW.counter)
    OR EXISTS (SELECT 1 FROM voucher_redemption
               WHERE service_point_id = NEW.service_point_id AND counter = NEW.counter)
BEGIN SELECT RAISE(ABORT, 'a voucher is cancelled once, and not when it is redeemed'); END;

-- Wrong tries, and a manager's word that those up to `try_number` are forgiven to a subject
-- (`point:ID` or `address:ADDRESS`). On file, so that a restart unlocks nothing.
CREATE TABLE voucher_try (
    number INTEGER PRIMARY KEY,
    service_point_id TEXT NOT NULL,
    address TEXT NOT NULL,
    utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    request_key TEXT NOT NULL UNIQUE
) STRICT;
CREATE INDEX voucher_try_point ON voucher_try (service_point_id, number);
CREATE INDEX voucher_try_address ON voucher_try (address, number);
CREATE TRIGGER voucher_try_frozen BEFORE UPDATE ON voucher_try
BEGIN SELECT RAISE(ABORT, 'voucher_try is append-only'); END;
CREATE TRIGGER voucher_try_kept BEFORE DELETE ON voucher_try
BEGIN SELECT RAISE(ABORT, 'voucher_try is append-only'); END;
CREATE TRIGGER voucher_try_next BEFORE INSERT ON voucher_try
WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM voucher_try)
BEGIN SELECT RAISE(ABORT, 'voucher_try has gaps'); END;

CREATE TABLE voucher_unlock (
    number INTEGER PRIMARY KEY,
    subject TEXT NOT NULL,
    try_number INTEGER NOT NULL,
    utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL CHECK (reason <> ''),
    request_key TEXT NOT NULL
) STRICT;
CREATE INDEX voucher_unlock_subject ON voucher_unlock (subject, number);
CREATE TRIGGER voucher_unlock_frozen BEFORE UPDATE ON voucher_unlock
BEGIN SELECT RAISE(ABORT, 'voucher_unlock is append-only'); END;
CREATE TRIGGER voucher_unlock_kept BEFORE DELETE ON voucher_unlock
BEGIN SELECT RAISE(ABORT, 'voucher_unlock is append-only'); END;
CREATE TRIGGER voucher_unlock_next BEFORE INSERT ON voucher_unlock
WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM voucher_unlock)
BEGIN SELECT RAISE(ABORT, 'voucher_unlock has gaps'); END;
