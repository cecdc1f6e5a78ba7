//! Certificates in files, read again when they change.
//!
//! A pair that cannot be used leaves the one before in use, is logged once for each change of the
//! files, and is counted. A pair whose files are gone from the folder is forgotten; the pair that the
//! configuration names is kept.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blueprint_common_types::Secret;
use tracing::{info, warn};

use super::handle::TlsHandle;
use super::material::{Material, MaterialError};
use super::metrics::Reload;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Most pairs of files in the folder.
const MAX_PAIRS: usize = 4096;

/// Why a pair of files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is in them is of no use.
    #[error("{certificate} and {key} cannot be used", certificate = certificate.display(), key = key.display())]
    Material {
        /// File with the chain.
        certificate: PathBuf,
        /// File with the key.
        key: PathBuf,
        /// Why.
        source: MaterialError,
    },
}

/// What tells one content of a file from another.
type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

#[derive(Debug, Default)]
struct Pair {
    stamps: Option<(Stamp, Stamp)>,
    material: Option<Material>,
}

/// Pairs of files with a certificate chain and its key.
#[derive(Debug, Default)]
pub struct CertificateFiles {
    first: Option<(PathBuf, PathBuf)>,
    folder: Option<PathBuf>,
    pairs: BTreeMap<(PathBuf, PathBuf), Pair>,
}

impl CertificateFiles {
    /// Names the pair for unknown host names, and a folder with more: `NAME.crt` or `NAME.pem`, each with
    /// `NAME.key`.
    #[must_use]
    pub fn new(first: Option<(PathBuf, PathBuf)>, folder: Option<PathBuf>) -> Self {
        Self { first, folder, pairs: BTreeMap::new() }
    }

    /// Reads everything for the first time.
    ///
    /// # Errors
    ///
    /// The first pair that cannot be used: a hub does not start with one.
    pub fn load(&mut self) -> Result<Vec<Material>, FileError> {
        for names in self.listed()? {
            let stamps = (stamp(&names.0), stamp(&names.1));
            let pair = Pair { stamps: Some(stamps), material: Some(read(&names)?) };
            self.pairs.insert(names, pair);
        }
        Ok(self.materials())
    }

    /// Looks whether files have changed, and gives the handle what they hold now; `force` reads them all.
    pub fn refresh(&mut self, handle: &TlsHandle, force: bool) {
        if let Some(materials) = self.poll(force, |reload| handle.metrics().count_reload(reload)) {
            handle.set_configured(materials);
        }
    }

    /// The certificates to use from now on, where any changed.
    fn poll(&mut self, force: bool, count: impl Fn(Reload)) -> Option<Vec<Material>> {
        let listed = match self.listed() {
            Ok(listed) => listed,
            Err(error) => {
                if force {
                    warn!(error = %blueprint_common_runtime::Chain(&error), "certificates not read again");
                }
                return None;
            }
        };
        let before = self.pairs.len();
        self.pairs.retain(|names, _| listed.contains(names));
        let mut has_changed = self.pairs.len() != before;
        for names in listed {
            let stamps = (stamp(&names.0), stamp(&names.1));
            let pair = self.pairs.entry(names.clone()).or_default();
            let is_new = pair.stamps != Some(stamps);
            if !is_new && !force {
                continue;
            }
            pair.stamps = Some(stamps);
            match read(&names) {
                Ok(material) => {
                    if is_new {
                        info!(certificate = %names.0.display(), until = %material.not_after(), "certificate read");
                        count(Reload::Used);
                    }
                    pair.material = Some(material);
                    has_changed = true;
                }
                Err(error) => {
                    let kept = pair.material.as_ref().map(|old| old.not_after().to_string());
                    let error = blueprint_common_runtime::Chain(&error);
                    warn!(%error, kept_until = kept, "certificate refused, the one before stays in use");
                    count(Reload::Refused);
                }
            }
        }
        has_changed.then(|| self.materials())
    }

    fn materials(&self) -> Vec<Material> {
        let (first, rest): (Vec<_>, Vec<_>) =
            self.pairs.iter().partition(|(names, _)| Some(*names) == self.first.as_ref());
        first.into_iter().chain(rest).filter_map(|(_, pair)| pair.material.clone()).collect()
    }

