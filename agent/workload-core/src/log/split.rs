//! Bytes of one stream, taken apart into lines without secrets.

use super::redact::{REDACTED, Redactor};

/// Longest text of one line, in bytes as they come; a longer line comes in pieces.
pub const MAX_LINE_BYTES: usize = 8 << 10;

/// A line or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its text; what is no UTF-8 in it is replaced, as are secrets.
    pub text: String,
    /// The line goes on in the next piece.
    pub goes_on: bool,
}

/// Takes one stream apart. It holds a line that has not ended, of [`MAX_LINE_BYTES`] and the longest secret at most.
#[derive(Debug, Default)]
pub struct Splitter {
    held: Vec<u8>,
    /// Bytes at the beginning of what is held that are the rest of a secret.
    covered: usize,
}

impl Splitter {
    /// Takes bytes in, and adds what is known to be whole to `pieces`.
    pub fn push(&mut self, mut bytes: &[u8], redactor: &Redactor, pieces: &mut Vec<Piece>) {
        while !bytes.is_empty() {
            let (line, rest) = match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => (bytes.get(..end).unwrap_or_default(), bytes.get(end.saturating_add(1)..)),
                None => (bytes, None),
            };
            // Bounded also where one call brings much.
            for part in line.chunks(MAX_LINE_BYTES) {
                self.held.extend_from_slice(part);
                while self.held.len() >= MAX_LINE_BYTES.saturating_add(redactor.longest()).saturating_add(2) {
                    self.cut(redactor, pieces);
                }
            }
            let Some(rest) = rest else { return };
            self.end_line(redactor, pieces);
            bytes = rest;
        }
    }

    /// Adds what no end of line came for.
    pub fn finish(&mut self, redactor: &Redactor, pieces: &mut Vec<Piece>) {
        if !self.held.is_empty() {
            self.end_line(redactor, pieces);
        }
    }

    fn end_line(&mut self, redactor: &Redactor, pieces: &mut Vec<Piece>) {
        if self.held.last() == Some(&b'\r') {
            self.held.pop();
        }
        while self.held.len() > MAX_LINE_BYTES {
            self.cut(redactor, pieces);
        }
        let found = redactor.find(&self.held, self.covered.min(self.held.len()));
        pieces.push(Piece { text: shown(&self.held, &found, self.held.len()), goes_on: false });
        self.held.clear();
        self.covered = 0;
    }

    /// Adds the first piece of what is held. All that begins before its end is known by now: either the line has ended,
    /// or more than the longest secret is held behind it.
    fn cut(&mut self, redactor: &Redactor, pieces: &mut Vec<Piece>) {
        let found = redactor.find(&self.held, self.covered.min(self.held.len()));
        let end = boundary(&self.held);
        pieces.push(Piece { text: shown(&self.held, &found, end), goes_on: true });
        let last = found.iter().rev().find(|(begin, _)| *begin < end).map_or(0, |(_, to)| *to);
        self.covered = last.saturating_sub(end);
        self.held.drain(..end.min(self.held.len()));
    }
}

/// Where a piece ends: not within a character.
fn boundary(bytes: &[u8]) -> usize {
    let is_inside = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let ends = (MAX_LINE_BYTES.saturating_sub(3)..=MAX_LINE_BYTES).rev();
    ends.into_iter().find(|at| !is_inside(*at)).unwrap_or(MAX_LINE_BYTES)
}

/// The text up to `end`, with a mark in the place of each secret.
fn shown(bytes: &[u8], found: &[(usize, usize)], end: usize) -> String {
    let mut text = String::new();
    let mut from = 0;
    for (begin, to) in found.iter().filter(|(begin, _)| *begin < end) {
        text.push_str(&String::from_utf8_lossy(bytes.get(from..*begin).unwrap_or_default()));
        text.push_str(REDACTED);
        from = (*to).min(end);
    }
    text.push_str(&String::from_utf8_lossy(bytes.get(from..end).unwrap_or_default()));
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]], secrets: &[&str]) -> Vec<Piece> {
        let redactor = Redactor::new(secrets.iter().map(|secret| secret.as_bytes()));
        let (mut splitter, mut pieces) = (Splitter::default(), Vec::new());
        for chunk in chunks {
            splitter.push(chunk, &redactor, &mut pieces);
            assert!(splitter.held.len() <= 2 * MAX_LINE_BYTES + redactor.longest() + 2);
        }
        splitter.finish(&redactor, &mut pieces);
        pieces
    }

    fn texts(pieces: &[Piece]) -> Vec<&str> {
        pieces.iter().map(|piece| piece.text.as_str()).collect()
    }

    #[test]
    fn lines_end_where_they_end_and_not_where_chunks_do() {
        let pieces = split(&[b"one\ntw", b"o\r\n\nth\xffree", b" swordfi", b"sh!"], &["swordfish"]);
        assert_eq!(texts(&pieces), ["one", "two", "", "th\u{fffd}ree [redacted]!"]);
        assert!(pieces.iter().all(|piece| !piece.goes_on));
    }

    #[test]
    fn a_long_line_comes_in_pieces_and_no_secret_is_cut_in_two() {
        let secret = "correct-horse-battery";
        for before in (MAX_LINE_BYTES - 30)..(MAX_LINE_BYTES + 3) {
            let line = format!("{}{secret}{}\n", "x".repeat(before), "é".repeat(MAX_LINE_BYTES));
            let pieces = split(&[line.as_bytes()], &[secret]);
            let all = texts(&pieces).concat();
            assert_eq!(all.replace(REDACTED, "").len(), line.len() - 1 - secret.len(), "{before}");
            assert!(!all.contains("horse") && !all.contains("corr") && all.contains(REDACTED));
            assert!(pieces.iter().rev().skip(1).all(|piece| piece.goes_on) && !all.contains('\u{fffd}'));
            assert!(!pieces.last().unwrap().goes_on);
        }
        let endless = secret.repeat(10_000);
        assert_eq!(texts(&split(&[endless.as_bytes()], &[secret])).concat().replace(REDACTED, ""), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_secret_gets_through_however_it_comes(
            secrets in proptest::collection::vec("[a-c]{6,12}", 1..4),
            words in proptest::collection::vec((0usize..6, "[a-d]{0,5}", 0usize..20_000), 1..12),
            cuts in proptest::collection::vec(1usize..9000, 1..40),
        ) {
            let mut text = String::new();
            for (which, word, pad) in words {
                text.push_str(&word);
                text.push_str(secrets.get(which).map_or("\n", String::as_str));
                text.push_str(&"-".repeat(pad));
            }
            let (mut chunks, mut rest) = (Vec::new(), text.as_bytes());
            for cut in cuts.iter().cycle() {
                let Some((chunk, behind)) = rest.split_at_checked(*cut) else { break };
                chunks.push(chunk);
                rest = behind;
            }
            chunks.push(rest);
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let pieces = split(&chunks, &secrets);
            // A line as a reader puts it together again.
            let mut line = String::new();
            for piece in &pieces {
                prop_assert!(piece.text.len() <= 3 * MAX_LINE_BYTES);
                line.push_str(&piece.text);
                if !piece.goes_on {
                    for secret in &secrets {
                        prop_assert!(!line.contains(secret), "{secret} in {line}");
                    }
                    line.clear();
                }
            }
            // The same, however it is cut.
            prop_assert_eq!(pieces, split(&[text.as_bytes()], &secrets));
        }
    }
}
