//! Searches in the text of sources.

/// The one module, with its children, that may hold such code.
const HOME: [&str; 2] = ["common/tunnel/src/sys.rs", "common/tunnel/src/sys/"];

/// The keyword, spelt so that this file does not find itself.
const KEYWORD: &str = concat!("uns", "afe");

/// Lines of the source `text` at `path` with code that the compiler does not check, outside its one home.
#[must_use]
pub fn unchecked_code(path: &str, text: &str) -> Vec<String> {
    if path == HOME[0] || path.starts_with(HOME[1]) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if opens_unchecked(code) {
            found.push(format!("{path}:{}: {}", index + 1, line.trim()));
        }
    }
    found
}

/// Whether `code` has the keyword before a block, function, impl, trait or extern, or lifts its lint.
fn opens_unchecked(code: &str) -> bool {
    let lifted =
        ["allow", "expect", "warn"].iter().any(|level| code.contains(&format!("{level}({KEYWORD}_code")));
    lifted
        || code.match_indices(KEYWORD).any(|(at, _)| {
            let before = code.get(..at).unwrap_or_default().chars().next_back();
            let after = code.get(at + KEYWORD.len()..).unwrap_or_default();
            let is_word = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"');
            let next = after.trim_start();
            let opens = ["{", "fn ", "impl", "trait ", "extern"].iter().any(|word| next.starts_with(word));
            is_word && (opens || after.starts_with('(') || after.trim().is_empty())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_and_prose_is_not() {
        for code in [" { x() }", " fn f() {}", " impl Send for X {}", " extern \"C\" {", ""] {
            let line = format!("let a = {KEYWORD}{code}");
            assert_eq!(unchecked_code("hub/src/lib.rs", &line).len(), 1, "{line}");
        }
        let lint = format!("#![allow({KEYWORD}_code, reason = \"\")]");
        assert_eq!(unchecked_code("hub/src/lib.rs", &lint).len(), 1);
        for prose in
            ["// {K} { }", "/// is {K}", "\"{K} header\"", "let {K}_names = 1;", "{K}_code = \"deny\""]
        {
            let line = prose.replace("{K}", KEYWORD);
            assert_eq!(unchecked_code("hub/src/lib.rs", &line), Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn the_home_of_such_code_is_left_alone() {
        let line = format!("{KEYWORD} {{ }}");
        assert!(unchecked_code("common/tunnel/src/sys.rs", &line).is_empty());
        assert!(unchecked_code("common/tunnel/src/sys/tun.rs", &line).is_empty());
        assert!(!unchecked_code("common/tunnel/src/system.rs", &line).is_empty());
    }
}
