//! Why there is no artefact, in words for whoever reads the state of a workload.

use std::path::PathBuf;
use std::time::Duration;

use blueprint_agent_workload_core::PrepareFailed;
use blueprint_agent_workload_core::archive::ArchiveRefusal;

/// Why an artefact cannot be had. The text is one line: what, where, and what to do.
///
/// URLs are shown without their queries, which may hold secrets.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactError {
    /// The URL cannot be asked.
    #[error("cannot fetch {url:?}: {why}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The server does not have it, or does not give it.
    #[error("{url} answered {status}: {hint}")]
    Status {
        /// Who.
        url: String,
        /// HTTP status.
        status: u16,
        /// What to do.
        hint: &'static str,
    },
    /// It leads somewhere nobody goes.
    #[error("{url} leads to {to:?}: {why}")]
    Redirect {
        /// Who.
        url: String,
        /// Where to, as the server says.
        to: String,
        /// Why that is refused.
        why: &'static str,
    },
    /// No connection.
    #[error("cannot reach {url}: {why}; check that the server runs and that this node may reach it")]
    Unreachable {
        /// Whom.
        url: String,
        /// What the system, TLS or the proxy says.
        why: String,
    },
    /// No answer, or no more bytes.
    #[error("{url} gave no {what} within {} s; check the server and the network", .within.as_secs_f64())]
    TimedOut {
        /// Who.
        url: String,
        /// What was waited for.
        what: &'static str,
        /// How long.
        within: Duration,
    },
    /// The download ended too early.
    #[error("the download of {url} broke off after {bytes} bytes: {why}; check the server and the network")]
    Broken {
        /// Of what.
        url: String,
        /// Bytes that came.
        bytes: u64,
        /// What happened.
        why: String,
    },
    /// More bytes than are allowed.
    #[error("{url} has more than {limit} bytes; make it smaller, or raise the limit of downloads")]
    TooLarge {
        /// What.
        url: String,
        /// Bytes allowed.
        limit: u64,
    },
    /// No gateway gave it.
    #[error("no IPFS gateway gave {cid}: {why}")]
    Gateways {
        /// What was asked for.
        cid: String,
        /// What each of them said.
        why: String,
        /// Whether one of them may give it later.
        may_pass: bool,
    },
    /// The hub did not give it.
    #[error("the hub did not give what was pushed with SHA-256 {sha256}: {why}")]
    Pushed {
        /// What was asked for.
        sha256: String,
        /// Why not.
        why: String,
        /// Whether it may do so later.
        may_pass: bool,
    },
    /// It is something else than what was asked for.
    #[error(
        "{url} is not what was asked for: the {function} of its {bytes} bytes is {found}, not {expected}; \
         correct the digest or the URL"
    )]
    Digest {
        /// What.
        url: String,
        /// `SHA-256` or `BLAKE3`.
        function: &'static str,
        /// Bytes that came.
        bytes: u64,
        /// The digest that was asked for.
        expected: String,
        /// What came.
        found: String,
    },
    /// There is no room for it.
    #[error(
        "the disk of {folder:?} is full: {what}; free some space there, or give the cache another folder"
    )]
    DiskFull {
        /// The cache.
        folder: PathBuf,
        /// What was needed, as far as it is known.
        what: String,
    },
    /// The cache cannot be used.
    #[error("cannot {what} {path:?}: {why}")]
    Cache {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// An entry of the archive, or its size, is refused.
    #[error("{url} is not unpacked: {why}")]
    Refused {
        /// What.
        url: String,
        /// Why.
        why: ArchiveRefusal,
    },
    /// The archive cannot be read.
    #[error("{url} cannot be unpacked: {why}")]
    Archive {
        /// What.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Neither a program nor an archive.
    #[error(
        "{url} is not a program: neither an ELF file nor a script with '#!', nor a tar (plain, gzip, xz, zstd) or \
         zip archive"
    )]
    NotAProgram {
        /// What.
        url: String,
    },
    /// The archive has no such program, or several to choose from.
    #[error("{url} has {what}; {hint}")]
    Program {
        /// The archive.
        url: String,
        /// What it has, or has not.
        what: String,
        /// What to do.
        hint: String,
    },
    /// It is for another machine.
    #[error(
        "{program:?} of {url} is a program for {built_for}, and this node is {here}; take the file for {here}"
    )]
    OtherMachine {
        /// The artefact.
        url: String,
        /// The program in it.
        program: String,
        /// For what it was built.
        built_for: String,
        /// What this machine is.
        here: &'static str,
    },
    /// A script whose interpreter is not here.
    #[error("{program:?} of {url} is run by {interpreter:?}, which this node does not have; install it")]
    Interpreter {
        /// The artefact.
        url: String,
        /// The script in it.
        program: String,
        /// What it names in its first line.
        interpreter: String,
    },
    /// The agent ends.
    #[error("the agent ends before {url} was there")]
    Stopped {
        /// What.
        url: String,
    },
}

