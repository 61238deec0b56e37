-- The counter: shifts of cashiers at drawers, their counts, and who took which payment. The money
-- itself is in the ledger; its memo names the shift, under the chain.

CREATE TABLE shift (
    number INTEGER PRIMARY KEY,
    drawer TEXT NOT NULL,
    cashier TEXT NOT NULL,
    opened_utc_ms INTEGER NOT NULL,
    float_nano INTEGER NOT NULL CHECK (float_nano >= 0),
    cash_provider TEXT NOT NULL,
    request_key TEXT NOT NULL
) STRICT;
CREATE TRIGGER shift_frozen BEFORE UPDATE ON shift
BEGIN SELECT RAISE(ABORT, 'shift is append-only'); END;
CREATE TRIGGER shift_kept BEFORE DELETE ON shift
BEGIN SELECT RAISE(ABORT, 'shift is append-only'); END;
CREATE TRIGGER shift_next BEFORE INSERT ON shift
WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM shift)
BEGIN SELECT RAISE(ABORT, 'shift has gaps'); END;

-- The count that ended a shift, as it was made.
CREATE TABLE shift_closing (
    number INTEGER PRIMARY KEY REFERENCES shift,
    utc_ms INTEGER NOT NULL,
    closed_by TEXT NOT NULL,
    note TEXT NOT NULL,
    means TEXT NOT NULL,
    difference_seq INTEGER REFERENCES ledger_transaction,
    request_key TEXT NOT NULL
) STRICT;
CREATE TRIGGER shift_closing_frozen BEFORE UPDATE ON shift_closing
BEGIN SELECT RAISE(ABORT, 'shift_closing is append-only'); END;
CREATE TRIGGER shift_closing_kept BEFORE DELETE ON shift_closing
BEGIN SELECT RAISE(ABORT, 'shift_closing is append-only'); END;
CREATE TRIGGER shift_closing_once BEFORE INSERT ON shift_closing
WHEN EXISTS (SELECT 1 FROM shift_closing WHERE number = NEW.number)
BEGIN SELECT RAISE(ABORT, 'a shift is closed once'); END;

-- Only the newest of a drawer or a cashier can be open.
CREATE INDEX shift_drawer ON shift (drawer, number);
CREATE INDEX shift_cashier ON shift (cashier, number);
CREATE TRIGGER shift_alone BEFORE INSERT ON shift
WHEN EXISTS (
    SELECT 1 FROM (
        SELECT max(number) AS newest FROM shift WHERE drawer = NEW.drawer
        UNION ALL SELECT max(number) FROM shift WHERE cashier = NEW.cashier)
    WHERE newest IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM shift_closing WHERE number = newest))
BEGIN SELECT RAISE(ABORT, 'a drawer and a cashier have one open shift'); END;

-- Money taken in or given back, by whom, on which local day (YYYY-MM-DD). An index into the
-- ledger, whose memo and entries are what counts.
CREATE TABLE payment (
    seq INTEGER PRIMARY KEY REFERENCES ledger_transaction,
    actor TEXT NOT NULL,
    role TEXT NOT NULL,
    day TEXT NOT NULL,
    provider TEXT NOT NULL,
    reference TEXT NOT NULL,
    amount_nano INTEGER NOT NULL,
    shift INTEGER REFERENCES shift
) STRICT;
CREATE INDEX payment_actor ON payment (actor, day);
CREATE INDEX payment_reference ON payment (provider, reference) WHERE reference <> '';
CREATE INDEX payment_shift ON payment (shift, seq) WHERE shift IS NOT NULL;
CREATE TRIGGER payment_frozen BEFORE UPDATE ON payment
BEGIN SELECT RAISE(ABORT, 'payment is append-only'); END;
CREATE TRIGGER payment_kept BEFORE DELETE ON payment
BEGIN SELECT RAISE(ABORT, 'payment is append-only'); END;

-- Recharges from before: who took them is in the audit chain; their references are known.
INSERT INTO payment
SELECT t.seq, '', '', '', coalesce(json_extract(t.memo, '$.provider'), ''),
    coalesce(json_extract(t.memo, '$.reference'), ''), e.amount_nano, NULL
FROM ledger_transaction t JOIN entry e ON e.seq = t.seq
    AND e.ledger_account = 'wallet:' || t.account_id
WHERE t.kind = 'recharge';
CREATE TRIGGER payment_next BEFORE INSERT ON payment
WHEN NEW.seq <> (SELECT max(seq) FROM ledger_transaction)
    OR EXISTS (SELECT 1 FROM payment WHERE seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'a payment is kept with its transaction'); END;
