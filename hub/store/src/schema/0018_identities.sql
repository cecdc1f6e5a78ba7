-- Machines of clouds that joined by their identity. A row outlives its agent: each joins once.
CREATE TABLE cloud_identities (
    cloud TEXT NOT NULL,
    account TEXT NOT NULL,
    instance TEXT NOT NULL,
    agent BLOB NOT NULL CHECK (length(agent) = 16),
    joined_at INTEGER NOT NULL,
    PRIMARY KEY (cloud, account, instance)
) STRICT, WITHOUT ROWID;
