//! Rules of a service: which paths, methods, sources and scopes pass.
//!
//! Judged on the canonical request, so on the very path that is forwarded. The first rule whose
//! conditions all fit decides; where a service has rules and none fits, the request is refused.

use std::net::IpAddr;

use http::Method;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::canonical::CanonicalRequest;
use crate::path;

/// Most entries of each list of a rule.
const MAX_ENTRIES: usize = 64;

/// What a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The request passes.
    Allow,
    /// It does not.
    Deny,
}

/// One rule; an empty list is no condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What happens where every condition fits.
    pub action: Verdict,
    /// Paths: exact, or with `/*` at the end the path before it and everything below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Methods, in capitals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Where the connection comes from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<IpNetwork>,
    /// Scopes of the identity, of which one is enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// A pattern is no path, or not in its normal form.
    #[error("{pattern:?} is no path in its normal form, such as /v1/jobs or /v1/*")]
    Path {
        /// The pattern.
        pattern: String,
    },
    /// Not a method in capitals.
    #[error("{method:?} is no method in capitals")]
    Method {
        /// The text.
        method: String,
    },
    /// A list is too long.
    #[error("a list has more than {MAX_ENTRIES} entries")]
    TooLong,
}

impl Rule {
    pub(crate) fn check(&self) -> Result<(), RuleError> {
        let lengths = [self.paths.len(), self.methods.len(), self.sources.len(), self.scopes.len()];
        if lengths.iter().any(|length| *length > MAX_ENTRIES) {
            return Err(RuleError::TooLong);
        }
        for pattern in &self.paths {
            let plain = pattern.strip_suffix('*').unwrap_or(pattern);
            let is_prefix_whole = plain.len() == pattern.len() || plain.ends_with('/');
            if !is_prefix_whole || path::normalise(plain).as_deref() != Ok(plain) {
                return Err(RuleError::Path { pattern: pattern.clone() });
            }
        }
        for method in &self.methods {
            let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
            if !is_method || Method::from_bytes(method.as_bytes()).is_err() {
                return Err(RuleError::Method { method: method.clone() });
            }
        }
        Ok(())
    }

    fn fits(&self, request: &CanonicalRequest, scopes: &[String]) -> bool {
        let path_fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => {
                request.path().starts_with(start) || start.strip_suffix('/') == Some(request.path())
            }
            None => request.path() == pattern,
        };
        let source: IpAddr = request.source().to_canonical();
        (self.paths.is_empty() || self.paths.iter().any(path_fits))
            && (self.methods.is_empty()
                || self.methods.iter().any(|method| request.method() == method.as_str()))
            && (self.sources.is_empty() || self.sources.iter().any(|network| network.contains(source)))
            && (self.scopes.is_empty() || self.scopes.iter().any(|scope| scopes.contains(scope)))
    }
}

/// Whether the rules let the request pass.
pub(crate) fn admit(rules: &[Rule], request: &CanonicalRequest, scopes: &[String]) -> bool {
    let decided = rules.iter().find(|rule| rule.fits(request, scopes));
    decided.map_or(rules.is_empty(), |rule| rule.action == Verdict::Allow)
}
