//! What people are told of the stream.

use blueprint_common_link_core::LinkEnd;

/// Why the stream ended, for people.
pub(super) fn end_text(end: LinkEnd, hub: &str) -> String {
    match end {
        LinkEnd::Broken => format!("the control stream to {hub} broke"),
        LinkEnd::TimedOut => format!("{hub} did not answer in time"),
        LinkEnd::Silent => format!("{hub} fell silent"),
        LinkEnd::Shutdown => format!("{hub} stopped and said that it will be back"),
        LinkEnd::Replaced => {
            format!("another process with this agent's identity took the control stream to {hub} over")
        }
        LinkEnd::Expired => "the certificate ran out".to_owned(),
        LinkEnd::Revoked => "the hub removed this agent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_says_something_of_its_own() {
        let ends = [
            LinkEnd::Broken,
            LinkEnd::TimedOut,
            LinkEnd::Silent,
            LinkEnd::Shutdown,
            LinkEnd::Replaced,
            LinkEnd::Expired,
            LinkEnd::Revoked,
        ];
        let texts: std::collections::BTreeSet<_> = ends.map(|end| end_text(end, "hub:1")).into();
        assert_eq!(texts.len(), ends.len());
    }
}
