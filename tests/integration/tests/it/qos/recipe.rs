//! What `docs/qos.md` tells a customer to type who has OpenSSL and no hub, exactly as it is printed there.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Launch, scratch};

use crate::fixture::CALL;

/// The page.
const PAGE: &str = include_str!("../../../../../docs/qos.md");

/// The commands of the page after the words that introduce them.
fn commands() -> Result<&'static str> {
    let rest = PAGE.split("or with OpenSSL 3").nth(1).context("the page has no recipe for OpenSSL")?;
    let block = rest.split("```sh\n").nth(1).and_then(|block| block.split("```").next());
    block.context("no commands")
}

/// Runs them in a folder, as a customer does, and gives whether they succeed and what is printed.
fn run(folder: &Path) -> Result<(bool, String)> {
    let done = Launch::new("sh").args(["-e", "-c", commands()?]).folder(folder).run(CALL)?;
    Ok((done.code == Some(0), format!("{}{}", done.stdout, done.stderr)))
}

/// A report verifies with the hub's key; not once a byte is another, and not with another hub's key.
pub(super) fn check(report: &str, key: &str) -> Result<()> {
    let folder = scratch("customer")?;
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("october.csv"), report)?;
    std::fs::write(path("hub.pem"), key)?;
    let (ok, said) = run(folder.path())?;
    ensure!(ok && said.contains("Signature Verified Successfully"), "{said}");

    std::fs::write(path("october.csv"), report.replacen("99.95", "99.85", 1))?;
    let (ok, said) = run(folder.path())?;
    ensure!(!ok && said.contains("Signature Verification Failure"), "{said}");

    std::fs::write(path("october.csv"), report)?;
    let made = Launch::new("sh")
        .args(["-e", "-c", "openssl genpkey -algorithm ed25519 | openssl pkey -pubout -out hub.pem"])
        .folder(folder.path())
        .run(CALL)?;
    ensure!(made.code == Some(0), "{made:?}");
    let (ok, said) = run(folder.path())?;
    ensure!(!ok && said.contains("Signature Verification Failure"), "another key: {said}");
    Ok(())
}
