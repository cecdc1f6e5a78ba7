//! Programs of the agent, by what they run on.

use std::fmt;

use blueprint_common_types::workload::Sha256Digest;

/// Kind of processor that an agent runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentArch {
    /// 64-bit Intel and AMD.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl AgentArch {
    /// Its name, as `uname -m` says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

impl fmt::Display for AgentArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A file is no program that a machine could run as its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// No 64-bit ELF file of little-endian order.
    #[error("it is no program for 64-bit Linux")]
    NotElf,
    /// Made for another kind of processor.
    #[error("it is for a processor that machines are not ordered with (ELF machine {0})")]
    OtherArch(u16),
    /// Ends within its headers.
    #[error("it is cut off")]
    CutOff,
}

/// One program of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentFile {
    /// What it runs on.
    pub arch: AgentArch,
    /// Digest of the whole file.
    pub sha256: Sha256Digest,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whether it needs nothing but the kernel. Another one needs a C library as new as that of its builder.
    pub is_static: bool,
}

/// ELF machine numbers (`elf.h`).
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
/// Type of the program header that names a dynamic loader.
const PT_INTERP: u32 = 3;

impl AgentArch {
    /// Reads from the first bytes of a program what it runs on, and whether it is static. 64 KiB are more than enough.
    ///
    /// # Errors
    ///
    /// [`ElfError`] where no machine could run it.
    pub fn of_elf(head: &[u8]) -> Result<(Self, bool), ElfError> {
        // Magic, 64 bits, little endian.
        if !head.starts_with(b"\x7fELF\x02\x01") {
            return Err(ElfError::NotElf);
        }
        let arch = match number::<2>(head, 18)? {
            value if value == u64::from(EM_X86_64) => Self::X86_64,
            value if value == u64::from(EM_AARCH64) => Self::Aarch64,
            other => return Err(ElfError::OtherArch(u16::try_from(other).unwrap_or(u16::MAX))),
        };
        let (table, size, count) = (number::<8>(head, 32)?, number::<2>(head, 54)?, number::<2>(head, 56)?);
        let mut is_static = true;
        for index in 0..count {
            let at = size.checked_mul(index).and_then(|offset| table.checked_add(offset));
            let at = at.and_then(|at| usize::try_from(at).ok()).ok_or(ElfError::CutOff)?;
            is_static &= number::<4>(head, at)? != u64::from(PT_INTERP);
        }
        Ok((arch, is_static))
    }
}

/// The little-endian number of `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, ElfError> {
    let end = at.checked_add(N).ok_or(ElfError::CutOff)?;
    let taken = bytes.get(at..end).ok_or(ElfError::CutOff)?;
    Ok(taken.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of `arch` with one header of type `kind`.
    fn elf(arch: u16, kind: u32) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64 + 56, 0);
        file[18..20].copy_from_slice(&arch.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&1u16.to_le_bytes());
        file[64..68].copy_from_slice(&kind.to_le_bytes());
        file
    }

    #[test]
    fn processor_and_loader_are_read() {
        assert_eq!(AgentArch::of_elf(&elf(EM_X86_64, PT_INTERP)), Ok((AgentArch::X86_64, false)));
        assert_eq!(AgentArch::of_elf(&elf(EM_AARCH64, 1)), Ok((AgentArch::Aarch64, true)));
    }

    #[test]
    fn what_no_machine_could_run_is_told() {
        assert_eq!(AgentArch::of_elf(b"#!/bin/sh"), Err(ElfError::NotElf));
        assert_eq!(AgentArch::of_elf(&elf(8, 1)), Err(ElfError::OtherArch(8)));
        for length in 6..119 {
            let cut = &elf(EM_X86_64, 1)[..length];
            assert!(matches!(AgentArch::of_elf(cut), Err(ElfError::CutOff)) || length >= 68, "{length}");
        }
        let mut far = elf(EM_X86_64, 1);
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(AgentArch::of_elf(&far), Err(ElfError::CutOff));
    }
}
