//! Amazon EC2 by AWS's Security Token Service: the web identity token (`GetWebIdentityToken`) that a machine asks for with the
//! credentials of its role, made for one challenge and one machine's keys.
//!
//! Unlike the signed document of [`crate::aws`] it is of this moment and of no use to anybody else. Both name the same machine, so
//! that it joins once, whichever it shows.

use std::time::Duration;

use blueprint_common_types::{ProofBinding, ProofKind, Timestamp};
use serde::Deserialize;

use crate::date::SKEW;
use crate::jwt::{Audience, SignatureKeys, claims, unverified};
use crate::{Allowed, Machine, ProofRefusal, plain};

/// Longest life of a token: AWS gives none for longer than an hour.
const MAX_LIFE: Duration = Duration::from_secs(3600);

/// Where below an issuer its keys are.
pub const KEYS: &str = "/.well-known/jwks.json";

/// Whose machines are let in.
#[derive(Debug, Clone)]
pub struct StsRules {
    /// Issuers, such as `https://UUID.tokens.sts.global.api.aws`: each account has one.
    pub issuers: Allowed,
    /// Accounts, twelve digits each.
    pub accounts: Allowed,
    /// Regions; any where empty.
    pub regions: Allowed,
}

#[derive(Deserialize)]
struct Issued {
    iss: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    iat: u64,
    exp: u64,
    #[serde(rename = "https://sts.amazonaws.com/")]
    of_aws: Option<OfAws>,
}

#[derive(Deserialize)]
struct OfAws {
    aws_account: Option<String>,
    ec2_source_instance_arn: Option<String>,
}

/// The issuer that a token claims to be of, which is one that a rule names. Nothing is verified: it says whose keys are needed.
///
/// # Errors
///
/// Where it is no token with RS256, or of another issuer.
pub fn issuer_named(text: &str, rules: &StsRules) -> Result<String, ProofRefusal> {
    let Issued { iss } = unverified(text)?;
    if rules.issuers.0.contains(&iss) { Ok(iss) } else { Err(ProofRefusal::Issuer) }
}

/// Checks a token for a challenge and keys; `keys` are those of `issuer`.
///
/// # Errors
///
/// The first thing that is wrong with it; claims are looked at only behind a good signature.
pub fn verify(
    text: &str,
    rules: &StsRules,
    (issuer, keys): (&str, &dyn SignatureKeys),
    binding: &ProofBinding,
    now: Timestamp,
) -> Result<Machine, ProofRefusal> {
    let claims: Claims = claims(text, keys)?;
    if claims.iss != issuer || !rules.issuers.0.contains(issuer) {
        return Err(ProofRefusal::Issuer);
    }
    if !claims.aud.is_only(&binding.audience()) {
        return Err(ProofRefusal::Audience);
    }
    let is_good = claims.iat <= now.plus(SKEW).as_secs()
        && claims.exp > now.as_secs()
        && claims.exp.checked_sub(claims.iat).is_some_and(|life| (1..=MAX_LIFE.as_secs()).contains(&life));
    if !is_good {
        return Err(ProofRefusal::Times);
    }
    let of_aws = claims.of_aws.ok_or(ProofRefusal::Incomplete("what AWS knows of it"))?;
    let arn = of_aws.ec2_source_instance_arn.ok_or(ProofRefusal::Incomplete("which machine it is of"))?;
    let [region, owner, instance] =
        parts(&arn).ok_or(ProofRefusal::Malformed("ec2_source_instance_arn names no machine"))?;
    let account = plain(of_aws.aws_account, "its account")?;
    if owner != account {
        return Err(ProofRefusal::Malformed("its machine is of another account than its role"));
    }
    let region = plain(Some(region.to_owned()), "its region")?;
    let instance = plain(Some(instance.to_owned()), "its instance")?;
    rules.accounts.check("AWS account", &account)?;
    rules.regions.check_where_named("AWS region", &region)?;
    let provider_ids = vec![format!("{region}/{instance}")];
    Ok(Machine { kind: ProofKind::Aws, account, region, instance, provider_ids })
}

/// Region, account and number of a machine out of `arn:aws:ec2:REGION:ACCOUNT:instance/NUMBER`.
fn parts(arn: &str) -> Option<[&str; 3]> {
    let mut parts = arn.split(':');
    let head = [parts.next()?, parts.next()?, parts.next()?];
    let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
    let is_partition = matches!(head.get(1).copied()?, "aws" | "aws-us-gov" | "aws-cn");
    let is_ec2 = head.first() == Some(&"arn") && head.last() == Some(&"ec2") && is_partition;
    let number = resource.strip_prefix("instance/").filter(|number| number.starts_with("i-"))?;
    (is_ec2 && parts.next().is_none()).then_some([region, account, number])
}
