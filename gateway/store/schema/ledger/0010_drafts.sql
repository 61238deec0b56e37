-- The newest version when a draft was made, which its rise was judged against; 0: not kept then.
ALTER TABLE tariff_draft ADD COLUMN follows INTEGER NOT NULL DEFAULT 0;
-- What it would have come to in the days before, as the first person was shown it; {} where nothing
-- was compared.
ALTER TABLE tariff_draft ADD COLUMN replay TEXT NOT NULL DEFAULT '{}';
