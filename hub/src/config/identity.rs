//! Section `join.identity`: machines that join by what a cloud says of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use blueprint_common_runtime::config::{Key, List, Problems, Settings};
use blueprint_common_types::ProofKind;
use blueprint_hub_identity_core::{Allowed, gcp, sts};
use blueprint_hub_proxy_core::identity::JwksUrl;
use blueprint_hub_registry_core::ServiceGrant;

use super::{ProviderSettings, span};

pub(super) const AWS_ACCOUNTS: Key = Key::unset(
    "join.identity.aws_accounts",
    "Accounts of AWS, such as 123456789012, whose machines may join by their signed identity documents or by tokens; none where not set.",
);
pub(super) const AWS_REGIONS: Key =
    Key::unset("join.identity.aws_regions", "Regions of those machines; any where not set.");
pub(super) const AWS_CERTIFICATES: Key = Key::unset(
    "join.identity.aws_certificates",
    "Folder with the RSA-2048 certificates that AWS signs those documents with, one file REGION.pem for each region.",
);
pub(super) const AWS_ISSUERS: Key = Key::unset(
    "join.identity.aws_issuers",
    "Issuers of those accounts, such as https://UUID.tokens.sts.global.api.aws, by whose tokens (GetWebIdentityToken) their machines \
     may join; none where not set.",
);
pub(super) const AWS_MAX_AGE: Key = Key::new(
    "join.identity.aws_max_age",
    "30m",
    "How long after its start a machine of AWS may join by its document, which has no other end, 1 min to 1 day.",
);
pub(super) const GCP_PROJECTS: Key = Key::unset(
    "join.identity.gcp_projects",
    "Projects of Google Cloud, by their ids, whose machines may join by their identity tokens; none where not set.",
);
pub(super) const GCP_REGIONS: Key = Key::unset(
    "join.identity.gcp_regions",
    "Regions of those machines, such as europe-west3; any where not set.",
);
pub(super) const GCP_SERVICE_ACCOUNTS: Key = Key::unset(
    "join.identity.gcp_service_accounts",
    "Service accounts of those machines, by their mail addresses; any where not set.",
);
pub(super) const GCP_KEYS: Key =
    Key::new("join.identity.gcp_keys", gcp::KEYS, "URL of the keys that those tokens are signed with.");
pub(super) const AZURE_SUBSCRIPTIONS: Key = Key::unset(
    "join.identity.azure_subscriptions",
    "Subscriptions of Azure whose machines may join by their attested documents; none where not set.",
);
pub(super) const AZURE_ROOTS: Key = Key::unset(
    "join.identity.azure_roots",
    "PEM file with the authorities that those documents lead to; the public ones (Mozilla's list) where not set.",
);
pub(super) const AZURE_INTERMEDIATES: Key = Key::unset(
    "join.identity.azure_intermediates",
    "PEM file with the certificates between those authorities and the ones of Azure, which the hub does not fetch.",
);
pub(super) const KUBERNETES_ACCOUNTS: Key = Key::unset(
    "join.identity.kubernetes_accounts",
    "Service accounts of a cluster, such as blueprint:agent (namespace and name), whose pods may join; none where not set.",
);
pub(super) const KUBERNETES_API: Key = Key::unset(
    "join.identity.kubernetes_api",
    "URL of the cluster's API, such as https://10.0.0.1:6443, which is asked about each token of those accounts.",
);
pub(super) const KUBERNETES_TOKEN: Key = Key::unset(
    "join.identity.kubernetes_token",
    "File with the token by which the hub asks it; it needs the right to create tokenreviews. Read again at each use.",
);
pub(super) const KUBERNETES_AUDIENCE: Key = Key::new(
    "join.identity.kubernetes_audience",
    "blueprint-hub",
    "Audience that the tokens of those pods are made for.",
);
pub(super) const CA: Key = Key::unset(
    "join.identity.ca",
    "PEM file with authorities of that cluster, besides the public ones; and of gcp_keys and aws_issuers that are not the clouds' own.",
);
pub(super) const ORDERED: Key = Key::new(
    "join.identity.ordered",
    "none",
    "Clouds whose machines get no token when this hub orders them and join by their identity, where the keys above name what is \
     needed: none, such as aws,gcp,azure, or any. The others get a token.",
);
pub(super) const UNORDERED: Key = Key::new(
    "join.identity.unordered",
    "none",
    "Clouds whose machines may join although this hub did not order them, such as aws,kubernetes; none.",
);

