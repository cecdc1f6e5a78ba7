//! What a name below the zone's domain means.

use blueprint_common_types::ServiceKey;

/// What somebody asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The domain itself.
    Apex,
    /// A name that only has names below it.
    Inner,
    /// The hub.
    Hub,
    /// The targets of a service.
    Service(ServiceKey),
    /// The same, asked by protocol: only SRV.
    ServiceByProtocol(ServiceKey),
    /// A machine, by name or id.
    Node(String),
}

/// Reads labels (lower case, leftmost first, without those of the domain); `None` where no such name can be.
pub(crate) fn subject(labels: &[&str]) -> Option<Subject> {
    Some(match *labels {
        [] => Subject::Apex,
        ["hub"] => Subject::Hub,
        ["node"] => Subject::Inner,
        [node, "node"] => Subject::Node(node.to_owned()),
        [blueprint] => {
            number(blueprint, 'b')?;
            Subject::Inner
        }
        [service, blueprint] => Subject::Service(key(service, blueprint)?),
        ["_tcp", service, blueprint] => {
            key(service, blueprint)?;
            Subject::Inner
        }
        ["_blueprint", "_tcp", service, blueprint] => Subject::ServiceByProtocol(key(service, blueprint)?),
        _ => return None,
    })
}

fn key(service: &str, blueprint: &str) -> Option<ServiceKey> {
    Some(ServiceKey { blueprint: number(blueprint, 'b')?, service: number(service, 's')? })
}

/// A letter and a number as it is usually written: no sign, no leading zero.
fn number(label: &str, letter: char) -> Option<u64> {
    let digits = label.strip_prefix(letter)?;
    let value: u64 = digits.parse().ok()?;
    (value.to_string() == digits).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_services_machines_and_the_hub() {
        let service = ServiceKey { blueprint: 7, service: 42 };
        for (labels, meant) in [
            (&[][..], Subject::Apex),
            (&["hub"], Subject::Hub),
            (&["node"], Subject::Inner),
            (&["b7"], Subject::Inner),
            (&["_tcp", "s42", "b7"], Subject::Inner),
            (&["s42", "b7"], Subject::Service(service)),
            (&["_blueprint", "_tcp", "s42", "b7"], Subject::ServiceByProtocol(service)),
            (&["web-1", "node"], Subject::Node("web-1".to_owned())),
        ] {
            assert_eq!(subject(labels), Some(meant), "{labels:?}");
        }
        let last = format!("s{}", u64::MAX);
        assert!(subject(&[&last, "b0"]).is_some());
    }

    #[test]
    fn a_number_has_one_spelling() {
        for labels in [
            &["s042", "b7"][..],
            &["s+42", "b7"],
            &["s", "b7"],
            &["s18446744073709551616", "b7"],
            &["b7", "s42"],
            &["x"],
            &["a", "b", "node"],
            &["_udp", "s42", "b7"],
            &["_other", "_tcp", "s42", "b7"],
            &["x", "s42", "b7"],
        ] {
            assert_eq!(subject(labels), None, "{labels:?}");
        }
    }
}
