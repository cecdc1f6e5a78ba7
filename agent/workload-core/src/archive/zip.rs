//! The layout of zip (PKWARE's APPNOTE 6.3, ZIP64 included), as far as programs are packed with it.
//!
//! The directory at the end says what is there; the header before each entry has to name the same. Several volumes,
//! encryption and methods other than "stored" and "deflated" are refused.

use super::EntryKind;

/// The directory's end lies in so many last bytes of the file: 22, a comment, and the locator of ZIP64.
pub const TAIL_BYTES: u64 = 22 + 65_535 + 20;

/// Bytes of the end of the directory as ZIP64 has it.
pub const END64_BYTES: usize = 56;

/// Bytes of an entry of the directory, before its name.
pub const ENTRY_BYTES: usize = 46;

/// Bytes of the header of an entry, before its name.
pub const LOCAL_BYTES: usize = 30;

/// Why something is no zip archive that is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ZipError {
    /// No directory.
    #[error("the zip archive has no directory at its end; it may be cut off")]
    NoEnd,
    /// Parts of it do not fit together.
    #[error("the directory of the zip archive is damaged")]
    Directory,
    /// It has several volumes.
    #[error("the zip archive has several volumes; pack it as one")]
    Volumes,
    /// An entry is encrypted.
    #[error("an entry of the zip archive is encrypted; pack it without a password")]
    Encrypted,
    /// An entry is compressed in another way.
    #[error("an entry of the zip archive is compressed by method {0}; pack it with deflate")]
    Method(u16),
    /// Directory, header and data do not fit together.
    #[error("an entry of the zip archive is damaged, or has two names or sizes; pack it again")]
    Header,
}

/// Where the directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    /// Offset of its first entry.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Its entries.
    pub entries: u64,
}

/// What the last bytes of a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The directory is there.
    Here(Directory),
    /// [`END64_BYTES`] bytes at this offset say where the directory is: [`Directory::parse64`].
    At(u64),
}

impl End {
    /// Finds the end of the directory in the last bytes of a file, [`TAIL_BYTES`] of them or all.
    ///
    /// # Errors
    ///
    /// Fails where there is none whose comment ends with the file.
    pub fn find(tail: &[u8]) -> Result<Self, ZipError> {
        let last = tail.len().checked_sub(22).ok_or(ZipError::NoEnd)?;
        let is_end = |at: &usize| {
            let comment = read16(tail, at.saturating_add(20)).map(usize::from);
            let end = comment.map(|comment| at.saturating_add(22).saturating_add(comment));
            read32(tail, *at) == Some(0x0605_4b50) && end == Some(tail.len())
        };
        let at = (0..=last).rev().find(is_end).ok_or(ZipError::NoEnd)?;
        let end = tail.get(at..).unwrap_or_default();
        let locator = at.checked_sub(20).and_then(|from| tail.get(from..at));
        if let Some(locator) = locator.filter(|locator| read32(locator, 0) == Some(0x0706_4b50)) {
            return read64(locator, 8).map(Self::At).ok_or(ZipError::Directory);
        }
        let field = |at| read16(end, at).ok_or(ZipError::Directory);
        let (disk, first, here, entries) = (field(4)?, field(6)?, field(8)?, field(10)?);
        if disk != 0 || first != 0 || here != entries {
            return Err(ZipError::Volumes);
        }
        Ok(Self::Here(Directory {
            offset: u64::from(read32(end, 16).ok_or(ZipError::Directory)?),
            bytes: u64::from(read32(end, 12).ok_or(ZipError::Directory)?),
            entries: u64::from(entries),
        }))
    }
}

