//! What plugins of clouds share: one HTTP client, where credentials come from, and what of an answer may be logged.
//!
//! Nothing here retries, sleeps or caches: the caller of a [`Provider`](blueprint_hub_provision_core::Provider) does.

mod client;
mod credentials;
mod headers;
mod redact;

pub use client::{HttpClient, HttpConfig, HttpSetupError};
pub use credentials::{
    AWS, AZURE, Chain, CredentialSource, CredentialSpec, CredentialTextError, Credentials, DIGITALOCEAN,
    Environment, Field, FileSource, Fixed, GCP, HETZNER, HIVELOCITY, SCALEWAY, VULTR,
};
pub use headers::{cloud_time, retry_after};
pub use redact::{MAX_LOGGED_BYTES, redacted};
