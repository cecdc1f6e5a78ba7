//! BER (X.690) as clouds write signed documents: definite and indefinite lengths, strings in one piece or in many.

/// Deepest nesting that is followed; a signed document with its certificates has 12.
const MAX_DEPTH: usize = 24;

/// Most values of one document; one with three certificates has about 400.
const MAX_NODES: usize = 4096;

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTETS: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
/// `[0]`, with values inside.
pub(crate) const CONTEXT_0: u8 = 0xa0;
/// `[1]`, with values inside.
pub(crate) const CONTEXT_1: u8 = 0xa1;

/// Bit of a tag that says that values are inside.
const CONSTRUCTED: u8 = 0x20;

/// One value.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    pub(crate) tag: u8,
    /// All of its bytes, tag and length included.
    pub(crate) whole: &'a [u8],
    /// What is between length and end; without the mark of the end.
    pub(crate) content: &'a [u8],
    /// The values inside, where it says that there are some.
    pub(crate) inside: Vec<Self>,
    /// Whether its length stands at its beginning.
    pub(crate) is_definite: bool,
}

impl<'a> Node<'a> {
    /// Reads the one value that `bytes` are; nothing may follow.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut nodes = 0;
        let (node, rest) = Self::next(bytes, MAX_DEPTH, &mut nodes)?;
        rest.is_empty().then_some(node)
    }

    fn next(bytes: &'a [u8], depth: usize, nodes: &mut usize) -> Option<(Self, &'a [u8])> {
        *nodes = nodes.checked_add(1).filter(|count| *count <= MAX_NODES)?;
        let depth = depth.checked_sub(1)?;
        let (&tag, rest) = bytes.split_first()?;
        // No document has tags of more than one byte.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let is_constructed = tag & CONSTRUCTED != 0;
        let (&first, rest) = rest.split_first()?;
        if first == 0x80 {
            return if is_constructed { Self::until_end(bytes, rest, tag, depth, nodes) } else { None };
        }
        let (length, rest) = length(first, rest)?;
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = bytes.get(..bytes.len().checked_sub(rest.len())?)?;
        let mut inside = Vec::new();
        let mut left = if is_constructed { content } else { &[] };
        while !left.is_empty() {
            let (node, after) = Self::next(left, depth, nodes)?;
            inside.push(node);
            left = after;
        }
        Some((Self { tag, whole, content, inside, is_definite: true }, rest))
    }

    /// A value whose end is marked by two zeros.
    fn until_end(
        bytes: &'a [u8],
        start: &'a [u8],
        tag: u8,
        depth: usize,
        nodes: &mut usize,
    ) -> Option<(Self, &'a [u8])> {
        let mut inside = Vec::new();
        let mut left = start;
        loop {
            if let Some(rest) = left.strip_prefix(&[0, 0]) {
                let content = start.get(..start.len().checked_sub(left.len())?)?;
                let whole = bytes.get(..bytes.len().checked_sub(rest.len())?)?;
                return Some((Self { tag, whole, content, inside, is_definite: false }, rest));
            }
            let (node, after) = Self::next(left, depth, nodes)?;
            inside.push(node);
            left = after;
        }
    }

    /// The values inside a value with this tag.
    pub(crate) fn values(&self, tag: u8) -> Option<&[Self]> {
        (self.tag == tag).then_some(self.inside.as_slice())
    }

    /// The bytes of a value with this tag that holds no others.
    pub(crate) fn bytes(&self, tag: u8) -> Option<&'a [u8]> {
        (self.tag == tag && tag & CONSTRUCTED == 0).then_some(self.content)
    }

    /// The bytes of a string of octets, in one piece or in many.
    pub(crate) fn octets(&self) -> Option<Vec<u8>> {
        if self.tag == OCTETS {
            return Some(self.content.to_vec());
        }
        let pieces = self.values(OCTETS | CONSTRUCTED)?;
        pieces
            .iter()
            .map(|piece| piece.bytes(OCTETS))
            .collect::<Option<Vec<_>>>()
            .map(|pieces| pieces.concat())
    }
}

/// A length of at most three bytes: more than any document that is looked at.
fn length(first: u8, rest: &[u8]) -> Option<(usize, &[u8])> {
    if first < 0x80 {
        return Some((usize::from(first), rest));
    }
    let count = usize::from(first & 0x7f);
    if !(1..=3).contains(&count) {
        return None;
    }
    let (digits, rest) = rest.split_at_checked(count)?;
    let length = digits.iter().fold(0usize, |sum, digit| (sum << 8) | usize::from(*digit));
    Some((length, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_kinds_of_length_are_read() {
        let definite = Node::read(&[0x30, 3, 0x04, 1, 7]).unwrap();
        assert_eq!(definite.values(SEQUENCE).unwrap()[0].octets(), Some(vec![7]));
        let open = [0x30, 0x80, 0x24, 0x80, 0x04, 1, 7, 0x04, 2, 8, 9, 0, 0, 0, 0];
        let open = Node::read(&open).unwrap();
        assert_eq!(open.values(SEQUENCE).unwrap()[0].octets(), Some(vec![7, 8, 9]));
        assert_eq!(open.whole.len(), 15);
    }

    #[test]
    fn what_is_cut_off_or_too_much_is_refused() {
        for wrong in [
            &[][..],
            &[0x30],
            &[0x30, 2, 1],
            &[0x30, 0x80],
            &[0x04, 0x80, 0, 0],
            &[0x04, 0x84, 0, 0, 0, 1, 7],
            &[0x1f, 1, 0],
            &[0x04, 1, 7, 0],
        ] {
            assert!(Node::read(wrong).is_none(), "{wrong:?}");
        }
        assert!(Node::read(&[0x30, 0x80].repeat(8000)).is_none(), "too deep");
        let many = [&[0x30, 0x82, 0x40, 0x00][..], &[0x05, 0].repeat(8192)].concat();
        assert!(Node::read(&many).is_none(), "too many");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Node::read(&bytes);
        }
    }
}
