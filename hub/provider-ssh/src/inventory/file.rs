//! What is written, before it is judged.

use serde::Deserialize;
use toml::Spanned;

/// One machine as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostFile {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) host_key: String,
    pub(super) identity: String,
    pub(super) port: Option<u16>,
    pub(super) user: Option<String>,
    pub(super) cpu: u32,
    pub(super) memory_mib: u64,
    pub(super) disk_gb: u32,
    pub(super) arch: Option<String>,
    pub(super) gpu: Option<String>,
    pub(super) gpu_count: Option<u16>,
    pub(super) gpu_vram_mib: Option<u32>,
    pub(super) region: Option<String>,
    pub(super) price: Option<String>,
    #[serde(default)]
    pub(super) open_ports: Vec<u16>,
    pub(super) jump: Option<String>,
}

/// One machine on the way, as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JumpFile {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) host_key: String,
    pub(super) identity: String,
    pub(super) port: Option<u16>,
    pub(super) user: Option<String>,
}

/// All of it, each with its line.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) hosts: Vec<(usize, HostFile)>,
    pub(super) jumps: Vec<(usize, JumpFile)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    host: Vec<Spanned<HostFile>>,
    #[serde(default)]
    jump: Vec<Spanned<JumpFile>>,
}

/// Reads TOML.
pub(super) fn read(text: &str) -> Result<Written, Vec<String>> {
    let document: Document = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(1, |span| line_of(text, span.start));
        vec![format!("line {at}: {}", error.message())]
    })?;
    Ok(Written {
        hosts: document
            .host
            .into_iter()
            .map(|it| (line_of(text, it.span().start), it.into_inner()))
            .collect(),
        jumps: document
            .jump
            .into_iter()
            .map(|it| (line_of(text, it.span().start), it.into_inner()))
            .collect(),
    })
}

/// The line, from 1, that has the byte `at`.
fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}
