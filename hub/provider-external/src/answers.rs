//! What a plugin answers, checked like what a cloud answers.

use std::collections::BTreeSet;
use std::time::Duration;

use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provider_kit::redacted;
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{Instance, InstanceState, ProviderError, Tags};
use blueprint_proto::plugin;
use plugin::failure::Class;
use plugin::machine::State;

/// Most rows of a list.
pub(crate) const MAX_ROWS: usize = 10_000;

/// Most that an hour can cost: 10,000 dollars. Nothing for hire costs as much (`docs/prices.md`).
const MAX_HOURLY: u64 = 10_000_000_000;

/// What join tokens begin with.
const TOKEN: &str = "bpj_";

/// Longest name of a plan or region, and longest name of a machine.
const MAX_NAME: usize = 64;
const MAX_ID: usize = 256;

/// An answer that cannot be believed.
#[derive(Debug, thiserror::Error)]
#[error("the plugin's answer cannot be believed: {0}")]
struct Unbelievable(String);

pub(crate) fn unbelievable(call: &'static str, why: impl Into<String>) -> ProviderError {
    ProviderError::Other { call, source: Box::new(Unbelievable(why.into())) }
}

/// What the plugin says for people, in one line and without what may be a secret.
pub(crate) fn said(text: &str) -> String {
    // It was told a join token, and may repeat what it was told.
    if text.contains(TOKEN) {
        return "the plugin repeats a join token, so its words are not shown".to_owned();
    }
    let text: String = redacted(text.as_bytes()).chars().take(300).collect();
    if text.is_empty() { "the plugin does not say why".to_owned() } else { text }
}

/// What a failure means. `action` is what a cloud cannot do that does not support the call.
pub(crate) fn failed(call: &'static str, action: &'static str, failure: &plugin::Failure) -> ProviderError {
    let text = said(&failure.message);
    match failure.class() {
        Class::Throttle => {
            let wait = Duration::from_millis(failure.retry_after_ms).min(Duration::from_secs(3600));
            ProviderError::Throttle { retry_after: (!wait.is_zero()).then_some(wait) }
        }
        Class::Busy => ProviderError::Busy { reason: text },
        Class::Deny => ProviderError::Deny { action: format!("{call}: {text}") },
        Class::Reject => ProviderError::Reject { reason: text },
        Class::Quota => ProviderError::Quota { what: text, limit: failure.limit },
        Class::Capacity => ProviderError::Capacity { what: text },
        Class::NotSold => ProviderError::NotSold { what: text },
        Class::Unsupported => ProviderError::Unsupported { action },
        Class::Unsent => ProviderError::Unsent { call, source: text.into() },
        Class::Unknown => ProviderError::Other { call, source: text.into() },
    }
}

/// Whether a text can be a name of the cloud's for a machine.
pub(crate) fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_plain)
}

/// One machine; an error says what is wrong with it.
pub(crate) fn instance(machine: plugin::Machine) -> Result<Instance, String> {
    if !is_id(&machine.provider_id) {
        return Err(format!("a name of a machine is not 1 to {MAX_ID} printable characters of ASCII"));
    }
    let state = match machine.state() {
        State::Starting => InstanceState::Starting,
        State::Running => InstanceState::Running,
        State::Stopping => InstanceState::Stopping,
        State::Stopped => InstanceState::Stopped,
        State::Failed | State::Unspecified => InstanceState::Failed { reason: said(&machine.reason) },
    };
    let of = |what: &str| format!("the {what} of {} cannot be read", machine.provider_id);
    let tags = machine.tags.as_ref().map(|tags| {
        Ok(Tags {
            hub: tags.hub.parse().map_err(|_| of("hub"))?,
            deployment: tags.deployment.parse().map_err(|_| of("deployment"))?,
            attempt: tags.attempt,
        })
    });
    Ok(Instance {
        key: machine.key.parse().map_err(|_| of("key"))?,
        tags: tags.transpose().map_err(|error: String| error)?,
        state,
        created_at: Timestamp::from_millis(machine.created_at_ms),
        provider_id: machine.provider_id,
    })
}

/// A whole list, each machine once.
pub(crate) fn instances(machines: Vec<plugin::Machine>) -> Result<Vec<Instance>, String> {
    if machines.len() > MAX_ROWS {
        return Err(format!("it lists {} machines, and {MAX_ROWS} are taken", machines.len()));
    }
    let mut names = BTreeSet::new();
    let mut found = Vec::with_capacity(machines.len());
    for machine in machines {
        let instance = instance(machine)?;
        if !names.insert(instance.provider_id.clone()) {
            return Err(format!("it lists {} twice", instance.provider_id));
        }
        found.push(instance);
    }
    Ok(found)
}

