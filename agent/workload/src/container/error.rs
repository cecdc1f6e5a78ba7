//! What can go wrong with a container engine, in words for the operator.

use std::path::PathBuf;
use std::time::Duration;

use blueprint_common_types::workload::Sha256Digest;
use http::StatusCode;
use serde::Deserialize;

/// Longest quotation of an engine in an error, in characters.
const MAX_SAID: usize = 300;

/// What engines say of an image that is for other kinds of processors.
const OTHER_MACHINE: &str = "no matching manifest";

/// Why a container engine did not do what was asked. One line for people each: what, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The socket is absent, or nobody listens on it.
    #[error(
        "no container engine listens on {}; start Docker or Podman, or set workload.engine_socket",
        socket.display()
    )]
    NoEngine {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket belongs to somebody else.
    #[error(
        "not allowed to use the container engine on {}; run the agent as root, or add its user to the \
         group of that socket",
        socket.display()
    )]
    NoAccess {
        /// The socket.
        socket: PathBuf,
    },
    /// No version of the interface that both sides speak.
    #[error(
        "the container engine on {} speaks {found}, and 1.41 or a later 1.x is needed; upgrade it to Docker \
         20.10 or Podman 4 at least",
        socket.display()
    )]
    Version {
        /// The socket.
        socket: PathBuf,
        /// What it speaks.
        found: String,
    },
    /// No answer in time.
    #[error(
        "the container engine did not {action} within {} s; it may be overloaded or stuck: look at its log",
        after.as_secs()
    )]
    Timeout {
        /// What was asked.
        action: String,
        /// How long was waited.
        after: Duration,
    },
    /// The exchange broke off: an engine that is being restarted, perhaps.
    #[error("lost the container engine while asking it to {action}: {reason}; see whether it still runs")]
    Broken {
        /// What was asked.
        action: String,
        /// How it broke.
        reason: String,
    },
    /// An answer that no engine gives.
    #[error(
        "cannot read the container engine's answer when asked to {action}: {reason}; see that \
         workload.engine_socket names Docker or Podman"
    )]
    Answer {
        /// What was asked.
        action: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry has no such image, or none for this machine.
    #[error("no image {image}@sha256:{digest}: {said}; check image and digest")]
    NoImage {
        /// Without digest.
        image: String,
        /// Of the manifest.
        digest: Sha256Digest,
        /// The engine's words.
        said: String,
    },
    /// The registry wants other credentials.
    #[error(
        "the registry refuses {image}: {said}; check its name, and give the login of its registry with --registry-login"
    )]
    ImageDenied {
        /// Without digest.
        image: String,
        /// The engine's words.
        said: String,
    },
    /// The registry cannot be reached, or has a fault.
    #[error("cannot pull {image}: {said}; see whether this node reaches the registry")]
    Registry {
        /// Without digest.
        image: String,
        /// The engine's words.
        said: String,
    },
    /// What came is not what was asked for.
    #[error(
        "what arrived for {image} does not have the digest sha256:{wanted}: {said}; do not run it before \
         you know why"
    )]
    Digest {
        /// Without digest.
        image: String,
        /// Of the manifest.
        wanted: Sha256Digest,
        /// The engine's words.
        said: String,
    },
    /// The disk is full.
    #[error("no space left for the container engine to {action}: {said}; free some on its disk")]
    NoSpace {
        /// What was asked.
        action: String,
        /// The engine's words.
        said: String,
    },
    /// The engine lacks the small first process that reaps and forwards signals.
    #[error(
        "the container engine has no init program to {action}: {said}; install tini for Docker or catatonit \
         for Podman"
    )]
    NoInit {
        /// What was asked.
        action: String,
        /// The engine's words.
        said: String,
    },
    /// GPUs are required and cannot be given.
    #[error(
        "cannot give {wanted} GPUs to a container here: {said}; install the NVIDIA container toolkit for the \
         engine, or set gpu_policy to preferred"
    )]
    NoGpu {
        /// How many.
        wanted: u8,
        /// Why not.
        said: String,
    },
    /// A limit that this engine would leave out silently.
    #[error(
        "the container engine cannot bound the {limit} of a container here; let it manage cgroups (rootless \
         engines need cgroup v2 with delegation)"
    )]
    Unbounded {
        /// Which: `memory`, `processors` or `processes`.
        limit: &'static str,
    },
    /// The name is taken by a container of somebody else.
    #[error(
        "a container called {name} is there that this agent did not make; remove or rename it on the engine"
    )]
    Foreign {
        /// The name.
        name: String,
    },
    /// The network of our name is another one.
    #[error(
        "the network {name} of the container engine lets its containers reach each other; remove it there, \
         and it is made again as it has to be"
    )]
    Network {
        /// The name.
        name: &'static str,
    },
    /// What is asked for is no container.
    #[error("the container {name} cannot be made: {field} {reason}")]
    Spec {
        /// Its name.
        name: String,
        /// Which part.
        field: &'static str,
        /// What it has to be.
        reason: String,
    },
    /// Anything else, in the engine's words.
    #[error("the container engine refuses to {action} (status {status}): {said}")]
    Refused {
        /// What was asked.
        action: String,
        /// Of the answer.
        status: u16,
        /// The engine's words.
        said: String,
    },
}

