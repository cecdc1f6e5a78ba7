//! Records of a CSV file (RFC 4180) that comes in pieces: one is held at a time.

/// Most bytes of one record, without its quotes; those of price lists have some 1,000.
const MAX_BYTES: usize = 64 * 1024;

/// Most fields of one record; those of price lists have some 100.
const MAX_FIELDS: usize = 500;

/// Why a text is no table. Records are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoTable {
    /// A quote where none may be.
    #[error("record {0} has a quote in the middle of a field")]
    Quote(u64),
    /// Beyond what is held.
    #[error("record {0} has more than {MAX_BYTES} bytes or {MAX_FIELDS} fields")]
    Long(u64),
    /// The text ends inside a quoted field.
    #[error("it is cut off in record {0}")]
    Cut(u64),
}

/// Takes a text apart.
#[derive(Debug, Default)]
pub(super) struct Records {
    state: State,
    text: Vec<u8>,
    /// Where in `text` each field ends.
    ends: Vec<usize>,
    count: u64,
}

/// Where in a record the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// At the begin of a field.
    #[default]
    Begin,
    /// In one without quotes.
    Plain,
    /// Between quotes.
    Quoted,
    /// Behind the quote that may be the last.
    Closed,
}

/// One record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    text: &'a [u8],
    ends: &'a [usize],
    /// Which it is, from 1.
    pub(super) number: u64,
}

impl<'a> Record<'a> {
    /// How many fields it has.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// A field, from 0; `None` beyond the last.
    pub(super) fn get(&self, field: usize) -> Option<&'a [u8]> {
        let end = *self.ends.get(field)?;
        let begin = field.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.text.get(begin..end)
    }
}

impl Records {
    /// Gives `each` the records that end in `piece`; empty lines are none.
    pub(super) fn take<E: From<NoTable>>(
        &mut self,
        piece: &[u8],
        each: &mut impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = piece;
        while let Some((&byte, after)) = rest.split_first() {
            rest = match (self.state, byte) {
                (State::Quoted, b'"') => self.now(State::Closed, after),
                (State::Quoted, _) => self.add_until(rest, |byte| byte == b'"')?,
                (State::Begin, b'"') => self.now(State::Quoted, after),
                (State::Closed, b'"') => {
                    self.add(b"\"")?;
                    self.now(State::Quoted, after)
                }
                (State::Begin | State::Plain | State::Closed, b',') => {
                    self.end_field()?;
                    after
                }
                (State::Begin | State::Plain | State::Closed, b'\n') => {
                    self.end_record(each)?;
                    after
                }
                (State::Begin | State::Plain | State::Closed, b'\r') => after,
                (State::Plain, b'"') | (State::Closed, _) => return Err(NoTable::Quote(self.next()).into()),
                (State::Begin | State::Plain, _) => {
                    self.state = State::Plain;
                    self.add_until(rest, |byte| matches!(byte, b',' | b'\n' | b'\r' | b'"'))?
                }
            };
        }
        Ok(())
    }

    /// Gives `each` a last record that no line break ends.
    pub(super) fn finish<E: From<NoTable>>(
        &mut self,
        each: &mut impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.state == State::Quoted {
            return Err(NoTable::Cut(self.next()).into());
        }
        self.end_record(each)
    }

    fn next(&self) -> u64 {
        self.count.saturating_add(1)
    }

    fn now<'a>(&mut self, state: State, rest: &'a [u8]) -> &'a [u8] {
        self.state = state;
        rest
    }

    /// Adds what comes before the first byte that `ends`; gives the rest.
    fn add_until<'a>(&mut self, text: &'a [u8], ends: impl Fn(u8) -> bool) -> Result<&'a [u8], NoTable> {
        let length = text.iter().position(|byte| ends(*byte)).unwrap_or(text.len());
        let (kept, rest) = text.split_at_checked(length).unwrap_or((text, &[]));
        self.add(kept)?;
        Ok(rest)
    }

    fn add(&mut self, text: &[u8]) -> Result<(), NoTable> {
        if self.text.len().saturating_add(text.len()) > MAX_BYTES {
            return Err(NoTable::Long(self.next()));
        }
        self.text.extend_from_slice(text);
        Ok(())
    }

    fn end_field(&mut self) -> Result<(), NoTable> {
        if self.ends.len() >= MAX_FIELDS {
            return Err(NoTable::Long(self.next()));
        }
        self.ends.push(self.text.len());
        self.state = State::Begin;
        Ok(())
    }

    fn end_record<E: From<NoTable>>(
        &mut self,
        each: &mut impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.ends.is_empty() && self.text.is_empty() {
            self.state = State::Begin;
            return Ok(());
        }
        self.end_field()?;
        self.count = self.next();
        let given = each(Record { text: &self.text, ends: &self.ends, number: self.count });
        self.text.clear();
        self.ends.clear();
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(pieces: &[&[u8]]) -> Result<Vec<Vec<String>>, NoTable> {
        let (mut records, mut rows) = (Records::default(), Vec::new());
        let mut each = |record: Record<'_>| {
            let field = |n| String::from_utf8_lossy(record.get(n).unwrap()).into_owned();
            assert!(record.get(record.len()).is_none());
            rows.push((0..record.len()).map(field).collect());
            Ok::<_, NoTable>(())
        };
        for piece in pieces {
            records.take(piece, &mut each)?;
        }
        records.finish(&mut each)?;
        Ok(rows)
    }

    #[test]
    fn a_text_is_the_same_records_wherever_it_is_cut_into_pieces() {
        let text = b"\"a\",\"b, \"\"c\"\"\nd\",,e\r\n\n\"\",x\n,\nlast";
        let wanted: Vec<Vec<String>> =
            [vec!["a", "b, \"c\"\nd", "", "e"], vec!["", "x"], vec!["", ""], vec!["last"]]
                .map(|row| row.into_iter().map(str::to_owned).collect())
                .to_vec();
        assert_eq!(rows(&[text]).unwrap(), wanted);
        for cut in 0..text.len() {
            assert_eq!(rows(&[&text[..cut], &text[cut..]]).unwrap(), wanted, "{cut}");
        }
        let bytes: Vec<_> = text.chunks(1).collect();
        assert_eq!(rows(&bytes).unwrap(), wanted);
        assert!(rows(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_table_is_an_error_and_no_record_grows_without_end() {
        assert_eq!(rows(&[b"a\n\"b"]), Err(NoTable::Cut(2)));
        assert_eq!(rows(&[b"a\"b\n"]), Err(NoTable::Quote(1)));
        assert_eq!(rows(&[b"\"a\"b\n"]), Err(NoTable::Quote(1)));
        assert_eq!(rows(&[b"\"", &[b'x'; MAX_BYTES + 1]]), Err(NoTable::Long(1)));
        assert_eq!(rows(&[&[b','; MAX_FIELDS + 1]]), Err(NoTable::Long(1)));
        // Any bytes: an error or records, and never more than one is held.
        let mut seed = 7_u32;
        for _ in 0..2000 {
            let noise: Vec<u8> = (0..64)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    b"\",\n\rab\xff\0"[usize::try_from(seed >> 29).unwrap()]
                })
                .collect();
            let whole = rows(&[&noise]);
            let (one, other) = noise.split_at(31);
            assert_eq!(rows(&[one, other]), whole, "{noise:?}");
        }
    }
}
