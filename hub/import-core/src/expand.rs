//! `${NAME}` and `~`, as the files of today have them.

use std::cell::Cell;
use std::fmt;

use blueprint_common_types::Secret;

/// Longest text after expansion, in bytes.
const MAX_EXPANDED: usize = 64 * 1024;

/// Most bytes of all texts of one file after expansion.
const MAX_EXPANDED_FILE: usize = 8 * 1024 * 1024;

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

/// What is around a file, and how much of it may still go into that file.
pub(crate) struct Around<'a> {
    of: &'a Surroundings<'a>,
    left: Cell<usize>,
}

/// A text after expansion. It may hold a secret where a variable went into it.
#[derive(Debug)]
pub(crate) struct Expanded {
    /// The text.
    pub(crate) text: Secret<String>,
    /// The first variable of the environment that is in it.
    pub(crate) variable: Option<String>,
}

/// A part of a text after expansion.
enum Piece<'a> {
    Plain(&'a str),
    Value(Secret<String>),
}

impl Piece<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Value(value) => value.expose(),
        }
    }
}

/// Parts of one text, within its bound.
#[derive(Default)]
struct Pieces<'a> {
    all: Vec<Piece<'a>>,
    length: usize,
}

impl<'a> Pieces<'a> {
    fn push(&mut self, piece: Piece<'a>) -> Result<(), String> {
        self.length = self.length.saturating_add(piece.text().len());
        if self.length > MAX_EXPANDED {
            return Err(format!("it has more than {MAX_EXPANDED} bytes once its variables are put in"));
        }
        if !piece.text().is_empty() {
            self.all.push(piece);
        }
        Ok(())
    }
}

impl<'a> Around<'a> {
    pub(crate) const fn new(of: &'a Surroundings<'a>) -> Self {
        Self { of, left: Cell::new(MAX_EXPANDED_FILE) }
    }

    /// Puts variables and the home folder in; `${NAME:-TEXT}` has a text for where NAME is not set, `$$` is one `$`.
    pub(crate) fn expand(&self, text: &str) -> Result<Expanded, String> {
        let (mut pieces, mut variable) = (Pieces::default(), None);
        let mut rest = text;
        if rest == "~" || rest.starts_with("~/") {
            let home = self.of.home.as_deref();
            pieces
                .push(Piece::Plain(home.ok_or("there is no home folder for the ~; write the path whole")?))?;
            rest = rest.strip_prefix('~').unwrap_or(rest);
        }
        while let Some((before, after)) = rest.split_once('$') {
            pieces.push(Piece::Plain(before))?;
            rest = if let Some(inner) = after.strip_prefix('{') {
                let (named, after) = inner.split_once('}').ok_or("a ${ has no }")?;
                let (name, default) = match named.split_once(":-") {
                    Some((name, default)) => (name, Some(default)),
                    None => (named, None),
                };
                if !is_name(name) {
                    return Err("what stands in ${...} is no name of a variable".to_owned());
                }
                match ((self.of.variable)(name), default) {
                    (Some(value), _) => {
                        variable.get_or_insert_with(|| name.to_owned());
                        pieces.push(Piece::Value(value))?;
                    }
                    (None, Some(default)) => pieces.push(Piece::Plain(default))?,
                    (None, None) => {
                        return Err(format!(
                            "the environment of this command has no {name}; set it and import again"
                        ));
                    }
                }
                after
            } else {
                pieces.push(Piece::Plain("$"))?;
                after.strip_prefix('$').unwrap_or(after)
            };
        }
        pieces.push(Piece::Plain(rest))?;
        let left = self.left.get().checked_sub(pieces.length).ok_or_else(|| {
            format!("the file has more than {MAX_EXPANDED_FILE} bytes once its variables are put in")
        })?;
        self.left.set(left);
        // Of its whole length from the beginning: one that grows would leave copies that nobody wipes.
        let mut whole = String::with_capacity(pieces.length);
        pieces.all.iter().for_each(|piece| whole.push_str(piece.text()));
        Ok(Expanded { text: Secret::new(whole), variable })
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
        Around::new(&around).expand(text).map(|expanded| expanded.text.expose().clone())
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

    #[test]
    fn the_texts_of_a_file_are_bounded_together() {
        let variable = |_: &str| Some(Secret::new("x".repeat(60_000)));
        let around = Surroundings { variable: &variable, home: None };
        let around = Around::new(&around);
        let taken = (0..1000).take_while(|_| around.expand("${A}").is_ok()).count();
        assert_eq!(taken, MAX_EXPANDED_FILE / 60_000);
        assert!(around.expand("${A}").unwrap_err().contains("the file has more than"));
    }
}
