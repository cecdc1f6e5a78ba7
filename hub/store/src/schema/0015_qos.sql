-- History of quality of service. Kind 0 is a service, 1 a target, 2 a node; what a kind has not is zero or empty.
CREATE TABLE qos_subjects (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    agent BLOB NOT NULL,
    port INTEGER NOT NULL,
    UNIQUE (kind, blueprint, service, agent, port)
) STRICT;

-- Rows begin at `at`, in milliseconds since 1970. Bit N of `taken` says that a sample of second N is counted.
CREATE TABLE qos_minutes (
    subject INTEGER NOT NULL,
    at INTEGER NOT NULL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    taken INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    healthy INTEGER NOT NULL,
    unhealthy INTEGER NOT NULL,
    cpu_sum INTEGER NOT NULL,
    cpu_most INTEGER NOT NULL,
    memory_sum INTEGER NOT NULL,
    memory_most INTEGER NOT NULL,
    delay_sum INTEGER NOT NULL,
    delay_most INTEGER NOT NULL,
    loss_sum INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    memory_total INTEGER NOT NULL,
    disk INTEGER NOT NULL,
    disk_total INTEGER NOT NULL,
    rx INTEGER NOT NULL,
    tx INTEGER NOT NULL,
    PRIMARY KEY (subject, at)
) STRICT, WITHOUT ROWID;

CREATE TABLE qos_hours (
    subject INTEGER NOT NULL,
    at INTEGER NOT NULL,
    up INTEGER NOT NULL,
    down INTEGER NOT NULL,
    taken INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    healthy INTEGER NOT NULL,
    unhealthy INTEGER NOT NULL,
    cpu_sum INTEGER NOT NULL,
    cpu_most INTEGER NOT NULL,
    memory_sum INTEGER NOT NULL,
    memory_most INTEGER NOT NULL,
    delay_sum INTEGER NOT NULL,
    delay_most INTEGER NOT NULL,
    loss_sum INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    memory_total INTEGER NOT NULL,
    disk INTEGER NOT NULL,
    disk_total INTEGER NOT NULL,
    rx INTEGER NOT NULL,
    tx INTEGER NOT NULL,
    PRIMARY KEY (subject, at)
) STRICT, WITHOUT ROWID;

-- Start of the hour in which a service was seen first. It stays when the rows go.
CREATE TABLE qos_first (
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (blueprint, service)
) STRICT, WITHOUT ROWID;

-- What services said of themselves: a JSON object of names and values.
CREATE TABLE qos_pages (
    id INTEGER PRIMARY KEY,
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    at INTEGER NOT NULL,
    page TEXT NOT NULL,
    UNIQUE (blueprint, service, at)
) STRICT;
CREATE INDEX qos_pages_at ON qos_pages (at);

-- Thousandths of a percent of the time that a service is to be up.
CREATE TABLE qos_objectives (
    blueprint INTEGER NOT NULL,
    service INTEGER NOT NULL,
    thousandths INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (blueprint, service)
) STRICT, WITHOUT ROWID;
