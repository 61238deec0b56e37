-- Export registers of a settlement line, where energy that was fed in is paid for. NULL: none, as
-- in all lines of older programs, whose hashes do not cover it.

ALTER TABLE settlement ADD COLUMN export TEXT;
