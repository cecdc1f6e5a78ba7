-- Credentials of providers, sealed with the hub's sealing key for one provider each; `shown` holds no secret.
CREATE TABLE provider_credentials (
    provider TEXT NOT NULL PRIMARY KEY,
    sealed TEXT NOT NULL,
    shown TEXT NOT NULL,
    changed_at INTEGER NOT NULL,
    changed_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;
