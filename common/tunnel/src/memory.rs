//! Giving back memory that a process does not need at rest.

use std::io;

use crate::sys::memory;

/// Parts of the C library's memory that an agent's threads share. Packets use none of it; two let a stream go on while
/// another one allocates. One for each thread holds a megabyte of freed memory on the average (five workloads, 2026-11).
const ARENAS: i32 = 2;

/// Has the threads of this process share memory; to be called before there is a second one.
pub fn share_memory() {
    memory::limit_arenas(ARENAS);
}

/// Gives back what was freed, and the pages of the program that are not used any more; those that are come back from the
/// page cache. For a moment at which something large has ended: it takes about a millisecond, and the next steps a
/// microsecond for each page that they read.
///
/// # Errors
///
/// Those of /proc and of madvise(2); the process goes on as it is.
pub fn give_back_memory() -> io::Result<()> {
    memory::trim();
    memory::unmap_program()
}
