-- When a machine's cloud made it, whether it was last seen switched off and since when, and when its deletion was accepted.
ALTER TABLE instances ADD COLUMN made_at INTEGER;
ALTER TABLE instances ADD COLUMN is_off INTEGER NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN switched_at INTEGER;
ALTER TABLE instances ADD COLUMN deleted_at INTEGER;
-- What an hour costs while it is switched off; what is there already was told of no other price than `hourly`.
ALTER TABLE instances ADD COLUMN stopped_hourly INTEGER;
ALTER TABLE deployment_plan ADD COLUMN stopped_hourly INTEGER;
-- Machines that stand were made by the last call for them.
UPDATE instances SET made_at = called_at WHERE provider_id IS NOT NULL;
