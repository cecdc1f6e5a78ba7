//! Folders that a container keeps beside its data.

use serde::{Deserialize, Serialize};

/// Most volumes of one container.
pub const MAX_VOLUMES: usize = 16;

/// Places that are others': the workload's own folders, and what an engine puts there.
const TAKEN: [&str; 6] = ["/mnt", "/proc", "/sys", "/dev", "/tmp", "/run"];

/// A folder of the service on its node, kept as its data is. Which folder of the node that is, nobody chooses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name, which stays when the image changes: 1 to 32 of `a-z`, `0-9` and `-`, a letter or digit first.
    pub name: String,
    /// Its absolute path inside.
    pub path: String,
}

/// What is wrong with a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// Not a name.
    #[error("{0:?} is not 1 to 32 letters a-z, digits and '-', beginning with a letter or digit")]
    Name(String),
    /// Not a place.
    #[error(
        "{0:?} is not an absolute path without '..' of at most 255 bytes, outside of /mnt, /proc, /sys, /dev, /tmp and /run"
    )]
    Path(String),
    /// Two of them share a name or a place.
    #[error("{0:?} is there twice, or lies in another one")]
    Twice(String),
    /// Too many.
    #[error("there are more than {MAX_VOLUMES}")]
    TooMany,
}

/// Checks the volumes of one container.
///
/// # Errors
///
/// The first thing that is wrong.
pub(super) fn check(volumes: &[Volume]) -> Result<(), VolumeError> {
    if volumes.len() > MAX_VOLUMES {
        return Err(VolumeError::TooMany);
    }
    let cut = |text: &str| text.chars().take(120).collect::<String>();
    for (position, volume) in volumes.iter().enumerate() {
        if !is_name(&volume.name) {
            return Err(VolumeError::Name(cut(&volume.name)));
        }
        if !is_place(&volume.path) {
            return Err(VolumeError::Path(cut(&volume.path)));
        }
        for before in volumes.iter().take(position) {
            if before.name == volume.name {
                return Err(VolumeError::Twice(cut(&volume.name)));
            }
            if is_within(&before.path, &volume.path) || is_within(&volume.path, &before.path) {
                return Err(VolumeError::Twice(cut(&volume.path)));
            }
        }
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    let is_first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let starts = text.bytes().next().is_some_and(is_first);
    starts && text.len() <= 32 && text.bytes().all(|byte| is_first(byte) || byte == b'-')
}

fn is_place(path: &str) -> bool {
    let Some(inner) = path.strip_prefix('/') else { return false };
    let is_part = |part: &str| !part.is_empty() && part != "." && part != "..";
    let is_plain = path.len() <= 255 && !path.contains(|c: char| c.is_control() || c == '\\');
    is_plain && inner.split('/').all(is_part) && !TAKEN.iter().any(|taken| is_within(path, taken))
}

/// Whether a path is another one or lies below it.
fn is_within(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, path: &str) -> Volume {
        Volume { name: name.to_owned(), path: path.to_owned() }
    }

    #[test]
    fn a_volume_has_a_name_and_a_place_of_its_own() {
        let fine = [volume("db", "/var/lib/db"), volume("cache-2", "/cache"), volume("mnt", "/mnty")];
        assert_eq!(check(&fine), Ok(()));
        for name in ["", "Db", "-db", "a/b", "..", &"a".repeat(33)] {
            assert_eq!(check(&[volume(name, "/db")]), Err(VolumeError::Name(name.to_owned())), "{name:?}");
        }
        for path in
            ["", "/", "db", "/a/../b", "/a//b", "/a/", "/mnt", "/mnt/data", "/dev/shm", "/proc/1", "/a\n"]
        {
            assert_eq!(check(&[volume("db", path)]), Err(VolumeError::Path(path.to_owned())), "{path:?}");
        }
        let twice =
            |first: Volume, second: Volume| matches!(check(&[first, second]), Err(VolumeError::Twice(_)));
        assert!(twice(volume("db", "/a"), volume("db", "/b")));
        assert!(twice(volume("a", "/a"), volume("b", "/a")));
        assert!(
            twice(volume("a", "/a/b"), volume("b", "/a")) && twice(volume("a", "/a"), volume("b", "/a/b"))
        );
        let many: Vec<_> = (0..=MAX_VOLUMES).map(|n| volume(&format!("v{n}"), &format!("/v{n}"))).collect();
        assert_eq!(check(&many), Err(VolumeError::TooMany));
        assert!(serde_json::from_str::<Volume>(r#"{"name":"a","path":"/a","host":"/etc"}"#).is_err());
    }
}
