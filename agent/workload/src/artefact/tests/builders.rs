//! Archives made by hand, so that they can hold what no program packs.

use std::io::Write;

use flate2::write::{DeflateEncoder, GzEncoder};
use flate2::{Compression, Crc};

/// An entry of a tar archive.
pub(super) struct Tar<'a> {
    pub(super) name: &'a str,
    pub(super) flag: u8,
    pub(super) mode: u32,
    pub(super) data: &'a [u8],
}

impl<'a> Tar<'a> {
    /// A file that may be run.
    pub(super) const fn program(name: &'a str, data: &'a [u8]) -> Self {
        Self { name, flag: b'0', mode: 0o755, data }
    }

    pub(super) const fn special(name: &'a str, flag: u8) -> Self {
        Self { name, flag, mode: 0o755, data: b"" }
    }
}

/// A tar archive with its end.
pub(super) fn tar(entries: &[Tar<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        let mut block = [0u8; 512];
        block[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        block[100..107].copy_from_slice(format!("{:07o}", entry.mode).as_bytes());
        block[124..135].copy_from_slice(format!("{:011o}", entry.data.len()).as_bytes());
        block[148..156].fill(b' ');
        block[156] = entry.flag;
        if matches!(entry.flag, b'1' | b'2') {
            block[157..168].copy_from_slice(b"/etc/passwd");
        }
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend(block);
        archive.extend(entry.data);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.extend([0; 1024]);
    archive
}

pub(super) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// An entry of a zip archive.
pub(super) struct Zip<'a> {
    pub(super) name: &'a str,
    /// What the header before the data calls it.
    pub(super) header_name: &'a str,
    /// Mode of Unix; none where it was packed elsewhere.
    pub(super) mode: Option<u32>,
    pub(super) is_deflated: bool,
    pub(super) data: &'a [u8],
    /// Changes the size that is named.
    pub(super) named_size: Option<u32>,
}

impl<'a> Zip<'a> {
    /// A file that may be run.
    pub(super) const fn program(name: &'a str, data: &'a [u8]) -> Self {
        let mode = Some(0o100_755);
        Self { name, header_name: name, mode, is_deflated: true, data, named_size: None }
    }
}

/// A zip archive.
pub(super) fn zip(entries: &[Zip<'_>]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let packed = if entry.is_deflated {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(entry.data).unwrap();
            encoder.finish().unwrap()
        } else {
            entry.data.to_vec()
        };
        let mut crc = Crc::new();
        crc.update(entry.data);
        let u16s = |values: &[u16]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        let u32s = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        let size = entry.named_size.unwrap_or(u32::try_from(entry.data.len()).unwrap());
        let sizes = u32s(&[crc.sum(), u32::try_from(packed.len()).unwrap(), size]);
        let offset = u32::try_from(archive.len()).unwrap();
        let method = if entry.is_deflated { 8 } else { 0 };
        let length = |name: &str| u16::try_from(name.len()).unwrap();

        archive.extend(u32s(&[0x0403_4b50]));
        archive.extend(u16s(&[20, 0, method, 0, 0]));
        archive.extend(&sizes);
        archive.extend(u16s(&[length(entry.header_name), 0]));
        archive.extend(entry.header_name.as_bytes());
        archive.extend(packed);

        let system = if entry.mode.is_some() { 3 << 8 } else { 0 };
        directory.extend(u32s(&[0x0201_4b50]));
        directory.extend(u16s(&[system | 20, 20, 0, method, 0, 0]));
        directory.extend(&sizes);
        directory.extend(u16s(&[length(entry.name), 0, 0, 0, 0]));
        directory.extend(u32s(&[entry.mode.unwrap_or_default() << 16, offset]));
        directory.extend(entry.name.as_bytes());
    }
    let (count, offset) = (u16::try_from(entries.len()).unwrap(), u32::try_from(archive.len()).unwrap());
    let bytes = u32::try_from(directory.len()).unwrap();
    archive.extend(directory);
    archive.extend(0x0605_4b50u32.to_le_bytes());
    archive.extend([0, 0, count, count].iter().flat_map(|value| value.to_le_bytes()));
    archive.extend([bytes, offset].iter().flat_map(|value| value.to_le_bytes()));
    archive.extend([0, 0]);
    archive
}
