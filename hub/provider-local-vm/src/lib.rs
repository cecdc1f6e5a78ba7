//! Machines on this host that boot from an image and run cloud-init with the user data of a node, as one of a cloud
//! would: systemd-nspawn machines where the image is a folder, QEMU guests where it is a disk.
//!
//! A machine is a folder `DIR/machines/KEY/`:
//!
//! ```text
//! machine.json     whose it is, what it was ordered as, its number in the network
//! seed/            user-data and meta-data for cloud-init, mode 0600
//! process          the process that it runs in, since when, written by itself before it becomes the machine
//! seeded, stopped  it was put together for its first boot; it was switched off on purpose
//! console.log      what it printed
//! upper/ work/ root/   nspawn: what it changed of the image; disk.qcow2, qmp: QEMU
//! ```
//!
//! Invariants:
//! - a machine outlives the hub: its process belongs to nobody, and is found again by its number and its begin;
//! - what a machine is and whose stands in its folder before anything of it is made;
//! - one thing at a time happens to a machine; machines do not wait for each other;
//! - of the host's files a machine is given the image alone, read-only; from its first boot on the hub writes nothing into
//!   what the machine can change. Who is root in a machine of systemd-nspawn shares the host's kernel and user ids.

mod cloud;
mod folder;
mod network;
mod nspawn;
mod process;
mod qemu;
mod run;

pub use cloud::{LocalVm, LocalVmConfig, OpenError, offers};