pub(super) const SERVICES: Key = Key::new(
    "join.identity.services",
    "none",
    "What machines may offer that it did not order, such as 7/42,7/43; any, which is what nobody else offers; or none.",
);

/// Who may join by what a cloud says.
#[derive(Debug, Clone)]
pub(crate) struct IdentitySettings {
    pub(crate) aws: Option<AwsIdentity>,
    pub(crate) gcp: Option<GcpIdentity>,
    pub(crate) azure: Option<AzureIdentity>,
    pub(crate) kubernetes: Option<KubernetesIdentity>,
    pub(crate) ca: Option<PathBuf>,
    /// Clouds whose machines get no token where this hub orders them.
    pub(crate) ordered: Vec<ProofKind>,
    /// Clouds whose machines need not be ordered by this hub.
    pub(crate) unordered: Vec<ProofKind>,
    /// What those may offer.
    pub(crate) services: ServiceGrant,
}

/// Machines of AWS.
#[derive(Debug, Clone)]
pub(crate) struct AwsIdentity {
    pub(crate) accounts: Allowed,
    pub(crate) regions: Allowed,
    /// Folder of certificates for documents; `None` where those are not taken.
    pub(crate) certificates: Option<PathBuf>,
    /// Issuers of tokens, each with the place of its keys.
    pub(crate) issuers: BTreeMap<String, JwksUrl>,
    pub(crate) max_age: Duration,
}

/// Machines of Google Cloud.
#[derive(Debug, Clone)]
pub(crate) struct GcpIdentity {
    pub(crate) projects: Allowed,
    pub(crate) regions: Allowed,
    pub(crate) service_accounts: Allowed,
    pub(crate) keys: JwksUrl,
}

/// Machines of Azure.
#[derive(Debug, Clone)]
pub(crate) struct AzureIdentity {
    pub(crate) subscriptions: Allowed,
    pub(crate) roots: Option<PathBuf>,
    pub(crate) intermediates: Option<PathBuf>,
}

/// Pods of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct KubernetesIdentity {
    pub(crate) accounts: Allowed,
    pub(crate) api: String,
    pub(crate) token: PathBuf,
    pub(crate) audience: String,
}

impl IdentitySettings {
    pub(super) fn take(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        let (aws, gcp) = (aws(settings, problems), gcp(settings, problems));
        let (azure, kubernetes) = (azure(settings, problems), kubernetes(settings, problems));
        let ca = settings.take_optional::<PathBuf>("join.identity.ca", problems);
        let (ordered, unordered) = (ordered(settings, problems), unordered(settings, problems));
        let services = services(settings, problems);
        Some(Self {
            aws: aws?,
            gcp: gcp?,
            azure: azure?,
            kubernetes: kubernetes?,
            ca,
            ordered: ordered?,
            unordered: unordered?,
            services: services?,
        })
    }
}

/// A list of plain words; empty where it is not set.
fn list(
    settings: &Settings,
    key: &'static str,
    problems: &mut Problems,
    is_one: impl Fn(&str) -> bool,
    what: &str,
) -> Option<Allowed> {
    let List(words) = settings.take_optional::<List>(key, problems).unwrap_or_default();
    if let Some(wrong) = words.iter().find(|word| !is_one(word)) {
        settings.refuse(key, &format!("{wrong:?} is not {what}"), problems);
        return None;
    }
    Some(words.into_iter().collect())
}

fn is_word(word: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@".contains(&byte);
    (1..=128).contains(&word.len()) && word.bytes().all(is_plain)
}

