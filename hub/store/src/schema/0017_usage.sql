-- What services and their callers have used, in sums from the first request on.
-- service: 7/42, or empty for what found no room; key: empty for the sum of the service.
CREATE TABLE usage (
    service TEXT NOT NULL,
    key TEXT NOT NULL,
    requests INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    bytes_in INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    open_millis INTEGER NOT NULL,
    since INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (service, key)
) STRICT, WITHOUT ROWID;
