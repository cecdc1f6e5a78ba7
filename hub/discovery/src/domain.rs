//! The domain below which the names are.

use std::str::FromStr;

use hickory_proto::rr::Name;

/// Longest domain in bytes; what stands before it has room then.
const MAX_BYTES: usize = 100;

/// A domain of two or more labels of `a-z`, `0-9` and `-`, at most 100 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain(Name);

impl Domain {
    pub(crate) fn into_name(self) -> Name {
        self.0
    }
}

/// Why a text is no domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainError(&'static str);

impl std::fmt::Display for DomainError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for DomainError {}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        if text.len() > MAX_BYTES {
            return Err(DomainError("a domain has at most 100 characters here"));
        }
        let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_label = |label: &str| {
            label.starts_with(is_inner)
                && label.ends_with(is_inner)
                && label.chars().all(|c| is_inner(c) || c == '-')
        };
        let needed = DomainError("a domain has two or more labels of a-z, 0-9 and '-', such as bp.internal");
        if text.split('.').count() < 2 || !text.split('.').all(is_label) {
            return Err(needed);
        }
        let mut name = Name::from_ascii(text).map_err(|_| needed)?;
        name.set_fqdn(true);
        Ok(Self(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_host_name_with_a_dot() {
        let label = "a".repeat(64);
        for bad in
            ["", "internal", "bp..internal", "-a.b", "a-.b", "A.b", "a b.c", ".bp.internal", "bp.internal."]
        {
            assert!(bad.parse::<Domain>().is_err(), "{bad:?}");
        }
        assert!(format!("{label}.b").parse::<Domain>().is_err(), "a label has at most 63 characters");
        assert!(format!("{}.b", "a.".repeat(50)).parse::<Domain>().is_err());
        assert!("mesh.example.com".parse::<Domain>().is_ok());
    }
}
