//! What a certificate says of itself. Signatures and chains are the business of the TLS library.

use std::fmt;
use std::fmt::Write;
use std::str::FromStr;

use blueprint_common_types::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use crate::identity::encode_hex;

/// Longest name of a subject or issuer that is kept, in bytes of its text.
const MAX_NAME: usize = 512;

/// Most host names that are read of one certificate.
const MAX_HOSTS: usize = 256;

/// Longest serial number in bytes (RFC 5280, section 4.1.2.2).
const MAX_SERIAL: usize = 20;

/// Serial number of a certificate: its bytes in hexadecimal, without zeros in front.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(String);

/// A text is not a serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a serial number has 1 to {} hexadecimal digits", MAX_SERIAL * 2)]
pub struct SerialError;

impl Serial {
    /// The number with these bytes, the most significant first.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        match bytes.get(zeros..).unwrap_or_default() {
            [] => Self("00".to_owned()),
            significant => Self(encode_hex(significant)),
        }
    }

    /// Hexadecimal digits in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Serial {
    type Err = SerialError;

    /// Reads digits in any case, also with `:` between them as other tools print them.
    fn from_str(text: &str) -> Result<Self, SerialError> {
        let digits: String = text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
        let fits = (1..=MAX_SERIAL * 2).contains(&digits.len());
        if !fits || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(SerialError);
        }
        let even = if digits.len().is_multiple_of(2) { digits } else { format!("0{digits}") };
        let bytes = crate::identity::decode_hex(&even).ok_or(SerialError)?;
        Ok(Self::from_bytes(&bytes))
    }
}

/// The parts of a certificate that the hub goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whom it names, as RFC 4514 writes names; whatever is not plain text is escaped.
    pub subject: String,
    /// The common name alone, where there is one.
    pub common_name: Option<String>,
    /// Who signed it, in the same form.
    pub issuer: String,
    /// Its number at the issuer.
    pub serial: Serial,
    /// Start of its life.
    pub not_before: Timestamp,
    /// End of its life.
    pub not_after: Timestamp,
    /// Host names it is for, stars included.
    pub hosts: Vec<String>,
}

impl CertificateFacts {
    /// Reads a certificate in DER; `None` where it is none.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let time =
            |seconds: i64| Timestamp::from_millis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
        let hosts = match certificate.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().filter_map(host).take(MAX_HOSTS).collect(),
            Ok(None) | Err(_) => Vec::new(),
        };
        let common_name = certificate.subject().iter_common_name().next();
        Some(Self {
            subject: name_text(certificate.subject()),
            common_name: common_name.and_then(|name| name.as_str().ok()).map(str::to_owned),
            issuer: name_text(certificate.issuer()),
            serial: Serial::from_bytes(certificate.raw_serial()),
            not_before: time(certificate.validity().not_before.timestamp()),
            not_after: time(certificate.validity().not_after.timestamp()),
            hosts,
        })
    }
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name { Some(name.to_ascii_lowercase()) } else { None }
}

/// A name as RFC 4514 writes it, but in the order of the certificate: one reading only, and safe in a header.
fn name_text(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    for attribute in name.iter_attributes() {
        let short = match attribute.attr_type().to_id_string().as_str() {
            "2.5.4.3" => "CN".to_owned(),
            "2.5.4.6" => "C".to_owned(),
            "2.5.4.7" => "L".to_owned(),
            "2.5.4.8" => "ST".to_owned(),
            "2.5.4.10" => "O".to_owned(),
            "2.5.4.11" => "OU".to_owned(),
            other => other.to_owned(),
        };
        let comma = if text.is_empty() { "" } else { "," };
        let escaped = escape(attribute.attr_value().data);
        if text.len().saturating_add(escaped.len()).saturating_add(short.len()) > MAX_NAME {
            break;
        }
        // Writing to a text cannot fail.
        let _ = write!(text, "{comma}{short}={escaped}");
    }
    text
}

fn escape(value: &[u8]) -> String {
    let mut text = String::new();
    let last = value.len().saturating_sub(1);
    for (position, byte) in value.iter().enumerate() {
        let at_edge = position == 0 || position == last;
        let is_plain = match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => false,
            b' ' | b'#' => !at_edge,
            other => matches!(other, b'!'..=b'~'),
        };
        let _ = if is_plain { write!(text, "{}", char::from(*byte)) } else { write!(text, "\\{byte:02X}") };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_has_one_form() {
        for (text, form) in [
            ("0a", "0a"),
            ("A", "0a"),
            ("00:00:0A:ff", "0aff"),
            ("0", "00"),
            ("00:00", "00"),
            ("4001", "4001"),
        ] {
            assert_eq!(text.parse::<Serial>().unwrap().as_str(), form, "{text}");
        }
        assert_eq!(Serial::from_bytes(&[0, 0, 10]).as_str(), "0a");
        for wrong in ["", "xyz", "0x0a", &"0".repeat(41), "../../etc"] {
            assert_eq!(wrong.parse::<Serial>(), Err(SerialError), "{wrong}");
        }
    }

    #[test]
    fn a_name_cannot_pretend_to_be_another() {
        assert_eq!(escape(b"acme"), "acme");
        assert_eq!(escape(b"a, O=b"), "a\\2C O\\3Db");
        assert_eq!(escape(b" a\r\nx-tenant-id: b "), "\\20a\\0D\\0Ax-tenant-id: b\\20");
        assert_eq!(escape("é".as_bytes()), "\\C3\\A9");
    }

    #[test]
    fn bytes_that_are_no_certificate_are_none() {
        for bytes in [&b""[..], b"x", &[0x30, 0x80], &[0x30, 0x03, 0x02, 0x01, 0x01]] {
            assert_eq!(CertificateFacts::read(bytes), None);
        }
    }
}
