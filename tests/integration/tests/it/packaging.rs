//! What `packaging/release` has the programs do before it builds them for that.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Launch, Need, binary, require};

use crate::fixture::CALL;

/// A minute as packages are built, and more as tests are.
const LONG: Duration = Duration::from_secs(180);

#[test]
fn the_exercise_that_is_counted_runs_through_and_leaves_no_namespace() -> Result<()> {
    let tools = ["python3", "iperf3", "ping", "ip"].map(Need::Program);
    if !require(&[[Need::Root, Need::Device("/dev/net/tun")].as_slice(), &tools].concat()) {
        return Ok(());
    }
    let program = binary("bench-system")?;
    let folder = program.parent().context("the programs lie in no folder")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/exercise");
    let done = Launch::new(&script).arg("--quick").arg(folder).run(LONG)?;
    ensure!(done.code == Some(0), "{}", done.stderr);
    for part in ["streams to hub", "streams to two", "requests --http2", "requests --tunnel --http2"] {
        ensure!(done.stderr.contains(part), "nothing of {part}: {}", done.stderr);
    }
    let left = Launch::new("ip").args(["netns", "list"]).run(CALL)?;
    ensure!(!left.stdout.contains("bp-exercise-"), "{}", left.stdout);
    Ok(())
}
