//! Where a workload's program comes from. The kinds have the names that blueprints use on the chain.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Volume, VolumeError};

/// A text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a digest: 64 hexadecimal digits were expected")]
pub struct ParseDigestError(String);

/// Declares a digest of 32 bytes with its text form.
macro_rules! digest {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            /// From its bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<Self, ParseDigestError> {
                parse_hex(text).map(Self).ok_or_else(|| ParseDigestError(text.chars().take(80).collect()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseDigestError;

            fn try_from(text: String) -> Result<Self, ParseDigestError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(digest: $name) -> Self {
                digest.to_string()
            }
        }
    };
}

digest! {
    /// SHA-256 of an artefact or of an image's manifest. Text form: 64 hexadecimal digits.
    Sha256Digest
}
digest! {
    /// BLAKE3 of an artefact. Text form: 64 hexadecimal digits.
    Blake3Digest
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let pair =
            std::str::from_utf8(pair).ok().filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

/// URL of what was pushed to the hub; its digest says what it is.
pub const HUB_URL: &str = "hub://";

/// Where a workload's program comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A program, or an archive with one, by URL.
    Native {
        /// `https://`, `http://`, `ipfs://CID/PATH`, `github://OWNER/REPOSITORY/TAG/FILE`, or `hub://` for what was
        /// pushed to the hub.
        url: String,
        /// What the file has to be.
        sha256: Sha256Digest,
        /// What it has to be by another function, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blake3: Option<Blake3Digest>,
        /// Path of the program within an archive; empty where the archive has one program only, or is none.
        #[serde(default)]
        binary: String,
    },
    /// An image for a container engine.
    Container {
        /// `REGISTRY/REPOSITORY`, without a tag.
        image: String,
        /// Digest of the manifest.
        digest: Sha256Digest,
        /// Ports inside that the node reaches, TCP.
        #[serde(default)]
        ports: Vec<u16>,
        /// Folders that it keeps beside its data. Left out where there are none, so that older agents read the document,
        /// too.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        volumes: Vec<Volume>,
    },
    /// A program that is on the node already; for development.
    Testing {
        /// Absolute path.
        path: String,
    },
    /// A module that no agent runs; its name is known so that the refusal can say so.
    Wasm {},
}

/// What is wrong with a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Not a URL of an artefact.
    #[error(
        "url {0:?} is not https://, http://, ipfs://CID/PATH, github://OWNER/REPOSITORY/TAG/FILE or hub://"
    )]
    Url(String),
    /// It leads out of the archive.
    #[error("binary {0:?} is not a relative path without '..'")]
    Binary(String),
    /// Not an image.
    #[error("image {0:?} is not REGISTRY/REPOSITORY in lower case; a tag is no identity, give the digest")]
    Image(String),
    /// Not a volume.
    #[error("volumes: {0}")]
    Volume(#[from] VolumeError),
    /// Not an absolute path.
    #[error("path {0:?} is not an absolute path without '..'")]
    Path(String),
    /// Not supported.
    #[error("WebAssembly blueprints cannot be run by this agent; take a native or container source")]
    Wasm,
}

impl Source {
    /// Its kind in status, metrics and logs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Native { .. } => "native",
            Self::Container { .. } => "container",
            Self::Testing { .. } => "testing",
            Self::Wasm {} => "wasm",
        }
    }

    /// Digest of what it takes from the hub; `None` where it comes from elsewhere.
    #[must_use]
    pub fn pushed(&self) -> Option<&Sha256Digest> {
        match self {
            Self::Native { url, sha256, .. } if url == HUB_URL => Some(sha256),
            Self::Native { .. } | Self::Container { .. } | Self::Testing { .. } | Self::Wasm {} => None,
        }
    }

    /// Folders that it keeps beside its data; containers alone have some.
    #[must_use]
    pub fn volumes(&self) -> &[Volume] {
        match self {
            Self::Container { volumes, .. } => volumes,
            Self::Native { .. } | Self::Testing { .. } | Self::Wasm {} => &[],
        }
    }

    /// Checks everything that can be told without fetching it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SourceError> {
        let cut = |text: &str| text.chars().take(120).collect::<String>();
        match self {
            Self::Native { url, binary, .. } => {
                if !is_artefact_url(url) {
                    return Err(SourceError::Url(cut(url)));
                }
                if !binary.is_empty() && !is_inner_path(binary) {
                    return Err(SourceError::Binary(cut(binary)));
                }
                Ok(())
            }
            Self::Container { image, volumes, .. } if is_image(image) => Ok(super::volume::check(volumes)?),
            Self::Container { image, .. } => Err(SourceError::Image(cut(image))),
            Self::Testing { path } => match path.strip_prefix('/') {
                Some(inner) if is_inner_path(inner) => Ok(()),
                Some(_) | None => Err(SourceError::Path(cut(path))),
            },
            Self::Wasm {} => Err(SourceError::Wasm),
        }
    }
}

/// A relative path that stays where it starts.
fn is_inner_path(path: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.len() <= 1024 && !path.contains(['\0', '\\']) && path.split('/').all(is_part)
}

fn is_artefact_url(url: &str) -> bool {
    if url.len() > 2048 || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return false;
    }
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let parts = rest.split('/').filter(|part| !part.is_empty()).count();
    match scheme {
        "https" | "http" => !rest.is_empty() && !rest.starts_with('/'),
        "ipfs" => parts >= 1 && is_inner_path(rest),
        "github" => parts == 4 && is_inner_path(rest),
        "hub" => rest.is_empty(),
        _ => false,
    }
}

fn is_image(image: &str) -> bool {
    let is_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_/:".contains(c);
    // A colon belongs to the port of a registry, so a '/' comes behind it; behind the last '/' it is a tag.
    let last = image.rsplit('/').next().unwrap_or_default();
    !image.is_empty()
        && image.len() <= 255
        && image.chars().all(is_char)
        && is_inner_path(image)
        && !last.contains(':')
}
