//! Where a request's body ends: exactly one reading, or none.
//!
//! A request that two servers on the way could cut at different places is how one client's bytes
//! become another client's request (RFC 9112, section 11.2). The HTTP library in front has its own
//! checks; these are repeated on what it hands over, so that the rule does not move with its version.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Version};

use crate::refusal::Refusal;

/// Refuses any framing that is not one `Content-Length`, one `chunked`, or neither.
pub(crate) fn check(version: Version, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let encoding = encodings.next();

    let is_single = lengths.next().is_none() && encodings.next().is_none();
    let is_exclusive = length.is_none() || encoding.is_none();
    let is_number = length.is_none_or(|value| is_content_length(value.as_bytes()));
    let is_chunked = encoding
        .is_none_or(|value| version == Version::HTTP_11 && value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if is_single && is_exclusive && is_number && is_chunked { Ok(()) } else { Err(Refusal::AmbiguousFraming) }
}

/// Digits only, and no more of them than a 64-bit length has.
fn is_content_length(value: &[u8]) -> bool {
    (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn check_with(version: Version, pairs: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
            {
                headers.append(name, value);
            }
        }
        check(version, &headers)
    }

    #[test]
    fn one_reading_passes() {
        for pairs in [
            &[][..],
            &[("content-length", "0")],
            &[("content-length", "12")],
            &[("transfer-encoding", "chunked")],
        ] {
            assert_eq!(check_with(Version::HTTP_11, pairs), Ok(()), "{pairs:?}");
        }
        assert_eq!(check_with(Version::HTTP_2, &[("content-length", "5")]), Ok(()));
    }

    #[test]
    fn every_other_reading_is_refused() {
        let cases: &[(Version, &[(&str, &str)])] = &[
            (Version::HTTP_11, &[("content-length", "5"), ("transfer-encoding", "chunked")]),
            (Version::HTTP_11, &[("Transfer-Encoding", "chunked"), ("Content-Length", "5")]),
            (Version::HTTP_11, &[("content-length", "5"), ("content-length", "6")]),
            (Version::HTTP_11, &[("content-length", "5"), ("content-length", "5")]),
            (Version::HTTP_11, &[("content-length", "5, 5")]),
            (Version::HTTP_11, &[("content-length", "+5")]),
            (Version::HTTP_11, &[("content-length", "-5")]),
            (Version::HTTP_11, &[("content-length", "0x5")]),
            (Version::HTTP_11, &[("content-length", " 5")]),
            (Version::HTTP_11, &[("content-length", "")]),
            (Version::HTTP_11, &[("content-length", "99999999999999999999")]),
            (Version::HTTP_11, &[("transfer-encoding", "gzip, chunked")]),
            (Version::HTTP_11, &[("transfer-encoding", "chunked, identity")]),
            (Version::HTTP_11, &[("transfer-encoding", "xchunked")]),
            (Version::HTTP_11, &[("transfer-encoding", "\u{b}chunked")]),
            (Version::HTTP_11, &[("transfer-encoding", "identity")]),
            (Version::HTTP_11, &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            (Version::HTTP_10, &[("transfer-encoding", "chunked")]),
            (Version::HTTP_2, &[("transfer-encoding", "chunked")]),
        ];
        for (version, pairs) in cases {
            // A value the header type itself refuses never gets this far.
            if pairs.iter().any(|(_, value)| HeaderValue::from_str(value).is_err()) {
                continue;
            }
            assert_eq!(check_with(*version, pairs), Err(Refusal::AmbiguousFraming), "{version:?} {pairs:?}");
        }
    }
}
