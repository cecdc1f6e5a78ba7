//! Amazon EC2: the instance identity document with its RSA-2048 signature, as the machine reads it at
//! `/latest/dynamic/instance-identity/rsa2048`.
//!
//! The document has no challenge in it and never expires, so a copy is as good as the machine itself. What makes it safe
//! is beside the signature: the machine has to have started lately, each machine joins once, and the hub knows the ones
//! that it ordered. The other signatures of EC2 (DSA, and RSA of 1024 bits) are not accepted.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::{ProofKind, Timestamp};
use serde::Deserialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::cms::SignedData;
use crate::date::{SKEW, rfc3339};
use crate::{Allowed, MAX_DOCUMENT, Machine, ProofRefusal, plain};

/// Whose machines are let in.
#[derive(Debug, Clone)]
pub struct AwsRules {
    /// Accounts, twelve digits each.
    pub accounts: Allowed,
    /// Regions; any that has a certificate where empty.
    pub regions: Allowed,
    /// Certificates with which AWS signs documents, in DER, by region.
    pub certificates: BTreeMap<String, Vec<Vec<u8>>>,
    /// How long after its start a machine may join.
    pub max_age: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    account_id: Option<String>,
    region: Option<String>,
    instance_id: Option<String>,
    pending_time: Option<String>,
}

/// Checks a document, which is base64 of signed data with or without line breaks.
///
/// # Errors
///
/// The first thing that is wrong with it; what the document says is looked at only behind a good signature, of the region that
/// it names.
pub fn verify(text: &[u8], rules: &AwsRules, now: Timestamp) -> Result<Machine, ProofRefusal> {
    if text.len() > MAX_DOCUMENT {
        return Err(ProofRefusal::Malformed("longer than such documents are"));
    }
    let digits: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let der = STANDARD.decode(digits).map_err(|_| ProofRefusal::Malformed("not base64"))?;
    let signed = SignedData::read(&der)?;
    let certificates = rules.certificates.iter().flat_map(|(region, certificates)| {
        certificates.iter().filter_map(move |der| Some((region, X509Certificate::from_der(der).ok()?.1)))
    });
    let named: Vec<_> = certificates.filter(|(_, certificate)| signed.names(certificate)).collect();
    let (region, content) = match named.as_slice() {
        [(region, certificate)] => (*region, signed.verify(certificate)?),
        [] => return Err(ProofRefusal::Signer("no certificate of join.identity.aws_certificates signed it")),
        _ => return Err(ProofRefusal::Signer("several certificates have the name of the signer")),
    };
    let document: Document =
        serde_json::from_slice(&content).map_err(|_| ProofRefusal::Malformed("the document is no JSON"))?;
    let found = plain(document.region, "its region")?;
    if found != *region {
        return Err(ProofRefusal::Signer("the certificate is of another region than the document"));
    }
    let account = plain(document.account_id, "its account")?;
    let instance = plain(document.instance_id, "its instance")?;
    rules.accounts.check("AWS account", &account)?;
    rules.regions.check_where_named("AWS region", &found)?;
    let started = document.pending_time.ok_or(ProofRefusal::Incomplete("when the machine started"))?;
    let started = rfc3339(&started).ok_or(ProofRefusal::Malformed("pendingTime is no date"))?;
    if started > now.plus(SKEW) || now.since(started) > rules.max_age {
        return Err(ProofRefusal::Times);
    }
    let provider_ids = vec![format!("{found}/{instance}")];
    Ok(Machine { kind: ProofKind::Aws, account, region: found, instance, provider_ids })
}
