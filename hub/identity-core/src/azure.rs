//! Azure: the attested document of the metadata service, `/metadata/attested/document`.
//!
//! Its signature and the chain of its certificate are checked together: one without the other proves nothing
//! (CVE-2026-46354 of another product was the chain without the signature).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::{ProofBinding, ProofKind, Timestamp};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::Deserialize;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::cms::SignedData;
use crate::date::{SKEW, azure as date};
use crate::{Allowed, MAX_DOCUMENT, Machine, ProofRefusal, plain};

/// Names that Azure's certificates have, and below which they have others.
const NAMES: [&str; 3] = ["metadata.azure.com", "metadata.azure.us", "metadata.azure.cn"];

/// Longest time from the making of a document to its end; Azure gives six hours.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Longest time from the making of a document to its use: it is made for one challenge.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);

/// Whose machines are let in.
#[derive(Debug, Clone)]
pub struct AzureRules {
    /// Subscriptions, in lower case.
    pub subscriptions: Allowed,
    /// Authorities in DER; those of Mozilla where empty.
    pub roots: Vec<Vec<u8>>,
    /// Certificates between those and the ones of Azure, in DER.
    pub intermediates: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
struct Answer {
    encoding: String,
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    nonce: Option<String>,
    vm_id: Option<String>,
    subscription_id: Option<String>,
    time_stamp: Option<TimeStamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TimeStamp {
    created_on: String,
    expires_on: String,
}

/// Checks what the metadata service answered, which is JSON with base64 of signed data, for a challenge and keys.
///
/// # Errors
///
/// The first thing that is wrong with it; what the document says is looked at only behind a good signature by a certificate whose
/// chain ends at a root that is trusted.
pub fn verify(
    text: &[u8],
    rules: &AzureRules,
    binding: &ProofBinding,
    now: Timestamp,
) -> Result<Machine, ProofRefusal> {
    verify_nonce(text, rules, binding.short(), now)
}

/// The same for a document that has to hold this very `nonce`.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_nonce(
    text: &[u8],
    rules: &AzureRules,
    nonce: &str,
    now: Timestamp,
) -> Result<Machine, ProofRefusal> {
    if text.len() > MAX_DOCUMENT {
        return Err(ProofRefusal::Malformed("longer than such documents are"));
    }
    let answer: Answer =
        serde_json::from_slice(text).map_err(|_| ProofRefusal::Malformed("not JSON with a signature"))?;
    if answer.encoding != "pkcs7" {
        return Err(ProofRefusal::Algorithm("its encoding is not pkcs7"));
    }
    let der = STANDARD.decode(answer.signature).map_err(|_| ProofRefusal::Malformed("not base64"))?;
    let signed = SignedData::read(&der)?;
    let came = signed.certificates.clone();
    let signer = came.iter().find_map(|der| {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        (rest.is_empty() && signed.names(&certificate)).then_some((*der, certificate))
    });
    let (der, certificate) = signer.ok_or(ProofRefusal::Signer("its certificate is not in the document"))?;
    check_chain(der, &came, rules, now)?;
    let content = signed.verify(&certificate)?;
    let document: Document =
        serde_json::from_slice(&content).map_err(|_| ProofRefusal::Malformed("the document is no JSON"))?;
    if document.nonce.as_deref() != Some(nonce) {
        return Err(ProofRefusal::Audience);
    }
    check_times(document.time_stamp, now)?;
    let account = plain(document.subscription_id, "its subscription")?.to_ascii_lowercase();
    let instance = plain(document.vm_id, "its machine")?.to_ascii_lowercase();
    rules.subscriptions.check("Azure subscription", &account)?;
    // The provider calls its machines by their keys, which are not in the document.
    let provider_ids = Vec::new();
    Ok(Machine { kind: ProofKind::Azure, account, region: String::new(), instance, provider_ids })
}

fn check_chain(der: &[u8], came: &[&[u8]], rules: &AzureRules, now: Timestamp) -> Result<(), ProofRefusal> {
    let given: Vec<CertificateDer<'_>> =
        rules.roots.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let anchors: Vec<TrustAnchor<'_>> = if given.is_empty() {
        webpki_roots::TLS_SERVER_ROOTS.to_vec()
    } else {
        given.iter().filter_map(|der| anchor_from_trusted_cert(der).ok()).collect()
    };
    let configured = rules.intermediates.iter().map(Vec::as_slice);
    let others = came.iter().copied().filter(|other| *other != der).take(4);
    let between: Vec<CertificateDer<'_>> = configured.chain(others).map(CertificateDer::from).collect();
    let leaf = CertificateDer::from(der);
    let untrusted = || ProofRefusal::Signer("its certificate is not of a trusted authority, or is over");
    let leaf = EndEntityCert::try_from(&leaf).map_err(|_| untrusted())?;
    let time = UnixTime::since_unix_epoch(Duration::from_millis(now.as_millis()));
    let algorithms = ALL_VERIFICATION_ALGS;
    leaf.verify_for_usage(algorithms, &anchors, &between, time, KeyUsage::server_auth(), None, None)
        .map_err(|_| untrusted())?;
    let is_ours = |name: &str| {
        NAMES
            .iter()
            .any(|ours| name.strip_suffix(ours).is_some_and(|head| head.is_empty() || head.ends_with('.')))
    };
    if leaf.valid_dns_names().any(is_ours) {
        return Ok(());
    }
    Err(ProofRefusal::Signer("its certificate is not that of Azure's metadata service"))
}

fn check_times(times: Option<TimeStamp>, now: Timestamp) -> Result<(), ProofRefusal> {
    let times = times.ok_or(ProofRefusal::Incomplete("when it was made"))?;
    let wrong = ProofRefusal::Malformed("its times are no dates");
    let (made, ends) = date(&times.created_on).zip(date(&times.expires_on)).ok_or(wrong)?;
    let is_good = made <= now.plus(SKEW)
        && now.since(made) <= MAX_AGE
        && ends > now
        && ends > made
        && ends.since(made) <= MAX_LIFE;
    if is_good { Ok(()) } else { Err(ProofRefusal::Times) }
}
