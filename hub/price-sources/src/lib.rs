//! Price lists that providers give to anybody: no account, no key.
//!
//! Each source asks one provider over HTTPS and makes offers of what it says; what of them is believed decides
//! [`sift`](blueprint_hub_provision_core::catalogue::sift). Nothing here retries, sleeps or keeps anything. A list that is
//! not whole is an error: half of one would say that the rest is not sold.

mod aws;
mod azure;
mod fetch;
mod linode;
mod scaleway;
#[cfg(test)]
mod served;
mod vultr;

pub use aws::Aws;
pub use azure::Azure;
pub use linode::Linode;
pub use scaleway::Scaleway;
pub use vultr::Vultr;
