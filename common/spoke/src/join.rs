//! Joining a hub: from a join line to a stored identity; and leaving it.

use std::time::{Duration, SystemTime};

use blueprint_common_runtime::state::StateDir;
use blueprint_common_tunnel::carrier::ProxyUrl;
use blueprint_common_types::{AgentId, HubId, HubLine, JoinLine, JoinToken, Secret, Timestamp, WgPrivateKey};
use blueprint_proto::v1;
use blueprint_proto::v1::agent_control_client::AgentControlClient;
use blueprint_proto::v1::enrollment_client::EnrollmentClient;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio::time::timeout;
use tonic::Status;

use crate::dial::{DialError, HubAddress, MAX_MESSAGE_BYTES, dial};
use crate::identity::{BadAnswer, Credential, Identity, IdentityError};
use crate::tls;

/// How long the hub may take to answer a call.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Metadata key of the stable code behind a refusal.
const CODE_KEY: &str = "x-blueprint-code";

/// What joining needs.
#[derive(Debug)]
pub struct JoinOptions {
    /// The line that `blueprint-hub token create` printed.
    pub line: JoinLine,
    /// Name for people; the host name where `None`.
    pub name: Option<String>,
    /// Where the identity is stored.
    pub state: StateDir,
    /// HTTP proxy on the way to the hub.
    pub proxy: Option<ProxyUrl>,
}

/// What a refusal of the hub means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The hub does not know the token.
    TokenUnknown,
    /// The token was used before.
    TokenUsed,
    /// The token ran out.
    TokenExpired,
    /// This machine's clock is too far from the hub's.
    ClockSkew,
    /// The hub cannot use what was sent.
    BadRequest,
    /// The hub has no room.
    Full,
    /// The hub does not accept the identity that a cloud gave this machine.
    Identity,
    /// The hub removed this agent.
    Revoked,
    /// Another process holds a newer certificate of this agent.
    Outdated,
    /// The certificate ran out.
    Expired,
    /// The hub cannot answer now.
    Unavailable,
    /// Anything else.
    Other,
}

impl Refusal {
    /// Reads what the hub said, from its code where it has one.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let code = status.metadata().get(CODE_KEY).and_then(|code| code.to_str().ok());
        match code {
            Some("token_unknown") => Self::TokenUnknown,
            Some("token_used") => Self::TokenUsed,
            Some("token_expired") => Self::TokenExpired,
            Some("clock_skew") => Self::ClockSkew,
            Some("bad_request") => Self::BadRequest,
            Some("full") => Self::Full,
            Some(code) if code.starts_with("identity_") => Self::Identity,
            Some("revoked") => Self::Revoked,
            Some("certificate_outdated") => Self::Outdated,
            Some("certificate_expired") => Self::Expired,
            Some("busy" | "stopping") => Self::Unavailable,
            Some(_) | None if status.code() == tonic::Code::Unavailable => Self::Unavailable,
            Some(_) | None => Self::Other,
        }
    }
}

/// Why a call to the hub failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// No answer in time.
    #[error("the hub did not answer within {} s", CALL_TIMEOUT.as_secs())]
    TimedOut,
    /// The hub refused or failed.
    #[error("{message}")]
    Refused {
        /// What it means.
        refusal: Refusal,
        /// The hub's words.
        message: String,
    },
    /// No key or request could be made.
    #[error("cannot make a key and a certificate request")]
    Key(#[source] rcgen::Error),
    /// The answer cannot be used.
    #[error(transparent)]
    Answer(#[from] BadAnswer),
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let refusal = if is_refused_below(&status) { Refusal::Expired } else { Refusal::of(&status) };
        let message = match (refusal, status.message()) {
            (Refusal::Expired, "") => "the hub refuses this agent's certificate".to_owned(),
            (_, "") => format!("the hub answered with {:?}", status.code()),
            (_, message) => one_line(message),
        };
        Self::Refused { refusal, message }
    }
}

/// Whether the hub ended the connection over our certificate, below the call.
fn is_refused_below(status: &Status) -> bool {
    std::error::Error::source(status).is_some_and(crate::dial::is_certificate_refused)
}

