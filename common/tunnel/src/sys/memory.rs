//! Memory of this process that only its start needed.
//!
//! The C library keeps what was freed for the next one who asks, a part for each thread. And the kernel maps what was
//! read of the program, with the pages around it, for as long as the process lives.

#![expect(unsafe_code, reason = "madvise, mallopt and malloc_trim have no safe wrapper here")]

use std::fs;
use std::io;

/// Parts into which the C library divides memory (arenas, mallopt(3)), for all threads together. Another C library has
/// a way of its own.
pub(crate) fn limit_arenas(count: libc::c_int) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers.
    // It says 0 where it does not take them: then nothing changes.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, count) };
    #[cfg(not(target_env = "gnu"))]
    let _ = count;
}

/// Gives pages back to the kernel that hold nothing but what was freed.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number; it changes nothing that anybody holds.
    // It says whether there was any.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Takes the pages of the program's own file out of this process; those that are used come back, each with a minor fault.
///
/// Pages that differ from the file stay: those with relocated addresses and with variables.
///
/// # Errors
///
/// Those of /proc and of madvise(2); then what is left stays as it is.
pub(crate) fn unmap_program() -> io::Result<()> {
    let program = fs::read_link("/proc/self/exe")?;
    let maps = fs::read_to_string("/proc/self/smaps")?;
    for Mapping { begin, bytes } in unchanged(&maps, &program.to_string_lossy()) {
        let address = std::ptr::with_exposed_provenance_mut(begin);
        // SAFETY: the mapping is one of the program's file, which stays mapped as long as the process lives and cannot be
        // written while it runs. Nobody may write to the mapping, and no page of it was changed: what is read of it after
        // this is what was read before.
        if unsafe { libc::madvise(address, bytes, libc::MADV_DONTNEED) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A part of this process' addresses.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    begin: usize,
    bytes: usize,
}

/// The mappings of a file that nobody may write to and that have no page of their own, neither in memory nor swapped out
/// (proc_pid_smaps(5), where the two lines stand in this order).
fn unchanged(maps: &str, file: &str) -> Vec<Mapping> {
    let mut all = Vec::new();
    let (mut current, mut is_unchanged) = (None, false);
    for line in maps.lines() {
        if let Some(text) = line.strip_prefix("Anonymous:") {
            is_unchanged = text.trim() == "0 kB";
        } else if let Some(text) = line.strip_prefix("Swap:") {
            all.extend(current.take().filter(|_| is_unchanged && text.trim() == "0 kB"));
        } else if line.starts_with(|first: char| first.is_ascii_digit() || matches!(first, 'a'..='f')) {
            (current, is_unchanged) = (mapping(line, file), false);
        }
    }
    all
}

/// Reads the first line of a mapping; `None` where it is not one of the file, or may be written to.
fn mapping(line: &str, file: &str) -> Option<Mapping> {
    let (range, rest) = line.split_once(' ')?;
    let (rights, rest) = rest.split_once(' ')?;
    // Offset, device and inode stand before the path, which may hold spaces.
    let path = rest.splitn(4, ' ').nth(3)?.trim_start();
    let (begin, end) = range.split_once('-')?;
    let [begin, end] = [begin, end].map(|text| usize::from_str_radix(text, 16).ok());
    let begin = begin?;
    let bytes = end?.checked_sub(begin)?;
    (rights.starts_with('r') && rights.ends_with('p') && !rights.contains('w') && path == file)
        .then_some(Mapping { begin, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55bd93d0e000-55bd942a4000 r--p 00000000 fe:00 1310 /usr/bin/an agent
Rss:                2056 kB
Anonymous:             0 kB
AnonHugePages:         0 kB
Swap:                  0 kB
VmFlags: rd mr mw me sd
55bd942a4000-55bd95232000 r-xp 00595000 fe:00 1310 /usr/bin/an agent
Anonymous:             0 kB
Swap:                  0 kB
55bd95232000-55bd95263000 r--p 01523000 fe:00 1310 /usr/bin/an agent
Anonymous:             0 kB
Swap:                196 kB
55bd95263000-55bd952e8000 r--p 01523000 fe:00 1310 /usr/bin/an agent
Anonymous:           532 kB
Swap:                  0 kB
55bd952e8000-55bd952ef000 rw-p 015a7000 fe:00 1310 /usr/bin/an agent
Anonymous:             0 kB
Swap:                  0 kB
55bda7108000-55bda716b000 rw-p 00000000 00:00 0 [heap]
Anonymous:           288 kB
Swap:                  0 kB
7f4cb2c00000-7f4cb2c28000 r--p 00000000 fe:00 99 /usr/lib/libc.so.6
Anonymous:             0 kB
Swap:                  0 kB
7f4cb2c28000-7f4cb2c29000 r--s 00000000 fe:00 1310 /usr/bin/an agent
Anonymous:             0 kB
Swap:                  0 kB
7f4cb2d28000-7f4cb2d29000 ---p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
";

    #[test]
    fn what_was_changed_or_may_be_is_left_alone() {
        let all = unchanged(MAPS, "/usr/bin/an agent");
        let of = |begin, end: usize| Mapping { begin, bytes: end - begin };
        assert_eq!(all, [of(0x55bd93d0e000, 0x55bd942a4000), of(0x55bd942a4000, 0x55bd95232000)]);
        assert_eq!(unchanged(MAPS, "/usr/bin/another"), []);
        assert_eq!(unchanged("", "/usr/bin/an agent"), []);
    }

    fn resident_kib() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    #[test]
    fn the_program_runs_on_without_its_pages_and_with_fewer() {
        limit_arenas(2);
        let before = resident_kib();
        unmap_program().unwrap();
        trim();
        let after = resident_kib();
        assert!(after < before, "{before} KiB before, {after} KiB after");
        // Relocated tables are as they were.
        let text: Box<dyn std::fmt::Display> = Box::new(7);
        assert_eq!(text.to_string(), "7");
    }
}
