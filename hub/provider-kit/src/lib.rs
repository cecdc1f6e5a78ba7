//! What plugins of clouds share: one HTTP client, where credentials come from and what they are changed for, what of an answer may be logged, JSON APIs with
//! a bearer token, tags that are flat texts, what lists of plans mean, which account machines stand in, and
//! what failed before an order.
//!
//! Nothing here retries, sleeps or caches: the caller of a [`Provider`](blueprint_hub_provision_core::Provider) does.

mod client;
mod credentials;
pub mod flat_tags;
mod headers;
mod kept;
pub mod plans;
mod redact;
pub mod rest;
mod standing;
mod tidy;
mod unordered;

pub use client::{HttpClient, HttpConfig, HttpSetupError, Take};
pub use credentials::{
    AWS, AZURE, Chain, CredentialSource, CredentialSpec, CredentialTextError, Credentials, DIGITALOCEAN,
    Environment, Field, FileSource, Fixed, GCP, HETZNER, HIVELOCITY, LINODE, SCALEWAY, VULTR,
};
pub use headers::{cloud_time, retry_after};
pub use kept::Kept;
pub use redact::{MAX_LOGGED_BYTES, redacted};
pub use standing::{HasAccount, Standing};
pub use tidy::nothing_stands;
pub use unordered::unordered;
