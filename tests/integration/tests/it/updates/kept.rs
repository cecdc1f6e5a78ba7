//! Versions past `workloads.keep_versions`: they are gone, what is in use or gone back to is not, and a rollback says which are there.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::Rig;
use crate::fixture::rows;

/// Numbers of the versions that are kept, the newest first.
fn kept(history: &Value) -> Result<Vec<u64>> {
    Ok(rows(history, "/versions")?.iter().filter_map(|row| row["version"].as_u64()).collect())
}

impl Rig {
    fn keeps(&self, numbers: &[u64]) -> Result<()> {
        let history = self.hub.json(&["workload", "history", "7/42"])?;
        ensure!(kept(&history)? == numbers, "{numbers:?} and not {history}");
        Ok(())
    }
}

#[test]
fn a_lowered_number_of_versions_leaves_what_is_used_and_a_rollback_says_what_is_kept() -> Result<()> {
    let Some(mut rig) = Rig::start()? else { return Ok(()) };
    let quick = ["--skip-health-check", "--pause", "0s", "--drain", "5s"];
    for (number, name) in (2u64..).zip(["two", "three", "four"]) {
        let done = rig.update(name, &quick)?;
        ensure!(done["version"] == number, "{done}");
    }
    rig.keeps(&[4, 3, 2, 1])?;

    // The next start of the hub throws away what is too many, and says so.
    rig.hub.kill()?;
    rig.hub = rig.hub.set("workloads.keep_versions=2");
    rig.hub.start_again()?;
    rig.is_alone(4, "four")?;
    rig.keeps(&[4, 3])?;
    let audit = rig.hub.audit()?.join("\n");
    ensure!(audit.contains("workload.forget 7/42 2 versions are kept, thrown away: 1, 2"), "{audit}");
    for gone in ["1", "2", "9"] {
        let (code, why) = rig.refused(&["rollback", "7/42", "--version", gone])?;
        let told = format!("version {gone} of 7/42 is not kept, but 4, 3 (workloads.keep_versions is 2)");
        ensure!(code == Some(3) && why.contains(&told), "{code:?} {why}");
    }
    let shown = rig.hub.command(&["workload", "history", "7/42"])?.run(super::THROUGH)?;
    ensure!(shown.stdout.contains("those that are missing here were thrown away"), "{}", shown.stdout);

    // While it goes back to the third, that is a version too many; a hub that starts anew keeps it all the same.
    rig.json(&["rollback", "7/42", "--version", "3", "--health-time", "5s", "--pause", "0s"])?;
    rig.wait_phase("proving")?;
    rig.keeps(&[5, 4, 3])?;
    rig.hub.kill()?;
    rig.hub.start_again()?;
    rig.keeps(&[5, 4, 3])?;
    rig.wait_over()?;
    rig.is_alone(5, "three")?;
    rig.keeps(&[5, 4])?;

    // A version that failed takes the place of none that served: the way back is still there.
    let none = ["update", "7/42", "--path", "/nonexistent/program", "--health-time", "1s", "--wait", "80s"];
    let (code, why) = rig.refused(&none)?;
    ensure!(code == Some(1) && why.contains("version 6 cannot be run"), "{code:?} {why}");
    rig.keeps(&[6, 5, 4])?;
    let done = rig.json(&[&["rollback", "7/42", "--wait", "80s"][..], &quick].concat())?;
    ensure!(done["version"] == 7, "{done}");
    rig.is_alone(7, "four")?;
    rig.keeps(&[7, 5])
}