/// A text of the hub as one line that cannot steer a terminal.
fn one_line(text: &str) -> String {
    blueprint_common_runtime::cli::printable(text).chars().take(512).collect()
}

impl CallError {
    /// What the hub's refusal means, where it was one.
    #[must_use]
    pub const fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(*refusal),
            Self::Dial(_) | Self::TimedOut | Self::Key(_) | Self::Answer(_) => None,
        }
    }
}

/// Why this machine did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It has joined before.
    #[error("this machine has joined {hub} already, as {agent}")]
    AlreadyJoined {
        /// Where.
        hub: HubAddress,
        /// As whom.
        agent: AgentId,
    },
    /// The name is none.
    #[error("{0:?} is not a name: 1 to 63 characters of a-z, 0-9 and '-'")]
    Name(String),
    /// The hub was not reached, or refused.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The stored identity cannot be read, or the new one not stored.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No randomness.
    #[error("the system has no source of randomness")]
    Random(#[source] std::io::Error),
    /// No cloud vouches for this machine, and there is no token.
    #[error("this machine cannot prove who it is: {0}")]
    Proof(String),
}

impl JoinError {
    /// Whether the same line may work later, without anybody doing anything on this machine.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Call(CallError::Dial(error)) => match error {
                DialError::NoSuchName { .. }
                | DialError::Resolve { .. }
                | DialError::ResolveTimeout { .. }
                | DialError::NoAddress { .. }
                | DialError::Connect { .. }
                | DialError::TimedOut { .. }
                | DialError::Proxy(_)
                | DialError::Tls { .. }
                | DialError::Protocol { .. } => true,
                DialError::WrongHub { .. }
                | DialError::Refused { .. }
                | DialError::Clock { .. }
                | DialError::SetUp(_) => false,
            },
            Self::Call(CallError::TimedOut) => true,
            Self::Call(error) => matches!(error.refusal(), Some(Refusal::Unavailable | Refusal::ClockSkew)),
            Self::AlreadyJoined { .. }
            | Self::Name(_)
            | Self::Identity(_)
            | Self::Random(_)
            | Self::Proof(_) => false,
        }
    }
}

/// Joins a hub: makes keys, spends the token, and has the identity on the disk before it returns.
///
/// # Errors
///
/// Each variant of [`JoinError`] says its case. Where the hub made the agent and the answer was lost, the token is spent
/// and the hub lists an agent that never connects.
///
/// # Cancel safety
///
/// Dropping it may leave the token spent.
pub async fn join(options: JoinOptions) -> Result<Identity, JoinError> {
    let JoinOptions { line, name, state, proxy } = options;
    let JoinLine { host, port, pin, token } = line;
    let joining = Joining::new(HubLine { host, port, pin }, name, state, proxy)?;
    let message = joining.with_token(&token);
    joining.join(message).await
}

/// A machine with fresh keys that asks a hub to let it in.
pub(crate) struct Joining {
    pub(crate) hub: HubLine,
    name: String,
    state: StateDir,
    proxy: Option<ProxyUrl>,
    pub(crate) wireguard_key: WgPrivateKey,
    key: Secret<Vec<u8>>,
    /// Request for a certificate of that key, in DER.
    pub(crate) request: Vec<u8>,
}

impl Joining {
    pub(crate) fn new(
        hub: HubLine,
        name: Option<String>,
        state: StateDir,
        proxy: Option<ProxyUrl>,
    ) -> Result<Self, JoinError> {
        if let Some(Identity { hub, agent_id, .. }) = Identity::load(&state)? {
            return Err(JoinError::AlreadyJoined { hub, agent: agent_id });
        }
        let name = name.unwrap_or_else(crate::name::host_name);
        if !crate::name::is_name(&name) {
            return Err(JoinError::Name(name));
        }
        let wireguard_key = WgPrivateKey::random().map_err(JoinError::Random)?;
        let (key, request) = new_request()?;
        Ok(Self { hub, name, state, proxy, wireguard_key, key, request })
    }

