-- Overlay address of the machine that joins with a token; NULL for any free one.
ALTER TABLE join_tokens ADD COLUMN address TEXT;
