-- Over what the machines of a deployment are spread.
ALTER TABLE deployments ADD COLUMN spread TEXT NOT NULL DEFAULT 'none';

-- Replicas that scaling wants of a deployment, in place of those that were ordered.
CREATE TABLE deployment_sizes (
    deployment TEXT PRIMARY KEY REFERENCES deployments (id) ON DELETE CASCADE,
    replicas INTEGER NOT NULL CHECK (replicas >= 0)
) STRICT, WITHOUT ROWID;

-- Machines that get no new requests, because they are to go; once released they are deleted.
CREATE TABLE leaving_instances (
    key TEXT PRIMARY KEY REFERENCES instances (key) ON DELETE CASCADE,
    since INTEGER NOT NULL,
    released INTEGER NOT NULL CHECK (released IN (0, 1))
) STRICT, WITHOUT ROWID;

-- What is agreed about the replicas of each service, and how it stands with the payment.
CREATE TABLE service_scaling (
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    deployment TEXT NOT NULL,
    tier TEXT NOT NULL,
    min_replicas INTEGER NOT NULL,
    max_replicas INTEGER NOT NULL,
    target_cpu INTEGER NOT NULL,
    target_rate INTEGER,
    paid_until INTEGER,
    phase TEXT NOT NULL,
    phase_since INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (blueprint, service)
) STRICT, WITHOUT ROWID;

CREATE TABLE scale_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    what TEXT NOT NULL,
    replicas INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX scale_events_of ON scale_events (blueprint, service, id);
