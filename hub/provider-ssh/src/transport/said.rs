//! What the end of a connection means.

use std::collections::BTreeMap;

use crate::error::HostError;

/// Longest text of a host that goes into an error.
const MAX_QUOTED: usize = 200;

/// How a client ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Its exit code; `None` where it took too long.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    /// How long it had.
    pub(crate) within_secs: u64,
}

/// What a script said, by its words. It comes from a machine that may be anybody's by now.
#[derive(Debug, Default)]
pub(crate) struct Said(BTreeMap<String, Vec<String>>);

impl Said {
    fn read(out: &str) -> Self {
        let mut words: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in out.lines().filter_map(|line| line.strip_prefix("bp ")) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            words.entry(word.to_owned()).or_default().push(rest.to_owned());
        }
        Self(words)
    }

    /// The first thing that was said of `word`.
    pub(crate) fn word(&self, word: &str) -> Option<&str> {
        self.all(word).first().map(String::as_str)
    }

    /// Everything that was said of it.
    pub(crate) fn all(&self, word: &str) -> &[String] {
        self.0.get(word).map(Vec::as_slice).unwrap_or_default()
    }

    fn has(&self, word: &str) -> bool {
        self.0.contains_key(word)
    }
}

/// Ways of OpenSSH to say that a host shows another key than the one that is pinned.
const HOST_KEY: [&str; 4] = [
    "REMOTE HOST IDENTIFICATION HAS CHANGED",
    "Host key verification failed",
    "host key is known for",
    "no matching host key type found",
];

/// Ways of OpenSSH to say that no session came about.
const BEFORE: [&str; 5] = [
    "connect to host",
    "Could not resolve",
    "banner exchange",
    "kex_exchange_identification",
    "stdio forwarding failed",
];

/// What `ending` means; `user` logged in. Where a script ran as root, nothing counts as not begun that only did not say so.
pub(crate) fn judge(ending: Ending, user: &str, as_root: bool) -> Result<Said, HostError> {
    let said = Said::read(&ending.out);
    let last = line(&ending.err);
    let user = user.to_owned();
    if let Some(failure) = said.word("fail") {
        return Err(failed(failure, user));
    }
    if ending.code == Some(0) && (said.has("done") || said.has("end")) {
        return Ok(said);
    }
    if said.has("begin") {
        let end = match ending.code {
            Some(code) => format!("exit code {code}: {last}"),
            None => format!("no end within {} s", ending.within_secs),
        };
        return Err(HostError::Lost { said: end });
    }
    let has = |text: &str| ending.err.contains(text);
    let is_clients = ending.code == Some(255);
    let is_told = is_clients || !as_root;
    if is_told && HOST_KEY.iter().any(|text| has(text)) {
        return Err(HostError::HostKey);
    }
    // That of the host, which the client passes on: sudo also says things and goes on.
    if has("sudo:") && ending.code.is_some_and(|code| code != 0 && code != 255) {
        return Err(HostError::NoSudo { user });
    }
    if is_told && (has("Permission denied (") || has("Too many authentication failures")) {
        return Err(HostError::Auth { user });
    }
    let is_before = BEFORE.iter().any(|text| has(text));
    match ending.code {
        None if as_root => {
            Err(HostError::Lost { said: format!("no answer within {} s", ending.within_secs) })
        }
        Some(255) if as_root && !is_before => Err(HostError::Lost { said: last }),
        None => Err(HostError::Unreached { said: format!("no answer within {} s", ending.within_secs) }),
        Some(255) => Err(HostError::Unreached { said: last }),
        Some(code) => {
            Err(HostError::Nonsense { said: format!("exit code {code}: {last}{}", line(&ending.out)) })
        }
    }
}

/// What a script gave up for.
fn failed(text: &str, user: String) -> HostError {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let said = line(rest);
    match word {
        "root" => HostError::NoSudo { user },
        "missing" => HostError::Lacks { what: said },
        "arch" => HostError::Lacks { what: format!("the processor of the inventory: {said}") },
        "foreign" => HostError::Foreign,
        "taken" => HostError::Taken { by: said },
        "absent" => HostError::Absent,
        "busy" => HostError::Busy { said },
        _ => HostError::Refused { said },
    }
}

