//! What the audit log says, and the bytes its hash chain is computed over.

use std::fmt;
use std::str::FromStr;

use blueprint_common_types::{ServiceKey, Timestamp};

/// A text is not the name of an audit event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an audit event")]
pub struct ParseAuditKindError(String);

macro_rules! audit_kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What happened. Names are stored and never reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AuditKind {
            $($(#[$doc])* $variant,)*
        }

        impl AuditKind {
            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Stable name, such as `join.accept`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

audit_kinds! {
    /// The hub started; the detail is its version and epoch.
    HubStart = "hub.start",
    /// The hub stopped in order.
    HubStop = "hub.stop",
    /// A machine joined; the subject is the agent.
    JoinAccept = "join.accept",
    /// A join was refused; the subject is the token, the detail starts with the refusal's code.
    JoinRefuse = "join.refuse",
    /// An agent got a fresh certificate.
    CertificateRenew = "certificate.renew",
    /// An agent asked for a certificate with one that is too old: its state was probably copied.
    CertificateRefuse = "certificate.refuse",
    /// A newer session of the same agent took over.
    SessionReplace = "session.replace",
    /// The operator removed an agent.
    AgentRemove = "agent.remove",
    /// An agent gave up its identity.
    AgentLeave = "agent.leave",
    /// A target was refused; the subject is the agent.
    TargetRefuse = "target.refuse",
    /// A join token was made.
    JoinTokenCreate = "join_token.create",
    /// A join token was revoked.
    JoinTokenRevoke = "join_token.revoke",
    /// The operator lets a machine join by its identity once more; the subject is the identity.
    IdentityForget = "identity.forget",
    /// An access token was made.
    AccessTokenCreate = "access_token.create",
    /// An access token was revoked.
    AccessTokenRevoke = "access_token.revoke",
    /// The operator replaced the settings of a service; the subject is the service.
    ServiceSet = "service.set",
    /// An owner got an API key; the subject is the key's public part.
    ApiKeyCreate = "api_key.create",
    /// The operator gave an owner another API key in place of one; the subject is the one that goes.
    ApiKeyRotate = "api_key.rotate",
    /// API keys were revoked; the subject is the key, or the service whose owner is gone.
    ApiKeyRevoke = "api_key.revoke",
    /// Requests of clients were refused by a rule; the subject is the service, the detail counts them.
    RequestRefuse = "request.refuse",
    /// The TLS profile of a service was set; the subject is the service.
    TlsProfileSet = "tls_profile.set",
    /// The TLS profile of a service was removed; the subject is the service.
    TlsProfileRemove = "tls_profile.remove",
    /// A client certificate was made; the subject is its serial number.
    ClientCertificateIssue = "client_certificate.issue",
    /// A client certificate was revoked; the subject is its serial number.
    ClientCertificateRevoke = "client_certificate.revoke",
    /// The operator assigned a workload, or changed it; the subject is the service.
    WorkloadSet = "workload.set",
    /// A workload was taken back; the subject is the service, the detail says why.
    WorkloadRemove = "workload.remove",
    /// A workload goes to another node; the subject is the service, the detail says why.
    WorkloadMove = "workload.move",
    /// A workload does not get well, and there is no node to which it could go; the subject is the service.
    WorkloadDegrade = "workload.degrade",
    /// An update of a workload began; the subject is the service.
    WorkloadUpdate = "workload.update",
    /// An update of a workload is through; the subject is the service.
    WorkloadUpdated = "workload.updated",
    /// An update of a workload was taken back; the subject is the service, the detail says why.
    WorkloadTakeBack = "workload.take_back",
    /// Old versions of a workload were thrown away; the subject is the service, the detail says which.
    WorkloadForget = "workload.forget",
    /// A blueprint asked for what is not its own; the subject is the service whose bridge it used.
    BridgeRefuse = "bridge.refuse",
    /// The operator pushed an artefact; the subject is its SHA-256.
    ArtefactPush = "artefact.push",
    /// The operator removed a pushed artefact; the subject is its SHA-256.
    ArtefactRemove = "artefact.remove",
    /// A node asked for an artefact that no workload of it names; the subject is the service that it asked for.
    ArtefactRefuse = "artefact.refuse",
    /// A node asked for an RPC that no workload of it names; the subject is the service that it asked for.
    RpcRefuse = "rpc.refuse",
    /// A machine asked for a service or a machine that the policy does not let it reach; the subject is what it asked for.
    FindRefuse = "find.refuse",
    /// The operator replaced the policy; the subject is its new version.
    PolicySet = "policy.set",
    /// The operator is about to run a command beside a workload; the subject is the service.
    ExecBegin = "exec.begin",
    /// That command is over; the subject is the service, the detail says how it ended.
    ExecEnd = "exec.end",
    /// A command beside a workload was refused; the subject is the service, the detail starts with the refusal's code.
    ExecRefuse = "exec.refuse",
    /// The operator opens a forward; the subject is the service.
    ForwardBegin = "forward.begin",
    /// That forward is closed; the subject is the service, the detail says what passed.
    ForwardEnd = "forward.end",
    /// A forward was refused; the subject is the service, the detail starts with the refusal's code.
    ForwardRefuse = "forward.refuse",
    /// The operator ordered machines; the subject is the deployment.
    DeploymentCreate = "deployment.create",
    /// The operator switched the machines of a deployment on or off; the subject is the deployment.
    DeploymentSet = "deployment.set",
    /// A deployment is to be gone; the subject is the deployment, the detail says why.
    DeploymentTerminate = "deployment.terminate",
    /// The operator set the tier of a service; the subject is the service.
    ScalingSet = "scaling.set",
    /// The operator had the tier of a service forgotten; the subject is the service.
    ScalingRemove = "scaling.remove",
    /// The number of replicas of a service changes, or how it stands with its payment; the detail says why.
    ScalingAct = "scaling.act",
    /// The operator stored credentials of a provider; the subject is the provider.
    ProviderConfigure = "provider.configure",
    /// The operator had credentials of a provider forgotten; the subject is the provider.
    ProviderForget = "provider.forget",
    /// The operator had deleted what the hub made for itself at a provider; the subject is the provider, the detail says that, or what went and what failed.
    ProviderClean = "provider.clean",
    /// A provider was told to make a machine.
    InstanceCreate = "instance.create",
    /// A provider was told to delete a machine.
    InstanceDelete = "instance.delete",
    /// The operator made an alert about costs, or changed it; the subject is its name.
    AlertSet = "alert.set",
    /// The operator removed an alert about costs; the subject is its name.
    AlertRemove = "alert.remove",
    /// The operator called the action of an alert off for a period; the subject is its name.
    AlertRelease = "alert.release",
    /// An alert told something; the subject is its name.
    AlertFire = "alert.fire",
    /// The operator set the objective of a service; the subject is the service.
    ObjectiveSet = "objective.set",
    /// The operator went back to the default objective; the subject is the service.
    ObjectiveRemove = "objective.remove",
}

impl fmt::Display for AuditKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for AuditKind {
    type Err = ParseAuditKindError;

    fn from_str(text: &str) -> Result<Self, ParseAuditKindError> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| ParseAuditKindError(text.chars().take(64).collect()))
    }
}

/// One thing worth remembering. Holds no secret: tokens appear by their public id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// What happened.
    pub kind: AuditKind,
    /// Whom it happened to: an agent, a token or an instance.
    pub subject: String,
    /// One line for people.
    pub detail: String,
}

