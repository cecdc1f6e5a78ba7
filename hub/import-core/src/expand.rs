//! `${NAME}` and `~`, as the files of today have them.

use std::fmt;

use blueprint_common_types::Secret;

/// Longest text after expansion, in bytes.
const MAX_EXPANDED: usize = 64 * 1024;

/// What is around a file: variables of the environment, and the home folder of who imports it.
pub struct Surroundings<'a> {
    /// Gives the value of a variable.
    pub variable: &'a dyn Fn(&str) -> Option<Secret<String>>,
    /// What `~` stands for.
    pub home: Option<String>,
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("home", &self.home).finish_non_exhaustive()
    }
}

/// A text after expansion. It may hold a secret where a variable went into it.
#[derive(Debug)]
pub(crate) struct Expanded {
    /// The text.
    pub(crate) text: Secret<String>,
    /// Names of the variables in it.
    pub(crate) names: Vec<String>,
}

impl Surroundings<'_> {
    /// Puts variables and the home folder in; `${NAME:-TEXT}` has a text for where NAME is not set, `$$` is one `$`.
    pub(crate) fn expand(&self, text: &str) -> Result<Expanded, String> {
        let (mut out, mut names) = (Secret::new(String::new()), Vec::new());
        let mut rest = text;
        if rest == "~" || rest.starts_with("~/") {
            let home =
                self.home.as_deref().ok_or("there is no home folder for the ~; write the path whole")?;
            out = Secret::new(home.to_owned());
            rest = rest.strip_prefix('~').unwrap_or(rest);
        }
        while let Some((before, after)) = rest.split_once('$') {
            let mut grown = out.expose().clone();
            grown.push_str(before);
            rest = if let Some(after) = after.strip_prefix('$') {
                grown.push('$');
                after
            } else if let Some(inner) = after.strip_prefix('{') {
                let (named, after) = inner.split_once('}').ok_or("a ${ has no }")?;
                let (name, default) = match named.split_once(":-") {
                    Some((name, default)) => (name, Some(default)),
                    None => (named, None),
                };
                if !is_name(name) {
                    return Err("what stands in ${...} is no name of a variable".to_owned());
                }
                match ((self.variable)(name), default) {
                    (Some(value), _) => {
                        names.push(name.to_owned());
                        grown.push_str(value.expose());
                    }
                    (None, Some(default)) => grown.push_str(default),
                    (None, None) => {
                        return Err(format!(
                            "the environment of this command has no {name}; set it and import again"
                        ));
                    }
                }
                after
            } else {
                grown.push('$');
                after
            };
            out = Secret::new(grown);
            if out.expose().len() > MAX_EXPANDED {
                return Err(format!("it has more than {MAX_EXPANDED} bytes once its variables are put in"));
            }
        }
        let mut whole = out.expose().clone();
        whole.push_str(rest);
        if whole.len() > MAX_EXPANDED {
            return Err(format!("it has more than {MAX_EXPANDED} bytes"));
        }
        Ok(Expanded { text: Secret::new(whole), names })
    }
}

/// Whether this is a name that a variable can have.
pub(crate) fn is_name(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.len() <= 128
        && name.starts_with(is_first)
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<String, String> {
        let variable = |name: &str| (name == "KEY").then(|| Secret::new("canary".to_owned()));
        let around = Surroundings { variable: &variable, home: Some("/home/op".to_owned()) };
        around.expand(text).map(|expanded| expanded.text.expose().clone())
    }

    #[test]
    fn variables_and_the_home_folder_are_put_in() {
        for (text, becomes) in [
            ("~/.ssh/id", "/home/op/.ssh/id"),
            ("~", "/home/op"),
            ("~other/x", "~other/x"),
            ("a${KEY}b", "acanaryb"),
            ("${NONE:-x}", "x"),
            ("$$5 $x", "$5 $x"),
            ("plain", "plain"),
        ] {
            assert_eq!(expand(text).as_deref(), Ok(becomes), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_put_in_is_said_without_any_value() {
        assert!(expand("${KEY}${NONE}").unwrap_err().contains("has no NONE"));
        assert!(expand("${KEY").unwrap_err().contains("no }"));
        assert!(expand("${a b}").unwrap_err().contains("no name"));
        assert!(expand(&"${KEY}".repeat(20_000)).unwrap_err().contains("more than"));
    }
}