#[derive(Deserialize)]
struct Message {
    message: String,
}

impl EngineError {
    /// What an answer of refusal means.
    pub(super) fn refusal(action: &str, status: StatusCode, body: &[u8]) -> Self {
        let said = match serde_json::from_slice::<Message>(body) {
            Ok(Message { message }) => clean(&message),
            Err(_) => clean(&String::from_utf8_lossy(body)),
        };
        let action = action.to_owned();
        if is_full(&said) {
            return Self::NoSpace { action, said };
        }
        // Podman's words, and Docker's.
        if said.contains("init binary not found") || said.contains("\"docker-init\"") {
            return Self::NoInit { action, said };
        }
        Self::Refused { action, status: status.as_u16(), said }
    }

    /// What the engine's words on a pull mean.
    pub(super) fn pull(image: &str, digest: &Sha256Digest, said: &str) -> Self {
        let (image, said) = (image.to_owned(), clean(said));
        let lower = said.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        if is_full(&said) {
            Self::NoSpace { action: format!("pull {image}"), said }
        } else if says(&[
            "verification failed",
            "digest mismatch",
            "unexpected digest",
            "digest did not match",
        ]) {
            Self::Digest { image, wanted: *digest, said }
        } else if says(&["unauthorized", "denied", "authentication required", "no basic auth"]) {
            Self::ImageDenied { image, said }
        } else if says(&["manifest unknown", "name unknown", "not found", OTHER_MACHINE]) {
            Self::NoImage { image, digest: *digest, said }
        } else {
            Self::Registry { image, said }
        }
    }

    /// Whether the same may succeed later, without anybody changing the workload.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::NoEngine { .. }
            | Self::NoAccess { .. }
            | Self::Timeout { .. }
            | Self::Broken { .. }
            | Self::Registry { .. }
            | Self::NoSpace { .. }
            | Self::NoInit { .. }
            | Self::Foreign { .. }
            | Self::Network { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 409 || *status == 429,
            Self::Version { .. }
            | Self::Answer { .. }
            | Self::NoImage { .. }
            | Self::ImageDenied { .. }
            | Self::Digest { .. }
            | Self::NoGpu { .. }
            | Self::Unbounded { .. }
            | Self::Spec { .. } => false,
        }
    }

    /// Whether it is this node that cannot, so that another one may: no engine, or one of another kind of processor; not an
    /// image that is not there, nor a registry that does not answer.
    #[must_use]
    pub fn is_of_node(&self) -> bool {
        match self {
            Self::NoEngine { .. }
            | Self::NoAccess { .. }
            | Self::Version { .. }
            | Self::Timeout { .. }
            | Self::Broken { .. }
            | Self::Answer { .. }
            | Self::NoSpace { .. }
            | Self::NoInit { .. }
            | Self::NoGpu { .. }
            | Self::Unbounded { .. }
            | Self::Foreign { .. }
            | Self::Network { .. } => true,
            Self::NoImage { said, .. } => said.to_ascii_lowercase().contains(OTHER_MACHINE),
            Self::ImageDenied { .. }
            | Self::Registry { .. }
            | Self::Digest { .. }
            | Self::Spec { .. }
            | Self::Refused { .. } => false,
        }
    }

    /// Its label in metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoEngine { .. } => "no_engine",
            Self::NoAccess { .. } => "no_access",
            Self::Version { .. } => "version",
            Self::Timeout { .. } => "timeout",
            Self::Broken { .. } => "broken",
            Self::Answer { .. } => "answer",
            Self::NoImage { .. } => "no_image",
            Self::ImageDenied { .. } => "image_denied",
            Self::Registry { .. } => "registry",
            Self::Digest { .. } => "digest",
            Self::NoSpace { .. } => "no_space",
            Self::NoInit { .. } => "no_init",
            Self::NoGpu { .. } => "no_gpu",
            Self::Unbounded { .. } => "unbounded",
            Self::Foreign { .. } => "foreign",
            Self::Network { .. } => "network",
            Self::Spec { .. } => "spec",
            Self::Refused { .. } => "refused",
        }
    }

    /// The engine's words, where it refused; empty elsewhere.
    pub(super) fn said(&self) -> &str {
        match self {
            Self::NoImage { said, .. }
            | Self::ImageDenied { said, .. }
            | Self::Registry { said, .. }
            | Self::Digest { said, .. }
            | Self::NoSpace { said, .. }
            | Self::NoInit { said, .. }
            | Self::NoGpu { said, .. }
            | Self::Refused { said, .. } => said,
            Self::NoEngine { .. }
            | Self::NoAccess { .. }
            | Self::Version { .. }
            | Self::Timeout { .. }
            | Self::Broken { .. }
            | Self::Answer { .. }
            | Self::Unbounded { .. }
            | Self::Foreign { .. }
            | Self::Network { .. }
            | Self::Spec { .. } => "",
        }
    }
}