impl Directory {
    /// Reads the end of the directory as ZIP64 has it.
    ///
    /// # Errors
    ///
    /// Fails where it is none.
    pub fn parse64(end: &[u8; END64_BYTES]) -> Result<Self, ZipError> {
        let (here, entries) = (read64(end, 24), read64(end, 32));
        if read32(end, 0) != Some(0x0606_4b50) {
            return Err(ZipError::Directory);
        }
        if read32(end, 16) != Some(0) || read32(end, 20) != Some(0) || here != entries {
            return Err(ZipError::Volumes);
        }
        match (read64(end, 48), read64(end, 40), entries) {
            (Some(offset), Some(bytes), Some(entries)) => Ok(Self { offset, bytes, entries }),
            (None, _, _) | (_, None, _) | (_, _, None) => Err(ZipError::Directory),
        }
    }
}

/// How an entry is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZipMethod {
    /// Not at all.
    Stored,
    /// By deflate.
    Deflated,
}

/// One entry of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZipEntry {
    /// The path, as it stands there.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, where it was packed on a system that has them.
    pub mode: Option<u32>,
    /// How it is compressed.
    pub method: ZipMethod,
    /// CRC-32 of what comes out.
    pub crc: u32,
    /// Bytes in the archive.
    pub packed: u64,
    /// Bytes that come out.
    pub size: u64,
    /// Offset of its own header.
    pub header: u64,
}

impl ZipEntry {
    /// Bytes of name, extra fields and comment behind the fixed part of an entry of the directory.
    #[must_use]
    pub fn lengths(fixed: &[u8; ENTRY_BYTES]) -> [usize; 3] {
        [28, 30, 32].map(|at| read16(fixed, at).map(usize::from).unwrap_or_default())
    }

    /// Reads an entry of the directory: its fixed part, its name, its extra fields.
    ///
    /// # Errors
    ///
    /// Fails where it is none, or not understood.
    pub fn parse(fixed: &[u8; ENTRY_BYTES], name: &[u8], extra: &[u8]) -> Result<Self, ZipError> {
        let short = |at| read16(fixed, at).ok_or(ZipError::Directory);
        let long = |at| read32(fixed, at).ok_or(ZipError::Directory);
        if long(0)? != 0x0201_4b50 {
            return Err(ZipError::Directory);
        }
        // Bit 0: encrypted; bit 6: strongly; bit 13: the directory itself.
        if short(8)? & 0b0010_0000_0100_0001 != 0 {
            return Err(ZipError::Encrypted);
        }
        let method = match short(10)? {
            0 => ZipMethod::Stored,
            8 => ZipMethod::Deflated,
            other => return Err(ZipError::Method(other)),
        };
        let [mut size, mut packed, mut header] = [long(24)?, long(20)?, long(42)?].map(u64::from);
        if [size, packed, header].contains(&u64::from(u32::MAX)) {
            let mut large = zip64_fields(extra);
            for value in [&mut size, &mut packed, &mut header] {
                if *value == u64::from(u32::MAX) {
                    *value = large.next().ok_or(ZipError::Directory)?;
                }
            }
        }
        if method == ZipMethod::Stored && size != packed {
            return Err(ZipError::Directory);
        }
        // The upper byte says on which system it was packed: 3 is Unix, 19 is macOS.
        let is_unix = matches!(short(4)? >> 8, 3 | 19);
        let mode = Some(long(38)? >> 16).filter(|mode| is_unix && *mode != 0);
        let kind = kind(name, mode);
        Ok(Self { name: name.to_vec(), kind, mode, method, crc: long(16)?, packed, size, header })
    }

    /// Checks the header before the entry, and says how many bytes of name and extra fields follow its fixed part.
    ///
    /// # Errors
    ///
    /// Fails where it is none, or of another entry.
    pub fn local_lengths(&self, fixed: &[u8; LOCAL_BYTES]) -> Result<[usize; 2], ZipError> {
        let name = read16(fixed, 26).map(usize::from);
        let extra = read16(fixed, 28).map(usize::from);
        match (read32(fixed, 0), name, extra) {
            (Some(0x0403_4b50), Some(name), Some(extra)) if name == self.name.len() => Ok([name, extra]),
            (_, _, _) => Err(ZipError::Header),
        }
    }
}

