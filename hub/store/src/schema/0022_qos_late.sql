-- Of what the hub did not see: milliseconds up and down as agents measured them and said later. Of what it saw down: those that agents
-- measured healthy.
ALTER TABLE qos_minutes ADD COLUMN late_up INTEGER NOT NULL DEFAULT 0;
ALTER TABLE qos_minutes ADD COLUMN late_down INTEGER NOT NULL DEFAULT 0;
ALTER TABLE qos_minutes ADD COLUMN unreached INTEGER NOT NULL DEFAULT 0;
ALTER TABLE qos_hours ADD COLUMN late_up INTEGER NOT NULL DEFAULT 0;
ALTER TABLE qos_hours ADD COLUMN late_down INTEGER NOT NULL DEFAULT 0;
ALTER TABLE qos_hours ADD COLUMN unreached INTEGER NOT NULL DEFAULT 0;

-- Single samples, by the second in which they were taken; the columns are those of minutes.
CREATE TABLE qos_samples (
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
    late_up INTEGER NOT NULL,
    late_down INTEGER NOT NULL,
    unreached INTEGER NOT NULL,
    PRIMARY KEY (subject, at)
) STRICT, WITHOUT ROWID;

-- Thousandths of a percent of the time that a machine (part 0), or its tunnel (part 1), is to be up.
CREATE TABLE qos_node_objectives (
    agent BLOB NOT NULL,
    part INTEGER NOT NULL CHECK (part IN (0, 1)),
    thousandths INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (agent, part)
) STRICT, WITHOUT ROWID;
