//! Machines whose overlay ends in a network device of the kernel: who reaches whom, with which rights, and what
//! is left behind.

mod hostile;
mod liar;
mod machine;
pub(crate) mod mesh;
mod packets;
mod rights;
mod traces;
