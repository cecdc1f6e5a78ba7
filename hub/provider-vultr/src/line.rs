//! The two lines of machines that Vultr sells: cloud instances and whole ones ("bare metal"), each with paths of its own.

use blueprint_hub_provider_kit::rest::{Call, call};

/// Beginning of the plans of whole machines.
const METAL_PLANS: &str = "vbm-";

/// Beginning of the hub's names of whole machines, so that a name alone says whose paths it has.
const METAL_NAMES: &str = "bm-";

/// A line of machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Line {
    /// Cloud instances, with GPUs or without.
    #[default]
    Cloud,
    /// Whole machines.
    Metal,
}

/// The calls of one line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls {
    pub(crate) list: Call,
    pub(crate) get: Call,
    pub(crate) create: Call,
    pub(crate) delete: Call,
    pub(crate) start: Call,
    pub(crate) halt: Call,
}

pub(crate) const CLOUD: Calls = Calls {
    list: call("list-instances", "subscriptions_view"),
    get: call("get-instance", "subscriptions_view"),
    create: call("create-instance", "provisioning"),
    delete: call("delete-instance", "subscriptions"),
    start: call("start-instance", "subscriptions"),
    halt: call("halt-instance", "subscriptions"),
};

pub(crate) const METAL: Calls = Calls {
    list: call("list-baremetals", "subscriptions_view"),
    get: call("get-baremetal", "subscriptions_view"),
    create: call("create-baremetal", "provisioning"),
    delete: call("delete-baremetal", "subscriptions"),
    start: call("start-baremetal", "subscriptions"),
    halt: call("halt-baremetal", "subscriptions"),
};

/// Writes the tags of a whole machine.
pub(crate) const UPDATE_METAL: Call = call("update-baremetal", "subscriptions");

impl Line {
    /// Both of them.
    pub(crate) const ALL: [Self; 2] = [Self::Cloud, Self::Metal];

    /// That of a plan.
    pub(crate) fn of_plan(plan: &str) -> Self {
        if plan.starts_with(METAL_PLANS) { Self::Metal } else { Self::Cloud }
    }

    /// Line and id of a machine by the hub's name of it; `None` where the id is none.
    pub(crate) fn parse(provider_id: &str) -> Option<(Self, &str)> {
        let (line, id) = match provider_id.strip_prefix(METAL_NAMES) {
            Some(id) => (Self::Metal, id),
            None => (Self::Cloud, provider_id),
        };
        is_id(id).then_some((line, id))
    }

    /// The hub's name of a machine of this line.
    pub(crate) fn name(self, id: &str) -> String {
        match self {
            Self::Cloud => id.to_owned(),
            Self::Metal => format!("{METAL_NAMES}{id}"),
        }
    }

    /// Where its machines are.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Cloud => "/v2/instances",
            Self::Metal => "/v2/bare-metals",
        }
    }

    /// Its calls.
    pub(crate) const fn calls(self) -> Calls {
        match self {
            Self::Cloud => CLOUD,
            Self::Metal => METAL,
        }
    }
}

/// Whether a text can be the id of anything: a UUID, which goes into paths.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_paths_it_has_and_is_an_id() {
        const ID: &str = "cb676a46-66fd-4dfb-b839-443f2e6c0b60";
        for line in Line::ALL {
            assert_eq!(Line::parse(&line.name(ID)), Some((line, ID)));
        }
        for wrong in ["", "bm-", "../firewalls", "bm-../firewalls", "cb676a46-66fd-4dfb-b839-443f2e6c0b6/"] {
            assert_eq!(Line::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Line::of_plan("vbm-4c-32gb"), Line::Metal);
        assert_eq!(Line::of_plan("vc2-1c-1gb"), Line::Cloud);
    }
}
