//! The web identity token that AWS's Security Token Service gives for the role of this machine: `GetWebIdentityToken`, signed with
//! the credentials of that role (signature version 4).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use blueprint_common_types::{Secret, Timestamp};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::uri::Scheme;
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use ring::{digest, hmac};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::MAX_DOCUMENT;
use super::metadata::exchange;

/// How long a token is good, in seconds: it is used within this join.
const LIFE_SECS: u32 = 300;

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Where the service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StsPlace {
    host: String,
    port: u16,
    /// False for a stand-in on loopback alone.
    is_tls: bool,
}

impl StsPlace {
    /// That of a region; the global one does not give such tokens.
    fn of(region: &str) -> Self {
        let end = if region.starts_with("cn-") { ".cn" } else { "" };
        Self { host: format!("sts.{region}.amazonaws.com{end}"), port: 443, is_tls: true }
    }

    /// As it is written in `Host`.
    fn authority(&self) -> String {
        let usual = if self.is_tls { 443 } else { 80 };
        if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl FromStr for StsPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "https://HOST, or http://127.0.0.1:PORT for a stand-in, was expected".to_owned();
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let is_plain = uri.scheme() == Some(&Scheme::HTTP) && host == "127.0.0.1";
        if !(is_tls || is_plain) || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong());
        }
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { host: host.to_owned(), port, is_tls })
    }
}

impl fmt::Display for StsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())
    }
}

/// Credentials of the machine's role, as its metadata service gives them.
pub(super) struct RoleKeys {
    id: String,
    secret: Secret<String>,
    session: Secret<String>,
}

impl RoleKeys {
    /// Reads the answer of the metadata service.
    pub(super) fn read(json: &[u8]) -> Result<Self, String> {
        let wrong = || "the metadata service gave no credentials of the role".to_owned();
        let answer: Value = serde_json::from_slice(json).map_err(|_| wrong())?;
        let field = |name: &str| {
            let text = answer.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
            text.map(str::to_owned).ok_or_else(wrong)
        };
        Ok(Self {
            id: field("AccessKeyId")?,
            secret: Secret::new(field("SecretAccessKey")?),
            session: Secret::new(field("Token")?),
        })
    }
}

/// Asks for a token with this audience, at the service of the region or at `place`.
pub(super) async fn web_identity(
    keys: &RoleKeys,
    (region, place): (&str, Option<&StsPlace>),
    audience: &str,
    now: Timestamp,
) -> Result<Secret<Vec<u8>>, String> {
    let place = place.cloned().unwrap_or_else(|| StsPlace::of(region));
    let request = request(keys, (region, &place), audience, now)?;
    let named = |error: std::io::Error| format!("cannot reach {place}: {error}");
    let stream = TcpStream::connect((place.host.as_str(), place.port)).await.map_err(named)?;
    let who = format!("the token service {place}");
    let (status, body) = if place.is_tls {
        let name = ServerName::try_from(place.host.clone()).map_err(|_| format!("{place} is no host"))?;
        let stream = TlsConnector::from(public_roots()?).connect(name, stream).await.map_err(named)?;
        exchange(stream, request, MAX_DOCUMENT, &who).await?
    } else {
        exchange(stream, request, MAX_DOCUMENT, &who).await?
    };
    let text = String::from_utf8_lossy(&body);
    if status != StatusCode::OK {
        // Its words may repeat what was sent; the code is one word.
        let code =
            between(&text, "Code").filter(|code| code.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        return Err(format!("{who} answered with {status} ({})", code.unwrap_or("no code")));
    }
    let token = between(&text, "WebIdentityToken").ok_or_else(|| format!("{who} gave no token"))?;
    Ok(Secret::new(token.trim().as_bytes().to_vec()))
}

/// The text of the first element of this name; what is looked for holds no marks.
fn between<'t>(xml: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    (!text.is_empty() && !text.contains(['<', '&'])).then_some(text)
}

fn public_roots() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn request(
    keys: &RoleKeys,
    (region, place): (&str, &StsPlace),
    audience: &str,
    now: Timestamp,
) -> Result<Request<Full<Bytes>>, String> {
    // An audience is letters, digits, `-` and `/`.
    let body = format!(
        "Action=GetWebIdentityToken&Version=2011-06-15&Audience.member.1={}&DurationSeconds={LIFE_SECS}&SigningAlgorithm=RS256",
        audience.replace('/', "%2F")
    );
    let (host, time) = (place.authority(), basic(now));
    let (names, signature) = signature(keys, region, (&host, &time), &body);
    let date = time.get(..8).unwrap_or_default();
    let authorization = format!(
        "{ALGORITHM} Credential={}/{date}/{region}/sts/aws4_request, SignedHeaders={names}, Signature={signature}",
        keys.id
    );
    let secret = |text: &str| {
        let mut value =
            HeaderValue::from_str(text).map_err(|_| "the credentials of the role are no text".to_owned())?;
        value.set_sensitive(true);
        Ok::<_, String>(value)
    };
    let request = Request::post("/")
        .header(HOST, host)
        .header(CONTENT_TYPE, FORM)
        .header("x-amz-date", time)
        .header("x-amz-security-token", secret(keys.session.expose())?)
        .header(AUTHORIZATION, secret(&authorization)?);
    request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())
}

