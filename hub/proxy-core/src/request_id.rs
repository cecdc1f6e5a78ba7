//! Ids of requests, as they go from log to log.

use std::fmt;

/// How long the ids are that the hub makes, in bytes.
const OWN: usize = 32;

/// The id of one request; copying one as long as those of the hub takes no room on the heap.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(Text);

#[derive(Clone, PartialEq, Eq)]
enum Text {
    Own([u8; OWN]),
    Other(Box<str>),
}

impl RequestId {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // It was a text when it came.
            Text::Own(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Text::Other(text) => text,
        }
    }
}

impl Default for RequestId {
    /// The empty one, of a request that is not known yet.
    fn default() -> Self {
        Self(Text::Other(Box::default()))
    }
}

impl From<&str> for RequestId {
    fn from(text: &str) -> Self {
        let own = text.as_bytes().try_into().map(Text::Own);
        Self(own.unwrap_or_else(|_| Text::Other(text.into())))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_any_length_stays_as_it_came() {
        for length in [0, 1, OWN - 1, OWN, OWN + 1, 128] {
            let text = "d".repeat(length);
            let id = RequestId::from(text.as_str());
            assert_eq!((id.as_str(), id.to_string()), (text.as_str(), text.clone()));
        }
        assert_eq!(RequestId::default(), RequestId::from(""));
    }
}