fn kind(name: &[u8], mode: Option<u32>) -> EntryKind {
    match mode.map(|mode| mode & 0o170_000) {
        Some(0o040_000) => EntryKind::Folder,
        Some(0o120_000) => EntryKind::SymbolicLink,
        Some(0o020_000 | 0o060_000) => EntryKind::Device,
        Some(0o010_000) => EntryKind::Fifo,
        None | Some(0 | 0o100_000) if name.ends_with(b"/") => EntryKind::Folder,
        None | Some(0 | 0o100_000) => EntryKind::File,
        Some(other) => EntryKind::Other(other),
    }
}

/// The numbers of the extra field of ZIP64, in their order.
fn zip64_fields(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut found: &[u8] = &[];
    while let (Some(id), Some(length)) = (read16(extra, 0), read16(extra, 2)) {
        let end = usize::from(length).saturating_add(4);
        let data = extra.get(4..end).unwrap_or_default();
        if id == 1 {
            found = data;
            break;
        }
        extra = extra.get(end..).unwrap_or_default();
    }
    found.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn read16(from: &[u8], at: usize) -> Option<u16> {
    bytes(from, at).map(u16::from_le_bytes)
}

fn read32(from: &[u8], at: usize) -> Option<u32> {
    bytes(from, at).map(u32::from_le_bytes)
}

fn read64(from: &[u8], at: usize) -> Option<u64> {
    bytes(from, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(comment: &[u8], fields: [u16; 4]) -> Vec<u8> {
        let mut end = 0x0605_4b50u32.to_le_bytes().to_vec();
        end.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        end.extend([46u32, 100].iter().flat_map(|field| field.to_le_bytes()));
        end.extend(u16::try_from(comment.len()).unwrap().to_le_bytes());
        end.extend(comment);
        end
    }

    fn entry(change: impl Fn(&mut [u8; ENTRY_BYTES])) -> [u8; ENTRY_BYTES] {
        let mut fixed = [0; ENTRY_BYTES];
        fixed[..4].copy_from_slice(&0x0201_4b50u32.to_le_bytes());
        fixed[5] = 3;
        fixed[20] = 7;
        fixed[24] = 7;
        fixed[38..42].copy_from_slice(&(0o100_755u32 << 16).to_le_bytes());
        change(&mut fixed);
        fixed
    }

    #[test]
    fn the_end_is_found_behind_anything_and_before_a_comment() {
        let directory = Directory { offset: 100, bytes: 46, entries: 1 };
        for comment in [&b""[..], b"PK\x05\x06", b"a comment"] {
            let file = [&b"whatever"[..], &end(comment, [0, 0, 1, 1])].concat();
            assert_eq!(End::find(&file), Ok(End::Here(directory)), "{comment:?}");
        }
        assert_eq!(End::find(&end(b"", [0, 0, 1, 2])), Err(ZipError::Volumes));
        assert_eq!(End::find(&end(b"", [1, 0, 1, 1])), Err(ZipError::Volumes));
        assert_eq!(End::find(b"PK\x05\x06"), Err(ZipError::NoEnd));
        let mut cut = end(b"comment", [0, 0, 1, 1]);
        cut.pop();
        assert_eq!(End::find(&cut), Err(ZipError::NoEnd));
    }

    #[test]
    fn zip64_says_where_else_to_look() {
        let mut file = 0x0706_4b50u32.to_le_bytes().to_vec();
        file.extend([0; 4]);
        file.extend(0x1_0000_0000u64.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(end(b"", [0, 0, 0xffff, 0xffff]));
        assert_eq!(End::find(&file), Ok(End::At(0x1_0000_0000)));
        let mut end64 = [0; END64_BYTES];
        end64[..4].copy_from_slice(&0x0606_4b50u32.to_le_bytes());
        end64[24] = 2;
        end64[32] = 2;
        end64[40] = 92;
        end64[53] = 1;
        let directory = Directory { offset: 1 << 40, bytes: 92, entries: 2 };
        assert_eq!(Directory::parse64(&end64), Ok(directory));
        end64[32] = 3;
        assert_eq!(Directory::parse64(&end64), Err(ZipError::Volumes));
    }

    #[test]
    fn an_entry_is_read_with_its_mode_and_its_large_numbers() {
        let plain = ZipEntry::parse(&entry(|_| {}), b"bin/x", b"").unwrap();
        assert_eq!((plain.kind, plain.mode, plain.size), (EntryKind::File, Some(0o100_755), 7));
        let large = entry(|fixed| {
            fixed[10] = 8;
            fixed[24..28].fill(0xff);
            fixed[42..46].fill(0xff);
        });
        let mut extra = vec![9, 0, 2, 0, 1, 1, 1, 0, 16, 0];
        extra.extend(5_000_000_000u64.to_le_bytes());
        extra.extend(6_000_000_000u64.to_le_bytes());
        let large = ZipEntry::parse(&large, b"x", &extra).unwrap();
        assert_eq!((large.size, large.packed, large.header), (5_000_000_000, 7, 6_000_000_000));
        let missing = entry(|fixed| fixed[42..46].fill(0xff));
        assert_eq!(ZipEntry::parse(&missing, b"x", b""), Err(ZipError::Directory));
    }

    #[test]
    fn kinds_follow_the_mode_and_else_the_name() {
        let kind = |mode: u32, system: u8, name: &[u8]| {
            let fixed = entry(|fixed| {
                fixed[5] = system;
                fixed[38..42].copy_from_slice(&(mode << 16).to_le_bytes());
            });
            ZipEntry::parse(&fixed, name, b"").unwrap().kind
        };
        assert_eq!(kind(0o120_777, 3, b"x"), EntryKind::SymbolicLink);
        assert_eq!(kind(0o120_777, 0, b"x"), EntryKind::File, "the bits mean nothing elsewhere");
        assert_eq!(kind(0o040_755, 3, b"x/"), EntryKind::Folder);
        assert_eq!(kind(0, 3, b"x/"), EntryKind::Folder);
        assert_eq!(kind(0o020_600, 3, b"x"), EntryKind::Device);
        assert_eq!(kind(0o010_600, 3, b"x"), EntryKind::Fifo);
        assert_eq!(kind(0o140_600, 3, b"x"), EntryKind::Other(0o140_000));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let parse = |change: fn(&mut [u8; ENTRY_BYTES])| ZipEntry::parse(&entry(change), b"x", b"");
        assert_eq!(parse(|fixed| fixed[8] = 1), Err(ZipError::Encrypted));
        assert_eq!(parse(|fixed| fixed[10] = 14), Err(ZipError::Method(14)));
        assert_eq!(parse(|fixed| fixed[0] = 0), Err(ZipError::Directory));
        assert_eq!(parse(|fixed| fixed[24] = 8), Err(ZipError::Directory), "stored in another size");
        let read = parse(|_| {}).unwrap();
        let mut local = [0; LOCAL_BYTES];
        local[..4].copy_from_slice(&0x0403_4b50u32.to_le_bytes());
        local[26] = 1;
        assert_eq!(read.local_lengths(&local), Ok([1, 0]));
        local[26] = 2;
        assert_eq!(read.local_lengths(&local), Err(ZipError::Header));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            fixed in prop::array::uniform32(any::<u8>()),
            extra in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut block = [0; ENTRY_BYTES];
            block[..4].copy_from_slice(&0x0201_4b50u32.to_le_bytes());
            block[14..].copy_from_slice(&fixed);
            let _ = ZipEntry::parse(&block, b"x", &extra);
            let _ = End::find(&extra);
        }
    }
}