fn aws(settings: &Settings, problems: &mut Problems) -> Option<Option<AwsIdentity>> {
    const CERTIFICATES: &str = "join.identity.aws_certificates";
    let is_account = |word: &str| word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_digit());
    let accounts =
        list(settings, "join.identity.aws_accounts", problems, is_account, "an account of twelve digits");
    let regions = list(settings, "join.identity.aws_regions", problems, is_word, "a region");
    let certificates = settings.take_optional::<PathBuf>(CERTIFICATES, problems);
    let max_age = span(settings, "join.identity.aws_max_age", 60, 24 * 3600, problems);
    let issuers = issuers(settings, problems);
    let accounts = accounts?;
    if accounts.is_empty() {
        return Some(None);
    }
    let issuers = issuers?;
    if certificates.is_none() && issuers.is_empty() {
        let why = "not set, and neither is join.identity.aws_issuers; put the certificates of AWS into a folder, REGION.pem each, and \
                   name that, or name the issuers of your accounts (docs/identity.md)";
        settings.refuse(CERTIFICATES, why, problems);
        return None;
    }
    Some(Some(AwsIdentity { accounts, regions: regions?, certificates, issuers, max_age: max_age? }))
}

/// Issuers of AWS with the URLs of their keys.
fn issuers(settings: &Settings, problems: &mut Problems) -> Option<BTreeMap<String, JwksUrl>> {
    let List(words) = settings.take_optional::<List>(AWS_ISSUERS.path, problems).unwrap_or_default();
    let mut issuers = BTreeMap::new();
    for issuer in words {
        // What tokens hold, to the letter: a host alone.
        let url = JwksUrl::parse(&format!("{issuer}{}", sts::KEYS)).ok();
        let Some(url) = url.filter(|url| url.target() == sts::KEYS) else {
            let why = format!("{issuer:?} is not https://HOST, with nothing behind the host");
            settings.refuse(AWS_ISSUERS.path, &why, problems);
            return None;
        };
        issuers.insert(issuer, url);
    }
    Some(issuers)
}

fn gcp(settings: &Settings, problems: &mut Problems) -> Option<Option<GcpIdentity>> {
    const URL: &str = "join.identity.gcp_keys";
    let projects = list(settings, "join.identity.gcp_projects", problems, is_word, "the id of a project");
    let regions = list(settings, "join.identity.gcp_regions", problems, is_word, "a region");
    let accounts = "join.identity.gcp_service_accounts";
    let service_accounts = list(settings, accounts, problems, is_word, "a mail address");
    let keys = settings.take::<String>(URL, problems)?;
    let keys = match JwksUrl::parse(&keys) {
        Ok(keys) => keys,
        Err(error) => {
            settings.refuse(URL, &error.to_string().replace("jwks_url", "it"), problems);
            return None;
        }
    };
    let (projects, regions, service_accounts) = (projects?, regions?, service_accounts?);
    let is_on = !projects.is_empty();
    Some(is_on.then_some(GcpIdentity { projects, regions, service_accounts, keys }))
}

fn azure(settings: &Settings, problems: &mut Problems) -> Option<Option<AzureIdentity>> {
    let key = "join.identity.azure_subscriptions";
    let found = list(settings, key, problems, is_word, "a subscription");
    let roots = settings.take_optional::<PathBuf>("join.identity.azure_roots", problems);
    let intermediates = settings.take_optional::<PathBuf>("join.identity.azure_intermediates", problems);
    let subscriptions: Allowed = found?.0.iter().map(|word| word.to_ascii_lowercase()).collect();
    let is_on = !subscriptions.is_empty();
    Some(is_on.then_some(AzureIdentity { subscriptions, roots, intermediates }))
}

