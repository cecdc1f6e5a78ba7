//! Runs the tests that a policy carries.

use serde::Serialize;

use super::document::{PolicyTest, Selector};
use super::machines::MachineSet;
use super::mesh::{Decision, Mesh, MeshRefusal};
use super::traffic::Traffic;

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The policy does what the test expects.
    Pass,
    /// It does not.
    Fail,
    /// A machine of an optional test has not joined.
    Skip,
}

/// How a test ended, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestOutcome {
    /// Name of the test.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// One line for each kind of traffic that is not as expected, or for a machine that is missing.
    pub problems: Vec<String>,
}

impl Mesh<'_> {
    /// Runs every test of the document, in the order of the text: those of traffic first, and then those of sessions.
    ///
    /// # Errors
    ///
    /// As [`Mesh::check`]: nothing is run where the bounds do not hold.
    pub fn run_tests(&self) -> Result<Vec<TestOutcome>, MeshRefusal> {
        self.check()?;
        let traffic = self.document.tests.iter().map(|test| self.run(test));
        let sessions = self.document.session_tests.iter().map(|test| self.run_session(test));
        Ok(traffic.chain(sessions).collect())
    }

    fn run(&self, test: &PolicyTest) -> TestOutcome {
        let outcome = |verdict, problems| TestOutcome { name: test.name.clone(), verdict, problems };
        let (from, to) = match (self.named(&test.from), self.named(&test.to)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(error), _) | (_, Err(error)) => {
                let verdict = if test.is_optional { Verdict::Skip } else { Verdict::Fail };
                return outcome(verdict, vec![error.to_string()]);
            }
        };
        let is_open = [&test.from, &test.to].contains(&&Selector::All);
        // Where "*" is meant, nobody to look at is no fault: a hub without machines keeps every promise.
        if !is_open && from.pairs(&to, usize::MAX) == 0 {
            let problem =
                format!("{:?} and {:?} are the same machine", test.from.to_string(), test.to.to_string());
            return outcome(Verdict::Fail, vec![problem]);
        }
        let wrongly_denied = test.allow.iter().filter_map(|kind| self.wrong(&from, &to, *kind, true));
        let wrongly_allowed = test.deny.iter().filter_map(|kind| self.wrong(&from, &to, *kind, false));
        let problems: Vec<_> = wrongly_denied.chain(wrongly_allowed).collect();
        outcome(if problems.is_empty() { Verdict::Pass } else { Verdict::Fail }, problems)
    }

    /// The first pair between which `traffic` is not what it should be, in words.
    fn wrong(
        &self,
        from: &MachineSet,
        to: &MachineSet,
        traffic: Traffic,
        should_pass: bool,
    ) -> Option<String> {
        let touching = self.touching(traffic);
        if touching.is_empty() && !should_pass {
            return None;
        }
        // A kind that must not pass must not pass in part, so what touches it is wrong already.
        let is_wrong = |decision: &Decision| {
            if should_pass { !decision.allowed } else { !decision.by.is_empty() }
        };
        let mut decisions = Self::pairs(from, to).filter_map(|pair| self.decide(&touching, pair, traffic));
        let decision = decisions.find(is_wrong)?;
        let pair = format!("{traffic} from {} to {}", decision.from_name, decision.to_name);
        let by = decision.by.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        Some(match (should_pass, decision.by.is_empty()) {
            (true, true) => format!("{pair} should be allowed, and no grant allows it"),
            (true, false) => format!("{pair} should be allowed, and is only in part, by {by}"),
            (false, _) => format!("{pair} should be denied, and {by} allows it"),
        })
    }
}
