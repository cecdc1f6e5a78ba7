-- What nodes run: one JSON document each, and the keys of the blueprint, sealed with the hub's sealing key.
CREATE TABLE workloads (
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    generation INTEGER NOT NULL CHECK (generation > 0),
    document TEXT NOT NULL,
    nodes TEXT NOT NULL,
    node BLOB CHECK (node IS NULL OR length(node) = 16),
    keystore TEXT,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (blueprint, service)
) STRICT, WITHOUT ROWID;