impl AuditEvent {
    /// Puts the three parts together.
    #[must_use]
    pub fn new(kind: AuditKind, subject: impl fmt::Display, detail: impl fmt::Display) -> Self {
        Self { kind, subject: subject.to_string(), detail: detail.to_string() }
    }

    /// The same, saying how many rows were left out before it, where there were any.
    #[must_use]
    pub fn after(mut self, suppressed: u64) -> Self {
        if suppressed > 0 {
            self.detail.push_str(&format!("; {suppressed} refusals before it are only counted"));
        }
        self
    }
}

/// A stored event and its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Number of the row, from 1 without gaps.
    pub seq: u64,
    /// When it was stored.
    pub at: Timestamp,
    /// What happened.
    pub event: AuditEvent,
    /// Hash of the row before; zeros for the first.
    pub prev_hash: [u8; 32],
    /// SHA-256 of `prev_hash` and [`Self::canonical`].
    pub hash: [u8; 32],
}

impl AuditRow {
    /// The bytes that the row's hash covers, after the hash of the row before.
    ///
    /// Texts carry their length, so that no two rows have the same bytes.
    #[must_use]
    pub fn canonical(seq: u64, at: Timestamp, event: &AuditEvent) -> Vec<u8> {
        let texts = [event.kind.name(), &event.subject, &event.detail];
        let mut bytes = Vec::with_capacity(40 + texts.iter().map(|text| text.len()).sum::<usize>());
        bytes.extend_from_slice(&seq.to_be_bytes());
        bytes.extend_from_slice(&at.as_millis().to_be_bytes());
        for text in texts {
            bytes.extend_from_slice(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }
}

/// Which rows are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditFilter {
    /// None older than this.
    pub since: Option<Timestamp>,
    /// Of this kind, or of the kinds that begin with it and a dot: `api_key.create`, `api_key`.
    pub kind: Option<String>,
    /// About this service.
    pub service: Option<ServiceKey>,
    /// With this hash.
    pub hash: Option<[u8; 32]>,
    /// The newest so many.
    pub limit: u32,
}

/// Result of a walk along the whole chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditCheck {
    /// Rows looked at.
    pub rows: u64,
    /// First row that does not follow from the one before, or that is missing at the end; `None` where the chain
    /// is whole.
    pub broken_at: Option<u64>,
    /// Hash of the last row; zeros where there is none.
    pub head: [u8; 32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_their_names_and_no_name_is_used_twice() {
        let names: std::collections::BTreeSet<_> = AuditKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), AuditKind::ALL.len());
        for kind in AuditKind::ALL {
            assert_eq!(kind.name().parse(), Ok(*kind));
        }
    }

    #[test]
    fn moving_a_letter_between_fields_changes_the_bytes() {
        let at = Timestamp::from_millis(1);
        let one = AuditEvent::new(AuditKind::HubStart, "ab", "c");
        let other = AuditEvent::new(AuditKind::HubStart, "a", "bc");
        assert_ne!(AuditRow::canonical(1, at, &one), AuditRow::canonical(1, at, &other));
    }
}
