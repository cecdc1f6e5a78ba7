//! The known name that a mistyped one most likely means.

/// The candidate nearest to `typed`, unless even that one differs in more than half of it.
pub(super) fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    let limit = (typed.chars().count() / 2).max(2);
    candidates
        .into_iter()
        .map(|candidate| (distance(&typed, &candidate.to_lowercase()), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= limit)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace one character) between two texts, by Wagner and Fischer's table row by row.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, a) in from.chars().enumerate() {
        let mut left = index.saturating_add(1);
        let mut next = vec![left];
        for (b, above) in to.iter().zip(row.windows(2)) {
            let &[diagonal, up] = above else { continue };
            let replaced = diagonal.saturating_add(usize::from(a != *b));
            left = replaced.min(up.saturating_add(1)).min(left.saturating_add(1));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_edits() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("listen", "listne"), 2);
    }

    #[test]
    fn only_a_near_name_is_offered() {
        let names = ["tunnel.listen", "tunnel.mtu", "proxy.listen"];
        assert_eq!(nearest("tunnel.lisen", names), Some("tunnel.listen"));
        assert_eq!(nearest("Tunnel.MTU", names), Some("tunnel.mtu"));
        assert_eq!(nearest("zzzz", names), None);
    }
}
