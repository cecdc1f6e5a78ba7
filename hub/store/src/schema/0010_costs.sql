-- Times for which machines are billed, and at what price. They outlive machines and deployments, so they refer to none.
CREATE TABLE machine_spans (
    key TEXT NOT NULL,
    begins INTEGER NOT NULL,
    ends INTEGER,
    deployment TEXT NOT NULL,
    provider TEXT NOT NULL,
    is_off INTEGER NOT NULL,
    hourly INTEGER NOT NULL,
    PRIMARY KEY (key, begins)
) STRICT, WITHOUT ROWID;
CREATE INDEX machine_spans_by_end ON machine_spans (ends);
-- Machines of before: what stands goes on, and what ended had run until then.
INSERT INTO machine_spans (key, begins, ends, deployment, provider, is_off, hourly)
    SELECT key, made_at, CASE WHEN state IN ('gone', 'lost', 'failed') THEN since END, deployment, provider, 0, hourly
    FROM instances WHERE made_at IS NOT NULL;
