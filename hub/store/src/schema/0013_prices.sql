-- What providers said they sell when they were asked last; `rows` is CSV as the built-in list has it.
CREATE TABLE price_lists (
    provider TEXT NOT NULL PRIMARY KEY,
    asked_at INTEGER NOT NULL,
    rows TEXT NOT NULL
) STRICT, WITHOUT ROWID;
