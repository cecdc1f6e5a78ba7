//! One file per command, and what they share.

pub(crate) mod access;
pub(crate) mod alerts;
pub(crate) mod apply;
pub(crate) mod artefact;
pub(crate) mod audit;
pub(crate) mod config;
pub(crate) mod costs;
pub(crate) mod deploy;
pub(crate) mod deployment;
pub(crate) mod dev;
pub(crate) mod exec;
pub(crate) mod expose;
pub(crate) mod forward;
#[cfg(feature = "provider-ssh")]
pub(crate) mod host;
pub(crate) mod identity;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod inventory;
pub(crate) mod key;
pub(crate) mod logs;
pub(crate) mod node;
pub(crate) mod offers;
pub(crate) mod owner;
pub(crate) mod policy;
pub(crate) mod prices;
pub(crate) mod provider;
pub(crate) mod qos;
pub(crate) mod scale;
pub(crate) mod serve;
pub(crate) mod service;
pub(crate) mod service_tls;
pub(crate) mod share;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod workload;

mod client;
mod dev_cloud;
mod remotes;

use blueprint_common_runtime::cli::CliError;

/// `--ttl` values: a span of time such as `15m`.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let blueprint_common_runtime::config::Span(span) =
        text.parse().map_err(|error: blueprint_common_runtime::config::ParseValueError| error.to_string())?;
    Ok(span.as_secs())
}

/// Why a file that was named could not be read; a missing one has the same exit code in every command.
pub(crate) fn unread(path: &std::path::Path, error: &std::io::Error) -> CliError {
    let text = format!("cannot read {}: {error}", path.display());
    std::io::Error::new(error.kind(), text).into()
}

/// Values that are whole numbers, such as `--min-disk`.
pub(crate) fn whole<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "a whole number without a unit is wanted, such as 40".to_owned())
}

/// Values in bytes.
pub(crate) fn whole_bytes(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "a whole number of bytes is wanted, such as 4294967296 for 4 GiB".to_owned())
}

/// Amounts and sizes with a point in them, kept as they were written.
pub(crate) fn decimal(text: &str) -> Result<String, String> {
    match text.parse::<blueprint_common_types::Micros>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{error}; write a number with a point and no unit, such as 0.5")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_has_one_exit_code_and_is_named() {
        let error = std::fs::read("/nowhere/at-all").unwrap_err();
        let failed = unread("/nowhere/at-all".as_ref(), &error);
        assert_eq!(failed.exit.code(), 3);
        assert!(failed.message.starts_with("cannot read /nowhere/at-all: "), "{failed:?}");
    }

    #[test]
    fn numbers_that_are_none_say_what_is_wanted() {
        assert_eq!((whole::<u32>("40"), whole_bytes("7")), (Ok(40), Ok(7)));
        assert!(whole::<u16>("abc").unwrap_err().contains("such as 40"));
        assert!(whole_bytes("4G").unwrap_err().contains("4294967296"));
        assert_eq!(decimal("0.5").as_deref(), Ok("0.5"));
        assert!(decimal("4GB").unwrap_err().contains("such as 0.5"));
    }
}
