-- Versions of workloads and updates between them; which run of a workload offers a target.
ALTER TABLE targets ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;

ALTER TABLE workloads ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE workloads ADD COLUMN slot INTEGER NOT NULL DEFAULT 0;

-- Documents that were run. The keystore is sealed with the hub's sealing key, as that of the workload is.
CREATE TABLE workload_versions (
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    number INTEGER NOT NULL CHECK (number > 0),
    document TEXT NOT NULL,
    nodes TEXT NOT NULL,
    keystore TEXT,
    made_at INTEGER NOT NULL,
    made_by TEXT NOT NULL,
    strategy TEXT NOT NULL,
    repeats INTEGER,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL,
    decided_at INTEGER NOT NULL,
    PRIMARY KEY (blueprint, service, number)
) STRICT, WITHOUT ROWID;

-- Of launchers no versions are kept; what serves otherwise is the first one.
INSERT INTO workload_versions
    (blueprint, service, number, document, nodes, keystore, made_at, made_by, strategy, outcome, reason, decided_at)
    SELECT blueprint, service, 1, document, nodes, keystore, changed_at, '', 'run', 'current', '', changed_at
    FROM workloads WHERE document NOT LIKE '%"lease":{%';

-- Updates under way: one for a service at most. The state is JSON.
CREATE TABLE workload_updates (
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (blueprint, service)
) STRICT, WITHOUT ROWID;
