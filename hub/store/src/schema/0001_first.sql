CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO counters (name, value) VALUES ('epoch', 0), ('index', 0);

CREATE TABLE join_tokens (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    label TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    uses_left INTEGER NOT NULL CHECK (uses_left >= 0),
    uses INTEGER NOT NULL,
    services TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE access_tokens (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    label TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    services TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE agents (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    name TEXT NOT NULL,
    wireguard_key BLOB NOT NULL UNIQUE CHECK (length(wireguard_key) = 32),
    v4 TEXT NOT NULL UNIQUE,
    v6 TEXT NOT NULL UNIQUE,
    joined_at INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    token TEXT NOT NULL,
    services TEXT NOT NULL,
    agent_version TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE certificates (
    serial BLOB PRIMARY KEY,
    agent BLOB NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    generation INTEGER NOT NULL,
    issued_at INTEGER NOT NULL,
    not_after INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX certificates_by_agent ON certificates (agent);

-- Agents that are gone and may still hold a certificate.
CREATE TABLE revoked_agents (
    agent BLOB PRIMARY KEY,
    removed_at INTEGER NOT NULL,
    not_after INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE claims (
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    agent BLOB NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    PRIMARY KEY (blueprint, service)
) STRICT, WITHOUT ROWID;
CREATE INDEX claims_by_agent ON claims (agent);

CREATE TABLE targets (
    agent BLOB NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    port INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535),
    health TEXT NOT NULL,
    reason TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (agent, blueprint, service, port)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    prev_hash BLOB NOT NULL CHECK (length(prev_hash) = 32),
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TRIGGER audit_update BEFORE UPDATE ON audit BEGIN
    SELECT raise(ABORT, 'audit rows cannot be changed');
END;
CREATE TRIGGER audit_delete BEFORE DELETE ON audit BEGIN
    SELECT raise(ABORT, 'audit rows cannot be deleted');
END;
-- Also stops INSERT OR REPLACE, which deletes without a trigger.
CREATE TRIGGER audit_insert BEFORE INSERT ON audit
WHEN new.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM audit) BEGIN
    SELECT raise(ABORT, 'audit rows are only appended');
END;
