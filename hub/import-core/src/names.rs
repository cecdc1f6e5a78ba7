//! Names of providers, as different tools write them, and the nearest of known names.

/// The hub's name of a provider; `None` where this is the name of none that it knows.
#[must_use]
pub fn provider(written: &str) -> Option<&'static str> {
    let plain: String =
        written.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    Some(match plain.as_str() {
        "aws" | "awsec2" | "ec2" | "amazon" => "aws",
        "gcp" | "gcpgce" | "gce" | "google" | "googlecloud" => "gcp",
        "azure" | "azurevm" => "azure",
        "digitalocean" | "digitaloceandroplet" | "do" | "droplet" => "digitalocean",
        "vultr" | "vultrinstance" => "vultr",
        "linode" | "akamai" => "linode",
        "scaleway" => "scaleway",
        "hivelocity" => "hivelocity",
        "ssh" | "sshremote" | "baremetal" => "ssh",
        "localdocker" | "dockerlocal" => "local-docker",
        "docker" | "dockerremote" => "docker",
        "sim" => "sim",
        "localvm" => "local-vm",
        _ => return None,
    })
}

/// The key that holds the regions of a provider; `None` where it has no such key.
pub(crate) fn regions_key(provider: &str) -> Option<&'static str> {
    Some(match provider {
        "aws" => "providers.aws.regions",
        "azure" => "providers.azure.regions",
        "digitalocean" => "providers.digitalocean.regions",
        "gcp" => "providers.gcp.regions",
        "linode" => "providers.linode.regions",
        "vultr" => "providers.vultr.regions",
        "scaleway" => "providers.scaleway.zones",
        "hivelocity" => "providers.hivelocity.facilities",
        _ => return None,
    })
}

/// Clouds that today's tools name and that this hub has no provider for, with what to do.
pub(crate) fn why_not(written: &str) -> String {
    let plain = written.to_ascii_lowercase();
    if plain.starts_with("equinix") || plain == "packet" {
        return "Equinix Metal ended on 2026-06-30; `blueprint-hub offers` says who sells the like"
            .to_owned();
    }
    format!(
        "this hub has no provider {}; a machine that you have there joins by `blueprint-agent join`, or by SSH \
         (docs/ssh.md)",
        crate::report::shown(written)
    )
}

/// What to say of clusters.
pub(crate) const NO_CLUSTERS: &str = "the hub orders machines, and no clusters: run the agent in the cluster with a join token \
                                      (`blueprint-hub token create`), or order machines of a cloud with --provider";

/// The known name that differs least from `typed`, where that is little.
pub(crate) fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    // A name that is far too long is like none of them, and the table would take long.
    if typed.len() > 64 {
        return None;
    }
    known
        .iter()
        .map(|name| (distance(typed, name), *name))
        .min()
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .map(|(_, name)| name)
}

/// Single edits between two texts, by the table of Wagner and Fischer row by row.
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
    fn providers_are_known_by_every_spelling_of_today() {
        for (written, name) in [
            ("AWS", Some("aws")),
            ("AwsEc2", Some("aws")),
            ("DigitalOcean", Some("digitalocean")),
            ("do", Some("digitalocean")),
            ("equinix-metal", None),
            ("SshRemote", Some("ssh")),
            ("Hetzner", None),
        ] {
            assert_eq!(provider(written), name, "{written}");
        }
    }

    #[test]
    fn only_a_near_name_is_offered() {
        assert_eq!(
            nearest("prefered_providers", &["mode", "preferred_providers"]),
            Some("preferred_providers")
        );
        assert_eq!(nearest("zebra", &["mode", "kind"]), None);
        assert_eq!(nearest(&"x".repeat(10_000), &["mode"]), None);
    }
}
