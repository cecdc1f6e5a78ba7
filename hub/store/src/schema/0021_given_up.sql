-- Whether a machine was released since its agent stayed away, and another one is to take its place; else scaling has one too many.
ALTER TABLE leaving_instances ADD COLUMN given_up INTEGER NOT NULL DEFAULT 0 CHECK (given_up IN (0, 1));