    /// A connection to the hub of the line, for one call.
    pub(crate) async fn client(&self) -> Result<EnrollmentClient<tonic::transport::Channel>, CallError> {
        let config = tls::joining_config(self.hub.pin).map_err(DialError::SetUp)?;
        let dialed = dial(&self.address(), config, self.proxy.as_ref()).await?;
        Ok(EnrollmentClient::new(dialed.channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    fn address(&self) -> HubAddress {
        HubAddress { host: self.hub.host.clone(), port: self.hub.port }
    }

    /// The request, without a right to join.
    pub(crate) fn message(&self) -> v1::JoinRequest {
        v1::JoinRequest {
            token: String::new(),
            certificate_request: self.request.clone(),
            wireguard_public_key: self.wireguard_key.public_key().as_bytes().to_vec(),
            name: self.name.clone(),
            clock_millis: now().as_millis(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            proof: None,
        }
    }

    pub(crate) fn with_token(&self, token: &JoinToken) -> v1::JoinRequest {
        v1::JoinRequest { token: token.expose_text().expose().clone(), ..self.message() }
    }

    /// Asks, and has the identity on the disk before it returns.
    pub(crate) async fn join(&self, message: v1::JoinRequest) -> Result<Identity, JoinError> {
        let mut client = self.client().await?;
        let answer = timeout(CALL_TIMEOUT, client.join(message)).await.map_err(|_| CallError::TimedOut)?;
        let answer = answer.map_err(CallError::from)?.into_inner();
        let (name, key) = (self.name.clone(), self.key.clone());
        let identity = identity(answer, self.address(), name, self.wireguard_key.clone(), key)
            .map_err(CallError::Answer)?;
        identity.store(&self.state)?;
        Ok(identity)
    }
}

fn identity(
    answer: v1::JoinResponse,
    hub: HubAddress,
    name: String,
    wireguard_key: WgPrivateKey,
    key: Secret<Vec<u8>>,
) -> Result<Identity, BadAnswer> {
    let id = |bytes: Vec<u8>, field| <[u8; 16]>::try_from(bytes).map_err(|_| BadAnswer(field));
    Ok(Identity {
        hub,
        hub_id: HubId::from_bytes(id(answer.hub_id, "hub_id")?),
        agent_id: AgentId::from_bytes(id(answer.agent_id, "agent_id")?),
        name,
        joined_at: now(),
        wireguard_key,
        credential: credential(answer.credential, key)?,
        tunnel: answer.tunnel.ok_or(BadAnswer("tunnel"))?.try_into()?,
        revoked_at: None,
    })
}

fn credential(answer: Option<v1::Credential>, key: Secret<Vec<u8>>) -> Result<Credential, BadAnswer> {
    let answer = answer.ok_or(BadAnswer("credential"))?;
    let credential = Credential {
        certificate: answer.certificate,
        key,
        authority: answer.authority,
        not_before: Timestamp::from_millis(answer.not_before_millis),
        not_after: Timestamp::from_millis(answer.not_after_millis),
    };
    // A certificate that cannot be used must not replace one that can.
    tls::session_config(&credential).map_err(|_| BadAnswer("credential"))?;
    Ok(credential)
}

/// Exchanges the certificate for a fresh one, with a new key. The caller stores it.
pub(crate) async fn renew(identity: &Identity, proxy: Option<&ProxyUrl>) -> Result<Credential, CallError> {
    let (key, request) = new_request()?;
    let mut client = control(identity, proxy).await?;
    let call = client.renew(v1::RenewRequest { certificate_request: request });
    let answer = timeout(CALL_TIMEOUT, call).await.map_err(|_| CallError::TimedOut)??.into_inner();
    let renewed = credential(answer.credential, key)?;
    if renewed.authority != identity.credential.authority {
        return Err(BadAnswer("authority").into());
    }
    Ok(renewed)
}

/// Gives the identity up at the hub. That the hub does not know it any more is success. The caller removes the file.
///
/// # Errors
///
/// Each variant of [`CallError`] says its case; the identity is then as it was.
///
/// # Cancel safety
///
/// Dropping it leaves open whether the hub knows the identity.
pub async fn leave(identity: &Identity, proxy: Option<&ProxyUrl>) -> Result<(), CallError> {
    let mut client = control(identity, proxy).await?;
    let answer =
        timeout(CALL_TIMEOUT, client.leave(v1::LeaveRequest {})).await.map_err(|_| CallError::TimedOut)?;
    match answer.map_err(CallError::from) {
        Ok(_) => Ok(()),
        Err(error) if error.refusal() == Some(Refusal::Revoked) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn control(
    identity: &Identity,
    proxy: Option<&ProxyUrl>,
) -> Result<AgentControlClient<tonic::transport::Channel>, CallError> {
    let config = tls::session_config(&identity.credential).map_err(DialError::SetUp)?;
    let dialed = dial(&identity.hub, config, proxy).await?;
    Ok(AgentControlClient::new(dialed.channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// A new P-256 key in PKCS#8 DER, and a certificate request for it in DER.
fn new_request() -> Result<(Secret<Vec<u8>>, Vec<u8>), CallError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CallError::Key)?;
    let request = CertificateParams::default().serialize_request(&key).map_err(CallError::Key)?;
    Ok((Secret::new(key.serialize_der()), request.der().to_vec()))
}

/// This machine's wall clock.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic::metadata::MetadataValue;

    use super::*;
    use crate::identity::tests::{state, wire_config};

    fn status(code: Code, name: &'static str) -> Status {
        let mut status = Status::new(code, "the hub's words\nand more");
        if !name.is_empty() {
            status.metadata_mut().insert(CODE_KEY, MetadataValue::from_static(name));
        }
        status
    }

    #[test]
    fn every_code_of_the_hub_has_a_meaning() {
        let table = [
            ("token_unknown", Refusal::TokenUnknown),
            ("token_used", Refusal::TokenUsed),
            ("token_expired", Refusal::TokenExpired),
            ("clock_skew", Refusal::ClockSkew),
            ("bad_request", Refusal::BadRequest),
            ("full", Refusal::Full),
            ("identity_used", Refusal::Identity),
            ("revoked", Refusal::Revoked),
            ("certificate_outdated", Refusal::Outdated),
            ("certificate_expired", Refusal::Expired),
            ("busy", Refusal::Unavailable),
            ("of the future", Refusal::Other),
            ("", Refusal::Other),
        ];
        for (name, refusal) in table {
            assert_eq!(Refusal::of(&status(Code::PermissionDenied, name)), refusal, "{name}");
        }
        assert_eq!(Refusal::of(&status(Code::Unavailable, "")), Refusal::Unavailable);
    }

    #[test]
    fn the_hubs_words_are_one_line() {
        let error = CallError::from(status(Code::PermissionDenied, "token_used"));
        assert_eq!(error.refusal(), Some(Refusal::TokenUsed));
        assert!(!error.to_string().contains('\n'));
        assert!(error.to_string().starts_with("the hub's words"));
    }

    #[test]
    fn a_request_is_made_with_a_fresh_key_each_time() {
        let (key, request) = new_request().unwrap();
        assert!(request.len() > 100 && key.expose().len() > 100);
        assert!(new_request().unwrap().0 != key);
    }

    #[test]
    fn an_answer_without_a_usable_credential_is_refused() {
        let answer = v1::JoinResponse {
            credential: Some(v1::Credential {
                certificate: vec![1],
                authority: vec![2],
                ..Default::default()
            }),
            hub_id: vec![1; 16],
            agent_id: vec![2; 16],
            tunnel: Some(wire_config()),
        };
        let hub = HubAddress { host: "hub".to_owned(), port: 1 };
        let key = WgPrivateKey::random().unwrap();
        let refused = identity(answer, hub, "a".to_owned(), key, Secret::new(vec![3]));
        assert_eq!(refused.unwrap_err(), BadAnswer("credential"));
    }

    #[tokio::test]
    async fn a_second_join_is_refused_before_the_hub_is_asked() {
        let (_dir, state) = state();
        crate::identity::tests::identity().store(&state).unwrap();
        let line = format!(
            "192.0.2.1:1/{}/{}",
            blueprint_common_types::CaPin::of_spki(b""),
            JoinToken::random().unwrap().expose_text().expose()
        );
        let line = line.parse().unwrap();
        let refused = join(JoinOptions { line, name: None, state, proxy: None }).await;
        assert!(matches!(refused, Err(JoinError::AlreadyJoined { .. })));
    }
}
