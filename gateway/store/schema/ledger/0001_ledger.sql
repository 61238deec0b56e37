-- Money and who it belongs to. Amounts are nano-units, energy is Wh, times are UTC milliseconds.
-- Keys are sequences: a wall clock may step. What may never change is guarded by triggers.

CREATE TABLE site (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    site_id TEXT NOT NULL,
    currency TEXT NOT NULL,
    money_scale INTEGER NOT NULL CHECK (money_scale IN (6, 9)),
    minor_digits INTEGER NOT NULL CHECK (minor_digits BETWEEN 0 AND 4),
    zone TEXT NOT NULL,
    created_utc_ms INTEGER NOT NULL
) STRICT;
CREATE TRIGGER site_frozen BEFORE UPDATE ON site
BEGIN SELECT RAISE(ABORT, 'site is frozen'); END;
CREATE TRIGGER site_kept BEFORE DELETE ON site
BEGIN SELECT RAISE(ABORT, 'site is frozen'); END;
CREATE TRIGGER site_single BEFORE INSERT ON site WHEN EXISTS (SELECT 1 FROM site)
BEGIN SELECT RAISE(ABORT, 'site is frozen'); END;

-- A new epoch begins when the store is created or restored: consumers tell streams apart by it.
CREATE TABLE store_epoch (
    number INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL UNIQUE CHECK (length(epoch) = 26),
    cause TEXT NOT NULL CHECK (cause IN ('created', 'restored')),
    since_utc_ms INTEGER NOT NULL
) STRICT;
CREATE TRIGGER store_epoch_frozen BEFORE UPDATE ON store_epoch
BEGIN SELECT RAISE(ABORT, 'store_epoch is append-only'); END;
CREATE TRIGGER store_epoch_kept BEFORE DELETE ON store_epoch
BEGIN SELECT RAISE(ABORT, 'store_epoch is append-only'); END;
CREATE TRIGGER store_epoch_next BEFORE INSERT ON store_epoch
WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM store_epoch)
BEGIN SELECT RAISE(ABORT, 'store_epoch has gaps'); END;

CREATE TABLE tariff (
    tariff_id TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version >= 1),
    effective_from_utc_ms INTEGER NOT NULL,
    document TEXT NOT NULL,
    published_utc_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    PRIMARY KEY (tariff_id, version)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER tariff_frozen BEFORE UPDATE ON tariff
BEGIN SELECT RAISE(ABORT, 'tariff is immutable'); END;
CREATE TRIGGER tariff_kept BEFORE DELETE ON tariff
BEGIN SELECT RAISE(ABORT, 'tariff is immutable'); END;
CREATE TRIGGER tariff_next BEFORE INSERT ON tariff
WHEN NEW.version <> (SELECT coalesce(max(version), 0) + 1 FROM tariff
                     WHERE tariff_id = NEW.tariff_id)
BEGIN SELECT RAISE(ABORT, 'tariff versions are consecutive'); END;

