//! Lines of text that agents send.

/// Longest reason kept of what an agent reports, in characters.
pub const MAX_REASON_CHARS: usize = 200;

/// One line of at most [`MAX_REASON_CHARS`] out of whatever an agent sent; what is longer ends behind a word, with an ellipsis.
#[must_use]
pub fn clean_line(text: &str) -> String {
    let mut line: String = text.chars().filter(|c| !c.is_control()).take(MAX_REASON_CHARS + 1).collect();
    if line.chars().count() <= MAX_REASON_CHARS {
        return line;
    }
    let kept = line.char_indices().nth(MAX_REASON_CHARS - 1).map_or(line.len(), |(at, _)| at);
    line.truncate(kept);
    // A word that fills most of the line is cut.
    if let Some(word) = line.rfind(' ').filter(|at| *at > kept / 2) {
        line.truncate(word);
    }
    line.truncate(line.trim_end_matches([' ', ':', ',', ';']).len());
    line.push('\u{2026}');
    line
}