impl ArtefactError {
    /// Every label of [`Self::label`].
    pub const LABELS: [&'static str; 19] = [
        "url",
        "status",
        "redirect",
        "unreachable",
        "timed_out",
        "broken",
        "too_large",
        "gateways",
        "pushed",
        "digest",
        "disk_full",
        "cache",
        "refused",
        "archive",
        "not_a_program",
        "program",
        "other_machine",
        "interpreter",
        "stopped",
    ];

    /// Label of the reason in metrics; [`ArchiveRefusal::label`] tells refusals of archives apart.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Url { .. } => "url",
            Self::Status { .. } => "status",
            Self::Redirect { .. } => "redirect",
            Self::Unreachable { .. } => "unreachable",
            Self::TimedOut { .. } => "timed_out",
            Self::Broken { .. } => "broken",
            Self::TooLarge { .. } => "too_large",
            Self::Gateways { .. } => "gateways",
            Self::Pushed { .. } => "pushed",
            Self::Digest { .. } => "digest",
            Self::DiskFull { .. } => "disk_full",
            Self::Cache { .. } => "cache",
            Self::Refused { .. } => "refused",
            Self::Archive { .. } => "archive",
            Self::NotAProgram { .. } => "not_a_program",
            Self::Program { .. } => "program",
            Self::OtherMachine { .. } => "other_machine",
            Self::Interpreter { .. } => "interpreter",
            Self::Stopped { .. } => "stopped",
        }
    }

    /// Whether the same may succeed later: a server that is down or a full disk, not a digest that differs.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            // Too many requests, and what servers say while they start or are overloaded.
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
            Self::Gateways { may_pass, .. } | Self::Pushed { may_pass, .. } => *may_pass,
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Broken { .. }
            | Self::DiskFull { .. }
            | Self::Cache { .. }
            | Self::Stopped { .. } => true,
            Self::Url { .. }
            | Self::Redirect { .. }
            | Self::TooLarge { .. }
            | Self::Digest { .. }
            | Self::Refused { .. }
            | Self::Archive { .. }
            | Self::NotAProgram { .. }
            | Self::Program { .. }
            | Self::OtherMachine { .. }
            | Self::Interpreter { .. } => false,
        }
    }

    /// Whether it is this node that cannot, so that another one may: a full disk, not a server that is down.
    #[must_use]
    pub const fn is_of_node(&self) -> bool {
        match self {
            Self::DiskFull { .. }
            | Self::Cache { .. }
            | Self::OtherMachine { .. }
            | Self::Interpreter { .. } => true,
            Self::Url { .. }
            | Self::Status { .. }
            | Self::Redirect { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Broken { .. }
            | Self::TooLarge { .. }
            | Self::Gateways { .. }
            | Self::Pushed { .. }
            | Self::Digest { .. }
            | Self::Refused { .. }
            | Self::Archive { .. }
            | Self::NotAProgram { .. }
            | Self::Program { .. }
            | Self::Stopped { .. } => false,
        }
    }
}

impl From<&ArtefactError> for PrepareFailed {
    fn from(error: &ArtefactError) -> Self {
        Self { reason: error.to_string(), may_pass: error.may_pass(), is_of_node: error.is_of_node() }
    }
}

/// Why the hub does not give what was pushed to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PushedError {
    /// One line for people: what, and what to do.
    pub reason: String,
    /// Whether it may do so later.
    pub may_pass: bool,
}

/// Why there can be no cache.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be used.
    #[error(
        "cannot use {path:?} as the cache of artefacts ({what}); give it another folder, or rights there"
    )]
    Folder {
        /// Which.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another agent has it.
    #[error("another agent uses {0:?} as its cache of artefacts; end it, or give this one another folder")]
    InUse(PathBuf),
    /// A certificate of the configuration cannot be used.
    #[error("a certificate authority for artefacts cannot be used")]
    Authority(#[from] rustls::Error),
    /// A gateway of the configuration cannot be used.
    #[error("the IPFS gateway {0:?} is no URL of http or https")]
    Gateway(String),
}