fn kubernetes(settings: &Settings, problems: &mut Problems) -> Option<Option<KubernetesIdentity>> {
    const API: &str = "join.identity.kubernetes_api";
    const TOKEN: &str = "join.identity.kubernetes_token";
    let is_account = |word: &str| {
        is_word(word)
            && word.split_once(':').is_some_and(|(space, name)| !space.is_empty() && !name.is_empty())
    };
    let key = "join.identity.kubernetes_accounts";
    let accounts = list(settings, key, problems, is_account, "NAMESPACE:NAME");
    let api = settings.take_optional::<String>(API, problems);
    let token = settings.take_optional::<PathBuf>(TOKEN, problems);
    let audience = settings.take::<String>("join.identity.kubernetes_audience", problems);
    let accounts = accounts?;
    if accounts.is_empty() {
        return Some(None);
    }
    let is_url = |url: &String| url.starts_with("https://") && JwksUrl::parse(url).is_ok();
    let Some(api) = api.filter(is_url) else {
        settings.refuse(API, "not set, or not https://HOST:PORT; it is asked about each token", problems);
        return None;
    };
    let Some(token) = token else {
        settings.refuse(TOKEN, "not set; the hub needs a token that may create tokenreviews", problems);
        return None;
    };
    Some(Some(KubernetesIdentity {
        accounts,
        api: api.trim_end_matches('/').to_owned(),
        token,
        audience: audience?,
    }))
}

fn ordered(settings: &Settings, problems: &mut Problems) -> Option<Vec<ProofKind>> {
    let List(words) = settings.take::<List>(ORDERED.path, problems)?;
    let all = [ProofKind::Aws, ProofKind::Gcp, ProofKind::Azure];
    if words.iter().any(|word| word == "any") {
        return Some(all.to_vec());
    }
    let mut kinds = Vec::new();
    for word in words.iter().filter(|word| *word != "none") {
        match all.iter().find(|kind| kind.name() == word) {
            Some(kind) => kinds.push(*kind),
            None => {
                let why = format!("{word:?} is not one of any, none, aws, gcp, azure");
                settings.refuse(ORDERED.path, &why, problems);
                return None;
            }
        }
    }
    Some(kinds)
}

/// Refuses what makes machines of listed clouds that are paid for and never join.
///
/// Where something else is wrong already, that is told first.
pub(super) fn check_ordered(
    (identity, providers): (&IdentitySettings, &ProviderSettings),
    join_within: Duration,
    settings: &Settings,
    problems: &mut Problems,
) {
    let lists = |kind| identity.ordered.contains(&kind);
    let aws = identity.aws.as_ref().filter(|own| own.certificates.is_some());
    if let Some(own) = aws.filter(|_| lists(ProofKind::Aws) && providers.aws.is_some())
        && own.max_age < join_within
    {
        let why = format!(
            "machines that this hub orders join within {} s (provision.join_within) by documents that are taken for {} s; make this as \
             long, or take aws out of join.identity.ordered",
            join_within.as_secs(),
            own.max_age.as_secs()
        );
        settings.refuse(AWS_MAX_AGE.path, &why, problems);
    }
    let azure = identity.azure.as_ref().filter(|own| own.intermediates.is_none() && own.roots.is_none());
    if azure.is_some() && lists(ProofKind::Azure) && providers.azure.is_some() {
        let why = "not set: documents of Azure do not lead to its authorities without them, and no machine that this hub orders would \
                   join; name the file (docs/identity.md), or take azure out of join.identity.ordered";
        settings.refuse(AZURE_INTERMEDIATES.path, why, problems);
    }
}

fn unordered(settings: &Settings, problems: &mut Problems) -> Option<Vec<ProofKind>> {
    const KEY: &str = "join.identity.unordered";
    let List(words) = settings.take::<List>(KEY, problems)?;
    let words = words.iter().filter(|word| *word != "none");
    match words.map(|word| word.parse()).collect::<Result<Vec<_>, _>>() {
        Ok(kinds) if kinds.contains(&ProofKind::AwsSts) => {
            settings.refuse(KEY, "aws-sts is how machines of aws show who they are; write aws", problems);
            None
        }
        Ok(kinds) => Some(kinds),
        Err(error) => {
            settings.refuse(KEY, &format!("{error}"), problems);
            None
        }
    }
}

fn services(settings: &Settings, problems: &mut Problems) -> Option<ServiceGrant> {
    let text = settings.take::<String>(SERVICES.path, problems)?;
    if text == "any" {
        return Some(ServiceGrant::FirstClaim);
    }
    // The empty text would be any.
    let text = if text.is_empty() { "none" } else { &text };
    match text.parse() {
        Ok(services) => Some(services),
        Err(error) => {
            settings.refuse(SERVICES.path, &format!("{error}, any or none"), problems);
            None
        }
    }
}
