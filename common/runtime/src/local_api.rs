//! HTTP over a Unix socket: how commands talk to the running process on the same machine.
//!
//! The socket is 0600, so who may connect is who may read the user's files; there is no other sign-in.
//! Errors of every JSON API have one shape: `{"error":{"code":"not_found","message":"...","hint":"..."}}`.

mod client;
mod lines;
mod server;
mod upgrade;

pub use client::{LocalClient, LocalError};
pub use lines::LocalLines;
pub use server::{bind_private, serve, serve_connection};
pub use upgrade::{LocalStream, PROTOCOL, Upgrade};

#[cfg(test)]
mod tests;