/// The names of the headers that are signed, and the signature of a request to the path `/` without a query.
fn signature(keys: &RoleKeys, region: &str, (host, time): (&str, &str), body: &str) -> (String, String) {
    let names = "content-type;host;x-amz-date;x-amz-security-token".to_owned();
    let canonical = Secret::new(format!(
        "POST\n/\n\ncontent-type:{FORM}\nhost:{host}\nx-amz-date:{time}\nx-amz-security-token:{}\n\n{names}\n{}",
        keys.session.expose(),
        hex(digest::digest(&digest::SHA256, body.as_bytes()).as_ref())
    ));
    let date = time.get(..8).unwrap_or_default();
    let hash = hex(digest::digest(&digest::SHA256, canonical.expose().as_bytes()).as_ref());
    let text = format!("{ALGORITHM}\n{time}\n{date}/{region}/sts/aws4_request\n{hash}");
    let first = Secret::new(format!("AWS4{}", keys.secret.expose()));
    let mac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let mut key = mac(first.expose().as_bytes(), date);
    for part in [region, "sts", "aws4_request", &text] {
        key = mac(key.as_ref(), part);
    }
    (names, hex(key.as_ref()))
}

/// `20150830T123600Z`.
fn basic(at: Timestamp) -> String {
    at.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> RoleKeys {
        RoleKeys::read(
            br#"{"Code":"Success","AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"wJalrXUtnFEMI","Token":"session/+=="}"#,
        )
        .unwrap()
    }

    #[test]
    fn the_service_of_the_region_is_asked_and_stand_ins_are_on_loopback_alone() {
        assert_eq!(StsPlace::of("eu-central-1").authority(), "sts.eu-central-1.amazonaws.com");
        assert_eq!(StsPlace::of("cn-north-1").authority(), "sts.cn-north-1.amazonaws.com.cn");
        let own: StsPlace = "https://vpce-1.sts.eu-central-1.vpce.amazonaws.com".parse().unwrap();
        assert!(own.is_tls && own.port == 443);
        assert_eq!("http://127.0.0.1:4566".parse::<StsPlace>().unwrap().authority(), "127.0.0.1:4566");
        for wrong in
            ["", "sts", "http://sts.amazonaws.com", "https://sts/x", "https://sts?x=1", "ftp://127.0.0.1"]
        {
            assert!(wrong.parse::<StsPlace>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_request_is_signed_as_an_independent_computation_has_it() {
        // `hmac` and `hashlib` of Python, by the steps of AWS's page on signature version 4.
        let body = "Action=GetWebIdentityToken&Version=2011-06-15&Audience.member.1=blueprint-hub%2Fab&DurationSeconds=300\
                    &SigningAlgorithm=RS256";
        let host = "sts.eu-central-1.amazonaws.com";
        let (_, signature) = signature(&keys(), "eu-central-1", (host, "20261122T120000Z"), body);
        assert_eq!(signature, "040f74841c62682f9b3d30025f50c0e29d02752d8d15a6b26bf0d4197fa0995a");
        let place = StsPlace::of("eu-central-1");
        let now = Timestamp::from_millis(1_795_348_800_000);
        let request = request(&keys(), ("eu-central-1", &place), "blueprint-hub/ab", now).unwrap();
        let authorization = request.headers()[AUTHORIZATION].to_str().unwrap();
        assert!(authorization.ends_with(&signature), "{authorization}");
        assert!(!format!("{request:?}").contains("session/"), "it prints no secret");
    }

    #[test]
    fn answers_without_what_is_needed_are_told_apart() {
        assert_eq!(between("<a><Code>AccessDenied</Code></a>", "Code"), Some("AccessDenied"));
        for xml in ["", "<Code>", "<Code></Code>", "<Code>a<b/></Code>", "</Code><Code>"] {
            assert_eq!(between(xml, "Code"), None, "{xml}");
        }
        for json in [
            "",
            "[]",
            r#"{"Code":"AssumeRoleUnauthorizedAccess"}"#,
            r#"{"AccessKeyId":"a","SecretAccessKey":"b"}"#,
        ] {
            assert!(RoleKeys::read(json.as_bytes()).is_err(), "{json}");
        }
    }
}