fn is_full(said: &str) -> bool {
    said.contains("no space left on device") || said.contains("disk quota exceeded")
}

/// Words of an engine on one line, without control characters, cut.
fn clean(text: &str) -> String {
    let mut words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let first = words.next().unwrap_or("nothing was said").to_owned();
    let line = words.fold(
        first,
        |line, word| {
            if line.len() > 4 * MAX_SAID { line } else { format!("{line} {word}") }
        },
    );
    line.trim_end_matches('.').chars().take(MAX_SAID).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: Sha256Digest = Sha256Digest::from_bytes([7; 32]);

    #[test]
    fn the_words_of_engines_on_pulls_are_told_apart() {
        let cases = [
            (
                "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                "registry",
                true,
            ),
            ("toomanyrequests: You have reached your pull rate limit.", "registry", true),
            ("manifest for a/b@sha256:07 not found: manifest unknown: manifest unknown", "no_image", false),
            ("no matching manifest for linux/arm64 in the manifest list entries", "no_image", false),
            (
                "pull access denied for a/b, repository does not exist or may require 'docker login': denied",
                "image_denied",
                false,
            ),
            ("unauthorized: authentication required", "image_denied", false),
            ("image verification failed for digest sha256:07", "digest", false),
            ("write /var/lib/docker/x: no space left on device", "no_space", true),
        ];
        for (said, reason, may_pass) in cases {
            let error = EngineError::pull("r/a", &DIGEST, said);
            assert_eq!((error.reason(), error.may_pass()), (reason, may_pass), "{said}");
            assert_eq!(error.is_of_node(), said.contains("linux/arm64") || reason == "no_space", "{said}");
            assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn what_an_engine_says_is_one_short_line() {
        let body = format!("{{\"message\":\"a\\n\\u001b[31mb{}\"}}", " word".repeat(10_000));
        let error = EngineError::refusal("start x", StatusCode::INTERNAL_SERVER_ERROR, body.as_bytes());
        let text = error.to_string();
        assert!(
            text.starts_with("the container engine refuses to start x (status 500): a [31mb word"),
            "{text}"
        );
        assert!(text.len() < 400 && !text.contains(char::is_control), "{text}");
        let empty = EngineError::refusal("start x", StatusCode::BAD_GATEWAY, b"");
        assert_eq!(
            empty.to_string(),
            "the container engine refuses to start x (status 502): nothing was said"
        );
        assert!(empty.may_pass());
        assert!(!EngineError::refusal("start x", StatusCode::BAD_REQUEST, b"no").may_pass());
    }

    #[test]
    fn a_missing_init_says_what_to_install() {
        for said in [
            "container create: container-init binary not found on the host: stat /usr/libexec/podman/catatonit",
            "exec: \\\"docker-init\\\": executable file not found in $PATH",
        ] {
            let body = format!("{{\"message\":\"{said}\"}}");
            let error = EngineError::refusal("start x", StatusCode::INTERNAL_SERVER_ERROR, body.as_bytes());
            assert_eq!((error.reason(), error.may_pass()), ("no_init", true), "{error}");
            assert!(error.to_string().ends_with("; install tini for Docker or catatonit for Podman"));
        }
    }

    #[test]
    fn a_missing_engine_says_what_to_do() {
        let error = EngineError::NoEngine { socket: "/var/run/docker.sock".into() };
        assert_eq!(
            error.to_string(),
            "no container engine listens on /var/run/docker.sock; start Docker or Podman, or set workload.engine_socket"
        );
        assert!(error.may_pass());
    }
}
