//! A registry of images on loopback, with images made from scratch, as far as an engine asks for one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::workload::Sha256Digest;
use nix::sys::socket::{Shutdown, shutdown};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Kind of a manifest, kept from the first registries on.
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// User and password that it asks for once it is locked.
pub(crate) const USER: (&str, &str) = ("operator", "sesame");

/// What it has, by path.
type Store = Arc<Mutex<BTreeMap<String, (&'static str, Vec<u8>)>>>;

/// Serves images until it is dropped.
pub(crate) struct Registry {
    listener: TcpListener,
    store: Store,
    asked: Arc<Mutex<Vec<String>>>,
    is_locked: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Registry {
    /// Serves on loopback of the namespace that `enter` runs its argument in.
    pub(crate) fn start(
        enter: impl FnOnce(fn() -> std::io::Result<TcpListener>) -> Result<TcpListener>,
    ) -> Result<Self> {
        Self::serve(enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?, Store::default())
    }

    /// Serves the same images by the same names in another namespace.
    pub(crate) fn start_beside(&self, enter: impl FnOnce(u16) -> Result<TcpListener>) -> Result<Self> {
        Self::serve(enter(self.listener.local_addr()?.port())?, Arc::clone(&self.store))
    }

    fn serve(listener: TcpListener, store: Store) -> Result<Self> {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let is_locked = Arc::new(AtomicBool::new(false));
        let accepting = listener.try_clone()?;
        let (serving, noting, locked) = (Arc::clone(&store), Arc::clone(&asked), Arc::clone(&is_locked));
        let thread = Builder::new().name("registry".to_owned()).spawn(move || {
            for stream in accepting.incoming() {
                let Ok(stream) = stream else { return };
                // A client that speaks TLS first is answered by the end of its connection.
                let _ = answer(stream, &serving, &noting, locked.load(Ordering::Relaxed));
            }
        })?;
        Ok(Self { listener, store, asked, is_locked, thread: Some(thread) })
    }

    /// Serves only [`USER`] from now on.
    pub(crate) fn lock(&self) {
        self.is_locked.store(true, Ordering::Relaxed);
    }

    /// Name of an image here.
    pub(crate) fn name(&self, image: &str) -> Result<String> {
        Ok(format!("127.0.0.1:{}/{image}", self.listener.local_addr()?.port()))
    }

    /// Puts an image of one layer here: `layer` is a tar archive, `config` what a container of it begins with.
    pub(crate) fn push(&self, image: &str, layer: &[u8], config: &Value) -> Result<Sha256Digest> {
        let layer_digest = self.put(image, "blobs", "application/octet-stream", layer)?;
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
        });
        let config = config.to_string();
        let config_digest = self.put(image, "blobs", "application/octet-stream", config.as_bytes())?;
        let part = |kind: &str, digest: &Sha256Digest, size: usize| {
            json!({
                "mediaType": format!("application/vnd.docker.{kind}"),
                "digest": format!("sha256:{digest}"), "size": size,
            })
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": part("container.image.v1+json", &config_digest, config.len()),
            "layers": [part("image.rootfs.diff.tar.gzip", &layer_digest, layer.len())],
        });
        self.put(image, "manifests", MANIFEST, manifest.to_string().as_bytes())
    }

    /// Serves the manifest of one digest where another is asked for.
    pub(crate) fn swap(&self, image: &str, asked: &Sha256Digest, given: &Sha256Digest) -> Result<()> {
        let path = |digest| format!("/v2/{image}/manifests/sha256:{digest}");
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let manifest = store.get(&path(given)).context("no such manifest")?.clone();
        store.insert(path(asked), manifest);
        Ok(())
    }

    /// The requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, image: &str, kind: &str, media: &'static str, bytes: &[u8]) -> Result<Sha256Digest> {
        let digest = Sha256Digest::from_bytes(Sha256::digest(bytes).into());
        let path = format!("/v2/{image}/{kind}/sha256:{digest}");
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.insert(path, (media, bytes.to_vec()));
        Ok(digest)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Ends the wait for a connection.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, store: &Store, asked: &Mutex<Vec<String>>, is_locked: bool) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = Vec::new();
    reader.read_until(b'\n', &mut first)?;
    let first = String::from_utf8(first)?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_owned());
    let mut credentials = String::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        if name.eq_ignore_ascii_case("authorization") {
            credentials = value.to_owned();
        }
    }
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{method} {path}"));
    let wanted = format!("Basic {}", STANDARD.encode(format!("{}:{}", USER.0, USER.1)));
    let found = store.lock().unwrap_or_else(PoisonError::into_inner).get(&path).cloned();
    let (status, media, body) = match found {
        _ if is_locked && credentials != wanted => {
            (401, "application/json", error("UNAUTHORIZED", "authentication required"))
        }
        // Engines learn from this path how to sign in.
        None if path == "/v2/" => (200, "application/json", b"{}".to_vec()),
        Some((media, body)) => (200, media, body),
        None => (404, "application/json", error("MANIFEST_UNKNOWN", "manifest unknown")),
    };
    let digest = path.rsplit('/').next().filter(|last| last.starts_with("sha256:")).unwrap_or_default();
    let sign_in = if status == 401 { "Www-Authenticate: Basic realm=\"test\"\r\n" } else { "" };
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\
         Docker-Distribution-Api-Version: registry/2.0\r\nDocker-Content-Digest: {digest}\r\n{sign_in}\r\n",
        body.len(),
    )?;
    if method != "HEAD" {
        stream.write_all(&body)?;
    }
    Ok(())
}

fn error(code: &str, message: &str) -> Vec<u8> {
    json!({ "errors": [{ "code": code, "message": message }] }).to_string().into_bytes()
}

/// A tar archive of a folder.
pub(crate) fn archive(folder: &Path, into: &Path) -> Result<Vec<u8>> {
    let finished = blueprint_tests_support::Launch::new("tar")
        .args(["--create", "--owner=0", "--group=0", "--file"])
        .arg(into)
        .arg("--directory")
        .arg(folder)
        .arg(".")
        .run(crate::fixture::CALL)?;
    anyhow::ensure!(finished.code == Some(0), "tar: {}", finished.stderr);
    std::fs::read(into).context("cannot read the archive")
}
