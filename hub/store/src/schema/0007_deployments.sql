-- What the operator wants of clouds.
CREATE TABLE deployments (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    request_key TEXT NOT NULL UNIQUE,
    asked TEXT NOT NULL,
    replicas INTEGER NOT NULL CHECK (replicas > 0),
    wanted TEXT NOT NULL,
    blueprint INTEGER,
    service INTEGER,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    changed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What is ordered for it, best first; prices in millionths of a dollar.
CREATE TABLE deployment_plan (
    deployment TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    step INTEGER NOT NULL,
    provider TEXT NOT NULL,
    plan TEXT NOT NULL,
    region TEXT NOT NULL,
    spot INTEGER NOT NULL,
    hourly INTEGER NOT NULL,
    PRIMARY KEY (deployment, step)
) STRICT, WITHOUT ROWID;

-- Its machines: first the intent, then what became of it. `agent` and `agent_attempt` are written by a join alone.
CREATE TABLE instances (
    key TEXT PRIMARY KEY,
    deployment TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    provider TEXT NOT NULL,
    plan TEXT NOT NULL,
    region TEXT NOT NULL,
    spot INTEGER NOT NULL,
    hourly INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    since INTEGER NOT NULL,
    called_at INTEGER,
    provider_id TEXT,
    agent BLOB CHECK (agent IS NULL OR length(agent) = 16),
    agent_attempt INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL,
    UNIQUE (deployment, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE lifecycle_events (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    deployment TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    instance TEXT,
    what TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX lifecycle_events_by_deployment ON lifecycle_events (deployment);

-- The machine that a token is for, and the call for it that the token goes with; NULL for any machine.
ALTER TABLE join_tokens ADD COLUMN instance TEXT;
ALTER TABLE join_tokens ADD COLUMN attempt INTEGER;
