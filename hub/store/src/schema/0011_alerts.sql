-- What sending costs, frozen with the offer: a GB in millionths of a dollar, and GB of a month that are in its price. NULL where it
-- is not known, as in what is there already.
ALTER TABLE deployment_plan ADD COLUMN egress_gb INTEGER;
ALTER TABLE deployment_plan ADD COLUMN egress_included_gb INTEGER;
ALTER TABLE instances ADD COLUMN egress_gb INTEGER;
ALTER TABLE instances ADD COLUMN egress_included_gb INTEGER;

-- Bytes that arrived from a machine through its tunnel, by day (YYYY-MM-DD). Like its spans they outlive it.
CREATE TABLE machine_egress (
    key TEXT NOT NULL,
    day TEXT NOT NULL,
    deployment TEXT NOT NULL,
    provider TEXT NOT NULL,
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    egress_gb INTEGER,
    egress_included_gb INTEGER,
    PRIMARY KEY (key, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX machine_egress_by_day ON machine_egress (day);

-- How much may be spent, and what happens then. `edition` is never given twice. Of a webhook the scheme and
-- the host are readable; its URL and its key are sealed together.
CREATE TABLE cost_alerts (
    name TEXT PRIMARY KEY,
    edition INTEGER NOT NULL UNIQUE,
    scope TEXT NOT NULL,
    subject TEXT,
    period TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    thresholds TEXT NOT NULL,
    action TEXT NOT NULL,
    anomaly_times INTEGER,
    anomaly_floor INTEGER,
    webhook TEXT,
    sealed TEXT,
    released TEXT,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    CHECK ((webhook IS NULL) = (sealed IS NULL)),
    CHECK ((anomaly_times IS NULL) = (anomaly_floor IS NULL))
) STRICT, WITHOUT ROWID;

-- What was told, once for each mark of an edition, and how it stands with the message of it.
CREATE TABLE cost_alert_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    alert TEXT NOT NULL,
    edition INTEGER NOT NULL,
    kind TEXT NOT NULL,
    period TEXT NOT NULL,
    threshold INTEGER NOT NULL,
    at INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    action TEXT NOT NULL,
    spent INTEGER NOT NULL,
    forecast INTEGER,
    text TEXT NOT NULL,
    delivery TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_at INTEGER,
    error TEXT NOT NULL,
    UNIQUE (edition, kind, period, threshold)
) STRICT;
CREATE INDEX cost_alert_events_waiting ON cost_alert_events (next_at) WHERE delivery = 'waiting';