    fn listed(&self) -> Result<Vec<(PathBuf, PathBuf)>, FileError> {
        let mut listed: Vec<(PathBuf, PathBuf)> = self.first.iter().cloned().collect();
        let Some(folder) = &self.folder else { return Ok(listed) };
        let failed = |source| FileError::Io { path: folder.clone(), source };
        for entry in fs::read_dir(folder).map_err(failed)?.take(MAX_PAIRS * 3) {
            let path = entry.map_err(failed)?.path();
            let is_certificate =
                path.extension().is_some_and(|extension| extension == "crt" || extension == "pem");
            let key = path.with_extension("key");
            if is_certificate && key.exists() && listed.len() <= MAX_PAIRS {
                listed.push((path, key));
            }
        }
        Ok(listed)
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    let (modified, changed) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
    Some((found.dev(), found.ino(), found.len(), modified.0, modified.1, changed.0, changed.1))
}

fn read(names: &(PathBuf, PathBuf)) -> Result<Material, FileError> {
    let bytes = |path: &PathBuf| -> Result<Vec<u8>, FileError> {
        let failed = |source| FileError::Io { path: path.clone(), source };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    };
    let key = Secret::new(bytes(&names.1)?);
    Material::from_pem(&bytes(&names.0)?, &key).map_err(|source| FileError::Material {
        certificate: names.0.clone(),
        key: names.1.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        }

        /// A fresh certificate for `host` in `NAME.crt` and `NAME.key`.
        fn certificate(&self, name: &str, host: &str) -> (PathBuf, PathBuf) {
            let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
            let certificate = self.put(&format!("{name}.crt"), made.cert.pem().as_bytes());
            (certificate, self.put(&format!("{name}.key"), made.signing_key.serialize_pem().as_bytes()))
        }
    }

    fn hosts(materials: &[Material]) -> Vec<&str> {
        materials.iter().flat_map(|material| &material.facts().hosts).map(String::as_str).collect()
    }

    #[test]
    fn what_is_broken_leaves_the_one_before_in_use_and_is_told_once() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let first = folder.certificate("first", "first.example");
        let mut files = CertificateFiles::new(Some(first), None);
        assert_eq!(hosts(&files.load().unwrap()), ["first.example"]);
        let counted = RefCell::new(Vec::new());
        let mut poll = |force| {
            let found = files.poll(force, |reload| counted.borrow_mut().push(reload));
            (found, counted.take())
        };
        assert!(matches!(poll(false), (None, none) if none.is_empty()), "nothing has changed");

        folder.put("first.crt", b"-----BEGIN CERTIFICATE-----\nbroken");
        assert!(matches!(poll(false), (None, counted) if counted == [Reload::Refused]));
        assert!(matches!(poll(false), (None, none) if none.is_empty()), "told once");
        assert!(matches!(poll(true), (None, counted) if counted == [Reload::Refused]), "asked for");

        // A renewal that is half written: the new certificate with the old key.
        let other = rcgen::generate_simple_self_signed(["second.example".to_owned()]).unwrap();
        folder.put("first.crt", other.cert.pem().as_bytes());
        assert!(matches!(poll(false), (None, counted) if counted == [Reload::Refused]));
        folder.put("first.key", other.signing_key.serialize_pem().as_bytes());
        let (found, counted) = poll(false);
        assert_eq!((hosts(&found.unwrap()), counted), (vec!["second.example"], vec![Reload::Used]));
        fs::remove_file(folder.0.path().join("first.key")).unwrap();
        assert!(matches!(poll(false), (None, counted) if counted == [Reload::Refused]));
    }

    #[test]
    fn a_folder_is_followed_and_the_named_pair_stays_first() {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.certificate("a", "a.example");
        folder.put("ignored.txt", b"");
        folder.put("lonely.crt", b"");
        let named = folder.certificate("z", "z.example");
        let mut files = CertificateFiles::new(Some(named), Some(folder.0.path().to_owned()));
        let loaded = files.load().unwrap();
        assert_eq!(hosts(&loaded)[0], "z.example");
        folder.certificate("b", "b.example");
        let found = files.poll(false, |_| ()).unwrap();
        assert!(hosts(&found).contains(&"b.example"));
        fs::remove_file(folder.0.path().join("a.crt")).unwrap();
        let found = files.poll(false, |_| ()).unwrap();
        assert!(!hosts(&found).contains(&"a.example"));
        assert!(matches!(
            CertificateFiles::new(None, Some("/nowhere".into())).load(),
            Err(FileError::Io { .. })
        ));
    }
}
