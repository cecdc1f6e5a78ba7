-- The journal of each workload: what its nodes did to make it well, and what the hub decided.
CREATE TABLE workload_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    at INTEGER NOT NULL,
    node BLOB CHECK (node IS NULL OR length(node) = 16),
    kind TEXT NOT NULL,
    of_hub INTEGER NOT NULL CHECK (of_hub IN (0, 1)),
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX workload_events_of ON workload_events (blueprint, service, of_hub, id);
