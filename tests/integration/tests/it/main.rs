//! The real programs against each other: on this machine, and on hosts of a lab.
#![expect(clippy::panic, reason = "helpers of tests stand outside test functions")]

mod acme;
mod aws;
mod bootstrap;
mod canaries;
mod client;
mod comes_back;
mod containers;
mod dev;
mod digitalocean;
mod expose;
mod first_machine;
mod fixed_address;
mod fixture;
mod flood;
mod foreign_peer;
mod interop;
mod launcher;
mod load;
mod local_vm;
mod nothing_lost;
mod observed;
mod offers;
mod owners;
mod ping;
mod policy;
mod provision;
mod raw;
mod refusals;
mod revoke;
mod say;
mod seen;
mod tls;
mod tun;
mod under_attack;
mod workloads;
