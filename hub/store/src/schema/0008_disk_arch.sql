-- GB of disk that were priced, and the kind of processor. What is there already takes its plan's own disk.
ALTER TABLE deployment_plan ADD COLUMN disk_gb INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deployment_plan ADD COLUMN arch TEXT NOT NULL DEFAULT 'x86_64';
ALTER TABLE instances ADD COLUMN disk_gb INTEGER NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN arch TEXT NOT NULL DEFAULT 'x86_64';