CREATE TABLE service_point (
    service_point_id TEXT PRIMARY KEY,
    label TEXT NOT NULL,
    feeder TEXT NOT NULL,
    critical INTEGER NOT NULL CHECK (critical IN (0, 1)),
    commissioned_utc_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE TRIGGER service_point_kept BEFORE DELETE ON service_point
BEGIN SELECT RAISE(ABORT, 'a service point is never deleted'); END;

CREATE TABLE account (
    account_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('new', 'active', 'closed')),
    payment_mode TEXT NOT NULL CHECK (payment_mode IN ('credit', 'prepayment')),
    service_point_id TEXT NOT NULL REFERENCES service_point,
    tariff_id TEXT NOT NULL,
    disablement_threshold_nano INTEGER NOT NULL,
    opened_utc_ms INTEGER NOT NULL,
    closed_utc_ms INTEGER,
    CHECK ((status = 'closed') = (closed_utc_ms IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX account_one_open ON account (service_point_id) WHERE status <> 'closed';
CREATE TRIGGER account_kept BEFORE DELETE ON account
BEGIN SELECT RAISE(ABORT, 'an account is never deleted'); END;
CREATE TRIGGER account_id_kept BEFORE UPDATE ON account
WHEN NEW.account_id <> OLD.account_id OR OLD.status = 'closed'
BEGIN SELECT RAISE(ABORT, 'a closed account and an account id never change'); END;

CREATE TABLE meter_assignment (
    number INTEGER PRIMARY KEY,
    meter_id TEXT NOT NULL,
    service_point_id TEXT NOT NULL REFERENCES service_point,
    from_utc_ms INTEGER NOT NULL,
    opening_wh TEXT NOT NULL,
    to_utc_ms INTEGER,
    closing_wh TEXT,
    CHECK ((to_utc_ms IS NULL) = (closing_wh IS NULL))
) STRICT;
CREATE UNIQUE INDEX meter_assignment_one_open ON meter_assignment (meter_id)
WHERE to_utc_ms IS NULL;
CREATE INDEX meter_assignment_point ON meter_assignment (service_point_id);
CREATE TRIGGER meter_assignment_kept BEFORE DELETE ON meter_assignment
BEGIN SELECT RAISE(ABORT, 'meter_assignment is append-only'); END;
CREATE TRIGGER meter_assignment_closed BEFORE UPDATE ON meter_assignment
WHEN OLD.to_utc_ms IS NOT NULL OR NEW.number <> OLD.number OR NEW.meter_id <> OLD.meter_id
    OR NEW.service_point_id <> OLD.service_point_id OR NEW.from_utc_ms <> OLD.from_utc_ms
    OR NEW.opening_wh <> OLD.opening_wh
BEGIN SELECT RAISE(ABORT, 'an assignment may only be closed, once'); END;

CREATE TABLE ledger_transaction (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    utc_ms INTEGER NOT NULL,
    account_id TEXT,
    request_key TEXT,
    reverses_seq INTEGER UNIQUE REFERENCES ledger_transaction,
    memo TEXT NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
-- One idempotency key posts at most once per kind, whatever the program above does.
CREATE UNIQUE INDEX ledger_transaction_key ON ledger_transaction (request_key, kind)
WHERE request_key IS NOT NULL;
CREATE TRIGGER ledger_transaction_frozen BEFORE UPDATE ON ledger_transaction
BEGIN SELECT RAISE(ABORT, 'ledger_transaction is append-only'); END;
CREATE TRIGGER ledger_transaction_kept BEFORE DELETE ON ledger_transaction
BEGIN SELECT RAISE(ABORT, 'ledger_transaction is append-only'); END;
CREATE TRIGGER ledger_transaction_next BEFORE INSERT ON ledger_transaction
WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM ledger_transaction)
BEGIN SELECT RAISE(ABORT, 'ledger_transaction has gaps'); END;

-- Lines are written with their transaction, the newest one, and never again. The INSERT triggers
-- also stop REPLACE, which deletes past DELETE triggers where recursive_triggers is off.
CREATE TABLE entry (
    seq INTEGER NOT NULL REFERENCES ledger_transaction,
    line INTEGER NOT NULL,
    ledger_account TEXT NOT NULL,
    amount_nano INTEGER NOT NULL CHECK (amount_nano <> 0),
    PRIMARY KEY (seq, line)
) STRICT, WITHOUT ROWID;
CREATE INDEX entry_account ON entry (ledger_account, seq);
CREATE TRIGGER entry_frozen BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'entry is append-only'); END;
CREATE TRIGGER entry_kept BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'entry is append-only'); END;
CREATE TRIGGER entry_next BEFORE INSERT ON entry
WHEN NEW.seq <> (SELECT max(seq) FROM ledger_transaction)
    OR EXISTS (SELECT 1 FROM entry WHERE seq = NEW.seq AND line = NEW.line)
BEGIN SELECT RAISE(ABORT, 'entry is append-only'); END;

CREATE TABLE settlement (
    seq INTEGER NOT NULL REFERENCES ledger_transaction,
    line INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    service_point_id TEXT NOT NULL,
    meter_id TEXT NOT NULL,
    tariff_id TEXT NOT NULL,
    period TEXT NOT NULL,
    from_utc_ms INTEGER NOT NULL,
    to_utc_ms INTEGER NOT NULL,
    from_wh TEXT NOT NULL,
    to_wh TEXT NOT NULL,
    advance_wh TEXT NOT NULL,
    cells TEXT NOT NULL,
    charges TEXT NOT NULL,
    flags TEXT NOT NULL,
    PRIMARY KEY (seq, line)
) STRICT, WITHOUT ROWID;
CREATE INDEX settlement_account ON settlement (account_id, seq);
CREATE TRIGGER settlement_frozen BEFORE UPDATE ON settlement
BEGIN SELECT RAISE(ABORT, 'settlement is append-only'); END;
CREATE TRIGGER settlement_kept BEFORE DELETE ON settlement
BEGIN SELECT RAISE(ABORT, 'settlement is append-only'); END;
CREATE TRIGGER settlement_next BEFORE INSERT ON settlement
WHEN NEW.seq <> (SELECT max(seq) FROM ledger_transaction)
    OR EXISTS (SELECT 1 FROM settlement WHERE seq = NEW.seq AND line = NEW.line)
BEGIN SELECT RAISE(ABORT, 'settlement is append-only'); END;

-- What the entries of each ledger account sum to; kept with every transaction, proved by verify.
CREATE TABLE balance (
    ledger_account TEXT PRIMARY KEY,
    amount_nano INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE point_state (
    service_point_id TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE register_state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    utc_ms INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE switch_command (
    number INTEGER PRIMARY KEY,
    command_id TEXT NOT NULL UNIQUE,
    service_point_id TEXT NOT NULL,
    meter_id TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('open', 'close')),
    reason TEXT NOT NULL,
    request_key TEXT,
    state TEXT NOT NULL CHECK (state IN ('queued', 'sent', 'verified', 'failed', 'expired')),
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    issued_utc_ms INTEGER NOT NULL,
    finished_utc_ms INTEGER,
    witnesses TEXT NOT NULL,
    detail TEXT NOT NULL,
    CHECK ((state IN ('queued', 'sent')) = (finished_utc_ms IS NULL))
) STRICT;
CREATE INDEX switch_command_meter ON switch_command (meter_id, number);
CREATE INDEX switch_command_key ON switch_command (request_key) WHERE request_key IS NOT NULL;
CREATE INDEX switch_command_open ON switch_command (number) WHERE finished_utc_ms IS NULL;
CREATE TRIGGER switch_command_kept BEFORE DELETE ON switch_command
BEGIN SELECT RAISE(ABORT, 'a switch command is never deleted'); END;
CREATE TRIGGER switch_command_finished BEFORE UPDATE ON switch_command
WHEN OLD.finished_utc_ms IS NOT NULL OR NEW.command_id <> OLD.command_id
    OR (OLD.state = 'sent' AND NEW.state = 'queued')
BEGIN SELECT RAISE(ABORT, 'a finished switch command never changes'); END;

-- Exactly once: a key has one outcome, written with its effect in one commit.
CREATE TABLE outcome (
    number INTEGER PRIMARY KEY,
    request_key TEXT NOT NULL UNIQUE,
    body_hash TEXT NOT NULL,
    type TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('executed', 'refused', 'expired')),
    code TEXT NOT NULL,
    message TEXT NOT NULL,
    result TEXT NOT NULL,
    utc_ms INTEGER NOT NULL
) STRICT;
CREATE TRIGGER outcome_frozen BEFORE UPDATE ON outcome
BEGIN SELECT RAISE(ABORT, 'outcome is append-only'); END;
CREATE TRIGGER outcome_kept BEFORE DELETE ON outcome
BEGIN SELECT RAISE(ABORT, 'outcome is append-only'); END;
CREATE TRIGGER outcome_once BEFORE INSERT ON outcome
WHEN EXISTS (SELECT 1 FROM outcome WHERE request_key = NEW.request_key)
BEGIN SELECT RAISE(ABORT, 'a request has one outcome'); END;

CREATE TABLE request_cursor (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch TEXT NOT NULL,
    request_id INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    utc_ms INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
CREATE TRIGGER audit_frozen BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
CREATE TRIGGER audit_kept BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
CREATE TRIGGER audit_next BEFORE INSERT ON audit
WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM audit)
BEGIN SELECT RAISE(ABORT, 'audit has gaps'); END;
