//! Whether a file is a program, and whether this machine can run it: told by its first bytes.

use std::fmt;

/// First bytes of a file that [`Program::identify`] needs at most.
pub const HEAD_BYTES: usize = 256;

/// What the first bytes of a file make of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A program of Linux.
    Elf(Elf),
    /// A script with the path of its interpreter.
    Script {
        /// Absolute path, as it stands there.
        interpreter: String,
    },
    /// A program of another system.
    Foreign(&'static str),
}

impl Program {
    /// Tells a program by the first bytes of its file; `None` where it is none.
    #[must_use]
    pub fn identify(head: &[u8]) -> Option<Self> {
        if head.starts_with(b"\x7fELF") {
            return Elf::parse(head).map(Self::Elf);
        }
        if let Some(line) = head.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let line = std::str::from_utf8(line).ok()?;
            let interpreter = line.split_ascii_whitespace().next().filter(|path| path.starts_with('/'))?;
            return Some(Self::Script { interpreter: interpreter.to_owned() });
        }
        match head.first_chunk::<4>()? {
            [0xcf | 0xce, 0xfa, 0xed, 0xfe] => Some(Self::Foreign("macOS")),
            [b'M', b'Z', _, _] => Some(Self::Foreign("Windows")),
            _ => None,
        }
    }
}

/// What the header of an ELF file says of where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elf {
    bits: u8,
    is_big_endian: bool,
    machine: u16,
}

impl Elf {
    /// Reads the header of a program; `None` for libraries' objects, core dumps and what is cut off.
    fn parse(head: &[u8]) -> Option<Self> {
        let bits = match head.get(4)? {
            1 => 32,
            2 => 64,
            _ => return None,
        };
        let is_big_endian = match head.get(5)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let number = |at: usize| {
            let bytes: [u8; 2] = head.get(at..at.saturating_add(2))?.try_into().ok()?;
            Some(if is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
        };
        // ET_EXEC and ET_DYN; a program that can lie anywhere is the latter, as libraries are.
        matches!(number(16)?, 2 | 3).then_some(())?;
        Some(Self { bits, is_big_endian, machine: number(18)? })
    }

    /// Whether it runs on a machine of this architecture, in the spelling of [`std::env::consts::ARCH`]; of an
    /// architecture nobody knows here it is believed.
    #[must_use]
    pub fn runs_on(self, architecture: &str) -> bool {
        let known = ARCHITECTURES.iter().find(|(name, _)| *name == architecture);
        known.is_none_or(|(_, elf)| *elf == self)
    }
}

/// Architectures that Rust builds for, and what their programs say.
const ARCHITECTURES: [(&str, Elf); 8] = [
    ("x86_64", Elf { bits: 64, is_big_endian: false, machine: 62 }),
    ("aarch64", Elf { bits: 64, is_big_endian: false, machine: 183 }),
    ("x86", Elf { bits: 32, is_big_endian: false, machine: 3 }),
    ("arm", Elf { bits: 32, is_big_endian: false, machine: 40 }),
    ("riscv64", Elf { bits: 64, is_big_endian: false, machine: 243 }),
    ("powerpc64", Elf { bits: 64, is_big_endian: cfg!(target_endian = "big"), machine: 21 }),
    ("s390x", Elf { bits: 64, is_big_endian: true, machine: 22 }),
    ("loongarch64", Elf { bits: 64, is_big_endian: false, machine: 258 }),
];

impl fmt::Display for Elf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ARCHITECTURES.iter().find(|(_, elf)| elf == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "machine {} with {} bits", self.machine, self.bits),
        }
    }
}

/// Whether a file is named as a library, which is no program though it may carry a run bit.
#[must_use]
pub fn is_library(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.ends_with(".so") || name.contains(".so.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(bits: u8, order: u8, kind: u8, machine: u8) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..4].copy_from_slice(b"\x7fELF");
        head[4] = bits;
        head[5] = order;
        let at = if order == 2 { 1 } else { 0 };
        head[16 + at] = kind;
        head[18 + at] = machine;
        head
    }

    #[test]
    fn a_program_says_where_it_runs() {
        let on = |head: &[u8], machine| match Program::identify(head) {
            Some(Program::Elf(elf)) => (elf.runs_on(machine), elf.to_string()),
            other => panic!("{other:?}"),
        };
        assert_eq!(on(&elf(2, 1, 3, 62), "x86_64"), (true, "x86_64".to_owned()));
        assert_eq!(on(&elf(2, 1, 2, 183), "x86_64"), (false, "aarch64".to_owned()));
        assert_eq!(on(&elf(1, 1, 2, 62), "x86_64"), (false, "machine 62 with 32 bits".to_owned()));
        assert_eq!(on(&elf(2, 2, 2, 22), "s390x"), (true, "s390x".to_owned()));
        assert_eq!(on(&elf(2, 1, 2, 200), "vax"), (true, "machine 200 with 64 bits".to_owned()));
    }

    #[test]
    fn scripts_and_strangers_are_told_apart() {
        let script = |text: &str| Program::identify(text.as_bytes());
        let shell = Some(Program::Script { interpreter: "/bin/sh".to_owned() });
        assert_eq!(script("#!/bin/sh\necho"), shell);
        assert_eq!(script("#! /bin/sh -e\n"), shell);
        assert_eq!(script("#!/bin/sh"), shell);
        assert_eq!(script("#!sh\n"), None);
        assert_eq!(script("#!\n/bin/sh"), None);
        assert_eq!(script("MZ\0\0"), Some(Program::Foreign("Windows")));
        assert_eq!(Program::identify(&[0xcf, 0xfa, 0xed, 0xfe, 7]), Some(Program::Foreign("macOS")));
        for other in [&b""[..], b"\x7fELF", b"#", b"hello world", &elf(2, 1, 1, 62), &elf(2, 1, 4, 62)] {
            assert_eq!(Program::identify(other), None, "{other:?}");
        }
    }

    #[test]
    fn libraries_are_known_by_their_names() {
        assert!(is_library("lib/libx.so") && is_library("libx.so.1.2"));
        assert!(!is_library("bin/solo") && !is_library("so.d/program"));
    }
}
