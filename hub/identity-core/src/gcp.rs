//! Google Compute Engine: the instance identity token in its full format, made for one challenge and one machine's keys.

use std::time::Duration;

use blueprint_common_types::{ProofBinding, ProofKind, Timestamp};
use serde::Deserialize;

use crate::date::SKEW;
use crate::jwt::{SignatureKeys, claims};
use crate::{Allowed, Machine, ProofRefusal, plain};

/// Who makes these tokens.
const ISSUER: &str = "https://accounts.google.com";

/// Where Google publishes its keys.
pub const KEYS: &str = "https://www.googleapis.com/oauth2/v3/certs";

/// Longest life of a token; Google gives one hour.
const MAX_LIFE: Duration = Duration::from_secs(2 * 3600);

/// Whose machines are let in.
#[derive(Debug, Clone)]
pub struct GcpRules {
    /// Projects by their ids.
    pub projects: Allowed,
    /// Regions such as `europe-west3`; any where empty.
    pub regions: Allowed,
    /// Service accounts of machines, by their mail addresses; any where empty.
    pub service_accounts: Allowed,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    iat: u64,
    exp: u64,
    email: Option<String>,
    #[serde(default)]
    email_verified: bool,
    google: Option<Google>,
}

#[derive(Deserialize)]
struct Google {
    compute_engine: Option<Engine>,
}

#[derive(Deserialize)]
struct Engine {
    project_id: Option<String>,
    zone: Option<String>,
    instance_id: Option<String>,
}

/// Checks a token for a challenge and keys.
///
/// # Errors
///
/// The first thing that is wrong with it; claims are looked at only behind a good signature.
pub fn verify(
    text: &str,
    rules: &GcpRules,
    keys: &dyn SignatureKeys,
    binding: &ProofBinding,
    now: Timestamp,
) -> Result<Machine, ProofRefusal> {
    let claims: Claims = claims(text, keys)?;
    if claims.iss != ISSUER {
        return Err(ProofRefusal::Issuer);
    }
    if claims.aud != binding.audience() {
        return Err(ProofRefusal::Audience);
    }
    let latest_start = now.plus(SKEW).as_secs();
    let is_good = claims.iat <= latest_start
        && claims.exp > now.as_secs()
        && claims.exp.checked_sub(claims.iat).is_some_and(|life| (1..=MAX_LIFE.as_secs()).contains(&life));
    if !is_good {
        return Err(ProofRefusal::Times);
    }
    let engine = claims.google.and_then(|google| google.compute_engine);
    let engine =
        engine.ok_or(ProofRefusal::Incomplete("which machine it is of (format=full was not asked for)"))?;
    let account = plain(engine.project_id, "its project")?;
    let zone = plain(engine.zone, "its zone")?;
    let instance = plain(engine.instance_id, "its instance")?;
    let region = zone.rsplit_once('-').map_or(zone.as_str(), |(region, _)| region).to_owned();
    rules.projects.check("Google Cloud project", &account)?;
    rules.regions.check_where_named("Google Cloud region", &region)?;
    let email = claims.email.filter(|_| claims.email_verified).unwrap_or_default();
    rules.service_accounts.check_where_named("service account", &email)?;
    // As the provider calls its machines. The number is Google's alone; a name may be in several projects.
    let provider_ids = vec![format!("{zone}/{instance}")];
    Ok(Machine { kind: ProofKind::Gcp, account, region, instance, provider_ids })
}
