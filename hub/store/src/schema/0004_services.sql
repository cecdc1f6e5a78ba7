-- What the operator says about a service: one JSON document each.
CREATE TABLE services (
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    version INTEGER NOT NULL CHECK (version > 0),
    document TEXT NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (blueprint, service)
) STRICT, WITHOUT ROWID;

-- API keys of owners, by their public part and the hash of the whole.
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    owner TEXT NOT NULL,
    headers TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX api_keys_by_owner ON api_keys (blueprint, service, owner);