/// What can be sold of what is offered, sorted, each plan once for each region; and how many rows cannot.
pub(crate) fn offers(provider: &str, rows: &[plugin::Offer]) -> (Vec<Offer>, usize) {
    let mut offers: Vec<Offer> = rows.iter().take(MAX_ROWS).filter_map(|row| offer(provider, row)).collect();
    offers.sort_by(|a, b| (&a.plan, &a.region, a.on_demand).cmp(&(&b.plan, &b.region, b.on_demand)));
    offers.dedup_by(|next, first| next.plan == first.plan && next.region == first.region);
    offers.sort_by(|a, b| (a.on_demand, &a.plan, &a.region).cmp(&(b.on_demand, &b.plan, &b.region)));
    let left_out = rows.len().saturating_sub(offers.len());
    (offers, left_out)
}

fn offer(provider: &str, row: &plugin::Offer) -> Option<Offer> {
    let arch: Arch = row.arch.parse().ok()?;
    let is_right = is_name(&row.plan)
        && is_name(&row.region)
        && (1..=4096).contains(&row.vcpus)
        && (1..=64 << 20).contains(&row.memory_mib)
        && (1..=MAX_HOURLY).contains(&row.hourly_micros);
    is_right.then(|| Offer {
        arch,
        disk_gb: row.disk_gb.min(1 << 20),
        ..Offer::live(
            provider,
            &row.plan,
            &row.region,
            (row.vcpus, row.memory_mib),
            Micros::new(row.hourly_micros),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(id: &str) -> plugin::Machine {
        plugin::Machine {
            key: "bp-a-1".to_owned(),
            provider_id: id.to_owned(),
            state: State::Running.into(),
            ..plugin::Machine::default()
        }
    }

    fn row(plan: &str, hourly_micros: u64) -> plugin::Offer {
        plugin::Offer {
            plan: plan.to_owned(),
            region: "here".to_owned(),
            arch: "x86_64".to_owned(),
            vcpus: 1,
            memory_mib: 1024,
            disk_gb: 0,
            hourly_micros,
        }
    }

    #[test]
    fn a_list_with_anything_wrong_in_it_is_an_error() {
        assert_eq!(instances(vec![machine("a"), machine("b")]).unwrap().len(), 2);
        let tags = plugin::Tags { hub: "not a hub".to_owned(), ..plugin::Tags::default() };
        for wrong in [
            vec![machine("a"), machine("a")],
            vec![machine("")],
            vec![machine("a b")],
            vec![machine(&"a".repeat(MAX_ID + 1))],
            vec![plugin::Machine { key: "../x".to_owned(), ..machine("a") }],
            vec![plugin::Machine { tags: Some(tags), ..machine("a") }],
            vec![machine("a"); MAX_ROWS + 1],
        ] {
            assert!(instances(wrong).is_err());
        }
        let unknown = plugin::Machine { state: 99, reason: "x\ny".to_owned(), ..machine("a") };
        assert!(matches!(instance(unknown).unwrap().state, InstanceState::Failed { .. }));
    }

    #[test]
    fn what_cannot_be_sold_is_left_out() {
        let rows = [
            row("a", 5),
            row("a", 4),
            row("free", 0),
            row("dear", MAX_HOURLY + 1),
            row("with space here", 1),
            row("b", 3),
            plugin::Offer { arch: "mips".to_owned(), ..row("c", 1) },
            plugin::Offer { vcpus: 0, ..row("d", 1) },
        ];
        let (offers, left_out) = offers("external-lab", &rows);
        assert!(offers.iter().all(|offer| &*offer.provider == "external-lab"));
        let names: Vec<_> = offers.iter().map(|offer| (&*offer.plan, offer.on_demand.get())).collect();
        assert_eq!((names, left_out), (vec![("b", 3), ("a", 4)], 6));
    }

    #[test]
    fn every_class_has_its_meaning_and_an_unknown_one_is_unknown() {
        use blueprint_hub_provision_core::ErrorClass;
        for (class, expected) in [
            (0, ErrorClass::Unknown),
            (1, ErrorClass::Throttle),
            (2, ErrorClass::Again),
            (3, ErrorClass::Deny),
            (4, ErrorClass::Reject),
            (5, ErrorClass::Quota),
            (6, ErrorClass::Capacity),
            (7, ErrorClass::NotSold),
            (8, ErrorClass::Reject),
            (9, ErrorClass::Again),
            (77, ErrorClass::Unknown),
        ] {
            let failure = plugin::Failure { class, message: "x".to_owned(), ..plugin::Failure::default() };
            assert_eq!(failed("Create", "do this", &failure).class(), expected, "{class}");
        }
    }
}
