-- TLS of a service: a JSON document, and its private keys, sealed with the hub's sealing key.
CREATE TABLE tls_profiles (
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    document TEXT NOT NULL,
    sealed TEXT NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (blueprint, service)
) STRICT, WITHOUT ROWID;

-- Certificates of clients: those that the hub made, and others that it refuses. None holds a key.
CREATE TABLE client_certificates (
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    serial TEXT NOT NULL CHECK (length(serial) BETWEEN 2 AND 40),
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    PRIMARY KEY (blueprint, service, serial)
) STRICT, WITHOUT ROWID;
