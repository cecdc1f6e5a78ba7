//! Keys set in the text of `hub.toml`, with everything else left as the operator wrote it.

/// The text with these keys set: where a key stands, also as a comment, its line is replaced; else it goes under its section.
pub(super) fn with(text: &str, set: &[(String, String)]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (key, value) in set {
        place(&mut lines, key, &written(value));
    }
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

fn place(lines: &mut Vec<String>, key: &str, value: &str) {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let stands = find(lines, key, false).or_else(|| find(lines, key, true));
    if let Some((at, written)) = stands {
        if let Some(line) = lines.get_mut(at) {
            *line = format!("{written} = {value}");
        }
        return;
    }
    let header = |lines: &[String], section: &str| {
        lines.iter().position(|line| header_of(line).as_deref() == Some(section))
    };
    if let Some(at) = header(lines, section) {
        lines.insert(at.saturating_add(1), format!("{name} = {value}"));
        return;
    }
    let outer = section.split_once('.');
    match outer.and_then(|(outer, inner)| Some((header(lines, outer)?, inner))) {
        Some((at, inner)) => lines.insert(at.saturating_add(1), format!("{inner}.{name} = {value}")),
        None if section.is_empty() => lines.insert(0, format!("{name} = {value}")),
        None => lines.extend([String::new(), format!("[{section}]"), format!("{name} = {value}")]),
    }
}

/// Line of a key, and how its name is written there.
fn find(lines: &[String], key: &str, as_comment: bool) -> Option<(usize, String)> {
    let mut section = String::new();
    for (line, at) in lines.iter().zip(0usize..) {
        if let Some(header) = header_of(line) {
            section = header;
            continue;
        }
        let is_comment = line.trim_start().starts_with('#');
        if is_comment != as_comment {
            continue;
        }
        let text = line.trim_start().trim_start_matches('#').trim_start();
        let Some(name) = text.split_once('=').map(|(name, _)| name.trim()) else { continue };
        let whole = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
        if whole == key {
            return Some((at, name.to_owned()));
        }
    }
    None
}

/// The section that a line opens.
fn header_of(line: &str) -> Option<String> {
    let line = line.split_once('#').map_or(line, |(line, _)| line).trim();
    let name = line.strip_prefix('[')?.strip_suffix(']')?;
    let is_array = name.starts_with('[');
    Some(if is_array { format!("[{name}]") } else { name.trim().to_owned() })
}

/// A value as TOML: numbers and booleans as they are, all else as a text.
fn written(value: &str) -> String {
    let is_plain = value.parse::<u64>().is_ok() || value.parse::<bool>().is_ok();
    if is_plain { value.to_owned() } else { ::toml::Value::String(value.to_owned()).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str, key: &str, value: &str) -> String {
        with(text, &[(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_key_takes_the_place_of_its_line_or_of_its_comment() {
        let text = "# head\n\n[tunnel]\nmtu = 1400 # as it is\n#keepalive = \"20s\"\n\n[providers.aws]\n# enabled = false\n";
        assert_eq!(
            with(
                text,
                &[
                    ("tunnel.keepalive".to_owned(), "25s".to_owned()),
                    ("tunnel.mtu".to_owned(), "1300".to_owned()),
                    ("providers.aws.enabled".to_owned(), "true".to_owned()),
                ]
            ),
            "# head\n\n[tunnel]\nmtu = 1300\nkeepalive = \"25s\"\n\n[providers.aws]\nenabled = true\n"
        );
    }

    #[test]
    fn a_key_that_is_not_there_goes_under_its_section() {
        assert_eq!(set("[hub]\nx = 1\n", "hub.advertise", "a\"b"), "[hub]\nadvertise = 'a\"b'\nx = 1\n");
        assert_eq!(
            set("[providers]\nx = 1\n", "providers.aws.enabled", "true"),
            "[providers]\naws.enabled = true\nx = 1\n"
        );
        assert_eq!(set("", "a.b", "c"), "\n[a]\nb = \"c\"\n");
        let dotted = "[providers]\naws.enabled = false\n";
        assert_eq!(set(dotted, "providers.aws.enabled", "true"), "[providers]\naws.enabled = true\n");
    }
}