/// The last line that says something, as it may stand in a log.
fn line(text: &str) -> String {
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    last.chars().filter(|c| !c.is_control()).take(MAX_QUOTED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(code: Option<i32>, out: &str, err: &str) -> Result<Said, HostError> {
        judge(Ending { code, out: out.to_owned(), err: err.to_owned(), within_secs: 8 }, "ops", false)
    }

    #[test]
    fn a_script_of_root_that_may_have_begun_is_lost_and_not_harmless() {
        let end = |code, err: &str| {
            let ending = Ending { code, out: String::new(), err: err.to_owned(), within_secs: 8 };
            judge(ending, "ops", true).unwrap_err()
        };
        for (code, err) in [
            (None, ""),
            (None, "sudo: unable to resolve host h"),
            (Some(255), ""),
            (Some(255), "Connection to h closed by remote host."),
            (Some(255), "sudo: unable to resolve host h\r\nTimeout, server h not responding."),
            (Some(255), "sh: 1: cannot open x: Permission denied"),
            (Some(0), ""),
            (Some(2), "sh: 1: Syntax error"),
        ] {
            let error = end(code, err);
            assert!(!error.is_harmless(), "{code:?} {err}: {error:?}");
        }
        for (code, err) in [
            (255, "ssh: connect to host h port 22: Connection timed out"),
            (255, "ssh: Could not resolve hostname h: Name or service not known"),
            (255, "channel 0: open failed: connect failed: No route to host\r\nstdio forwarding failed"),
            (255, "Connection timed out during banner exchange"),
            (255, "Host key verification failed."),
            (255, "ops@h: Permission denied (publickey)."),
            (1, "sudo: a password is required"),
        ] {
            let error = end(Some(code), err);
            assert!(error.is_harmless(), "{code} {err}: {error:?}");
        }
    }

    #[test]
    fn every_end_has_its_case() {
        let case = |code, out: &str, err: &str| {
            let error = end(code, out, err).unwrap_err();
            let name = format!("{error:?}");
            name.split([' ', '{']).next().unwrap_or_default().to_owned()
        };
        for (code, out, err, wanted) in [
            (Some(255), "", "@@@\r\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!  @\r\n", "HostKey"),
            (
                Some(255),
                "",
                "No ED25519 host key is known for bp-x and you have requested strict checking.\r\nHost key verification failed.\r\n",
                "HostKey",
            ),
            (
                Some(255),
                "",
                "Unable to negotiate with 10.0.0.1 port 22: no matching host key type found. Their offer: ssh-rsa",
                "HostKey",
            ),
            (Some(255), "", "ops@h: Permission denied (publickey).", "Auth"),
            (Some(255), "", "ssh: connect to host h port 22: Connection refused", "Unreached"),
            (Some(255), "", "ssh: Could not resolve hostname h: Name or service not known", "Unreached"),
            (None, "", "", "Unreached"),
            (Some(1), "", "sudo: a password is required", "NoSudo"),
            (Some(127), "", "sh: 1: exec: sudo: not found", "NoSudo"),
            (Some(255), "bp begin\n", "Connection closed", "Lost"),
            (None, "bp begin\n", "", "Lost"),
            (Some(0), "hello\n", "", "Nonsense"),
            (Some(9), "bp begin\nbp fail taken hub=x key=y\n", "", "Taken"),
            (Some(9), "bp begin\nbp fail missing curl\n", "", "Lacks"),
            (Some(9), "bp begin\nbp fail arch x\n", "", "Lacks"),
            (Some(9), "bp begin\nbp fail foreign x\n", "", "Foreign"),
            (Some(9), "bp begin\nbp fail absent x\n", "", "Absent"),
            (Some(9), "bp begin\nbp fail busy x\n", "", "Busy"),
            (Some(9), "bp begin\nbp fail root x\n", "", "NoSudo"),
            (Some(9), "bp begin\nbp fail other disk full\n", "", "Refused"),
        ] {
            assert_eq!(case(code, out, err), wanted, "{out}{err}");
        }
        let said = end(Some(0), "bp begin\nbp claim a=b\nbp claim c=d\nnoise\nbp done\n", "").unwrap();
        assert_eq!(said.all("claim"), ["a=b", "c=d"]);
        assert_eq!(said.word("begin"), Some(""));
    }

    #[test]
    fn what_a_host_says_is_one_short_line_in_an_error() {
        let error = end(Some(9), &format!("bp fail other \u{1b}[31m{}\n", "x".repeat(5000)), "").unwrap_err();
        let text = error.to_string();
        assert!(text.len() <= MAX_QUOTED && !text.contains('\u{1b}'), "{}", text.len());
    }
}
