-- Assertions of other issuers that were used for a service: each works once, until it has expired.
CREATE TABLE used_assertions (
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    until INTEGER NOT NULL,
    PRIMARY KEY (blueprint, service, hash)
) STRICT, WITHOUT ROWID;
CREATE INDEX used_assertions_by_end ON used_assertions (until);
