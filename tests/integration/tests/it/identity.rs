//! Machines that join by what a cloud says of them: real programs, documents that OpenSSL signs, and a metadata service on loopback
//! that speaks as that of EC2 does.

mod clouds;
mod ordered;
mod stand_ins;
mod sts;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::Timestamp;
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Finished, Launch, Need, require, scratch};
use serde_json::json;
use tempfile::TempDir;

use crate::fixture::{Agent, CALL, Hub, SOON, Service, json_of, proving, rows, text};

const ACCOUNT: &str = "123456789012";

/// What a machine's metadata service gives out; nothing where it is `None`.
type Document = Arc<Mutex<Option<String>>>;

/// The metadata service of one machine, and who signs for its region.
struct Machine {
    place: SocketAddr,
    document: Document,
}

impl Machine {
    fn start(document: Option<String>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let place = listener.local_addr()?;
        let document = Arc::new(Mutex::new(document));
        let told = Arc::clone(&document);
        std::thread::Builder::new().spawn(move || {
            for stream in listener.incoming().flatten() {
                let document = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let _ = answer(stream, document);
            }
        })?;
        Ok(Self { place, document })
    }

    fn tells(&self, document: String) {
        *self.document.lock().unwrap_or_else(PoisonError::into_inner) = Some(document);
    }
}

/// Version 2 of EC2's service: a token first, and the document for who shows it.
fn answer(mut stream: TcpStream, document: Option<String>) -> Result<()> {
    let mut head = [0u8; 4096];
    let count = stream.read(&mut head)?;
    let head = String::from_utf8_lossy(head.get(..count).unwrap_or_default()).to_ascii_lowercase();
    let (status, body) = match document {
        Some(_) if head.starts_with("put /latest/api/token ") && head.contains("token-ttl-seconds: ") => {
            (200, "session-token".to_owned())
        }
        Some(document)
            if head.starts_with("get /latest/dynamic/instance-identity/rsa2048 ")
                && head.contains("x-aws-ec2-metadata-token: session-token\r\n") =>
        {
            (200, document)
        }
        Some(_) => (401, String::new()),
        None => (404, String::new()),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")?;
    Ok(())
}

fn openssl_is_there() -> bool {
    require(&[Need::Program("openssl")])
}

fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let done = Launch::new("openssl").folder(folder).args(arguments.split(' ')).run(CALL)?;
    ensure!(done.code == Some(0), "openssl {arguments}: {}", done.stderr);
    Ok(())
}

/// Keys of a region and of somebody else, and what is signed with them.
struct Cloud(TempDir, &'static str);

impl Cloud {
    fn new() -> Result<Self> {
        Self::of("eu-central-1")
    }

    fn of(own: &'static str) -> Result<Self> {
        let folder = scratch("cloud")?;
        std::fs::create_dir(folder.path().join("certificates"))?;
        let cloud = Self(folder, own);
        for (region, out) in [(own, format!("certificates/{own}.pem")), ("forged", "forged.pem".to_owned())] {
            let subject = "/C=US/O=Amazon Web Services LLC";
            let made = Launch::new("openssl").folder(cloud.0.path()).args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-sha256",
                "-days",
                "100",
                "-subj",
                subject,
                "-keyout",
                &format!("{region}.key"),
                "-out",
                &out,
            ]);
            let made = made.run(CALL)?;
            ensure!(made.code == Some(0), "{}", made.stderr);
        }
        std::fs::copy(
            cloud.0.path().join(format!("certificates/{own}.pem")),
            cloud.0.path().join(format!("{own}.pem")),
        )?;
        Ok(cloud)
    }

    fn setting(&self) -> String {
        format!("join.identity.aws_certificates={}", self.0.path().join("certificates").display())
    }

    /// A document as EC2 writes it: indefinite lengths, base64 in lines, no armour.
    fn document(&self, signer: &str, account: &str, instance: &str, age: Duration) -> Result<String> {
        let started = SystemTime::now().checked_sub(age).context("the age")?;
        let document = json!({
            "accountId": account, "architecture": "x86_64", "availabilityZone": format!("{}a", self.1),
            "instanceId": instance, "instanceType": "t3.micro", "privateIp": "10.0.0.7", "region": self.1,
            "pendingTime": Timestamp::from(started).to_string(), "version": "2017-09-30",
        });
        let folder = self.0.path();
        std::fs::write(folder.join("document.json"), document.to_string())?;
        openssl(
            folder,
            &format!(
                "cms -sign -binary -nodetach -stream -nocerts -md sha256 -outform DER -in document.json -out document.der \
                 -signer {signer}.pem -inkey {signer}.key"
            ),
        )?;
        let digits = STANDARD.encode(std::fs::read(folder.join("document.der"))?);
        let lines: Vec<_> = digits.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        Ok(lines.join("\n"))
    }
}

fn line(hub: &Hub<'_>) -> Result<String> {
    Ok(text(&hub.json(&["identity", "line"])?, "/hub_line")?.to_owned())
}

/// One more machine that tries to join.
fn tries(folder: &TempDir, name: &str, line: &str, machine: &Machine) -> Result<Finished> {
    proving(name, &folder.path().join(name), machine.place)?.stdin(line).run(CALL)
}

#[test]
fn a_machine_of_ec2_joins_without_a_token_and_serves_and_does_so_once() -> Result<()> {
    if !require(&[Need::Program("openssl")]) {
        return Ok(());
    }
    let cloud = Cloud::new()?;
    let accounts = format!("join.identity.aws_accounts={ACCOUNT}");
    let certificates = cloud.setting();
    let hub = Hub::start(&[
        &accounts,
        &certificates,
        "join.identity.unordered=aws",
        "join.identity.services=7/42",
    ])?;
    let line = line(&hub)?;
    let machine = Machine::start(Some(cloud.document("eu-central-1", ACCOUNT, "i-0a", Duration::ZERO)?))?;
    let mut agent = Agent::prove("cloudy", &line, machine.place)?;
    let service = Service::start(None, "cloudy")?;
    agent.run()?;
    agent.offer("7/42", service.address)?;
    hub.wait_served("42", &hub.access_token("7/42")?, SOON)?;

    let listed = hub.json(&["identity", "ls"])?;
    let [row] = rows(&listed, "/identities")? else { anyhow::bail!("one identity was expected: {listed}") };
    ensure!(text(row, "/instance")? == "i-0a" && text(row, "/account")? == ACCOUNT, "{row}");
    let accepted = hub.audit()?.into_iter().find(|row| row.starts_with("join.accept "));
    let accepted = accepted.context("an audit row")?;
    ensure!(accepted.contains(&format!("identity aws/{ACCOUNT}/i-0a, name cloudy")), "{accepted}");

    // The same document in other hands: the machine's own programs can read it.
    let folder = scratch("again")?;
    let again = tries(&folder, "thief", &line, &machine)?;
    ensure!(again.code == Some(4) && again.stderr.contains("joined by its identity before"), "{again:?}");
    let id = text(row, "/agent_id")?.to_owned();
    hub.json(&["node", "rm", &id])?;
    let removed = tries(&folder, "removed", &line, &machine)?;
    ensure!(removed.code == Some(4), "removed is removed: {removed:?}");
    hub.json(&["identity", "forget", "aws", ACCOUNT, "i-0a"])?;
    json_of(&tries(&folder, "anew", &line, &machine)?)?;
    let forgotten =
        hub.audit()?.iter().any(|row| row.starts_with(&format!("identity.forget aws/{ACCOUNT}/i-0a")));
    ensure!(forgotten, "forgetting leaves a row");
    Ok(())
}

#[test]
fn documents_that_are_forged_old_or_of_others_are_refused_counted_and_written_down() -> Result<()> {
    if !require(&[Need::Program("openssl")]) {
        return Ok(());
    }
    let cloud = Cloud::new()?;
    let accounts = format!("join.identity.aws_accounts={ACCOUNT}");
    let certificates = cloud.setting();
    let hub = Hub::start(&[&accounts, &certificates])?;
    let line = line(&hub)?;
    let folder = scratch("refused")?;
    let machine = Machine::start(None)?;
    let now = Duration::ZERO;
    let good = cloud.document("eu-central-1", ACCOUNT, "i-0a", now)?;
    let mut changed = STANDARD.decode(good.replace('\n', ""))?;
    let at = changed.windows(4).position(|window| window == b"i-0a").context("the instance")?;
    changed.get_mut(at..at + 4).context("its bytes")?.copy_from_slice(b"i-0b");
    let table = [
        ("signer", cloud.document("forged", ACCOUNT, "i-0a", now)?, "identity_signer"),
        ("changed", STANDARD.encode(&changed), "identity_signature"),
        ("account", cloud.document("eu-central-1", "210987654321", "i-0a", now)?, "identity_not_allowed"),
        (
            "old",
            cloud.document("eu-central-1", ACCOUNT, "i-0a", Duration::from_secs(3600))?,
            "identity_times",
        ),
        ("nothing", "bm90aGluZw==".to_owned(), "identity_malformed"),
        ("unordered", good, "identity_not_ordered"),
    ];
    for (name, document, code) in table {
        machine.tells(document);
        let refused = tries(&folder, name, &line, &machine)?;
        ensure!(refused.code == Some(4), "{name}: {refused:?}");
        let rows = hub.audit()?;
        let row =
            rows.iter().find(|row| row.starts_with("join.refuse ") && row.contains(&format!("{code}: ")));
        ensure!(row.is_some(), "{name}: no row with {code}: {rows:?}");
        let counted = format!("hub_control_joins_total{{result=\"{code}\"}} 1");
        let metrics = hub.api(&Request::get("/metrics"))?.text();
        ensure!(metrics.contains(&counted), "{name}: {counted} was expected");
        ensure!(!folder.path().join(name).join("identity.json").exists(), "{name} has an identity");
    }
    ensure!(rows(&hub.json(&["identity", "ls"])?, "/identities")?.is_empty(), "nobody joined");
    ensure!(rows(&hub.json(&["node", "ls"])?, "/nodes")?.is_empty(), "nobody joined");
    Ok(())
}

#[test]
fn a_token_is_used_where_the_identity_does_not_help() -> Result<()> {
    let hub = Hub::start(&[])?;
    let folder = scratch("fallback")?;
    let machine = Machine::start(None)?;
    // Nothing is taken unless the operator says so.
    let bare = tries(&folder, "bare", &line(&hub)?, &machine)?;
    ensure!(bare.code == Some(4) && bare.stderr.contains("takes no identity"), "{bare:?}");
    let with_token = tries(&folder, "token", &hub.join_line(&[])?, &machine)?;
    ensure!(with_token.stderr.contains("joined with the token: "), "{with_token:?}");
    ensure!(json_of(&with_token)?.pointer("/by_identity") == Some(&false.into()), "{with_token:?}");

    let hub = Hub::start(&[
        "join.identity.gcp_projects=project-1",
        "join.identity.kubernetes_accounts=blueprint:agent",
        "join.identity.kubernetes_api=https://127.0.0.1:1",
        "join.identity.kubernetes_token=/nonexistent",
    ])?;
    let nowhere = tries(&folder, "nowhere", &line(&hub)?, &machine)?;
    ensure!(nowhere.code == Some(6) && nowhere.stderr.contains("cannot prove who it is"), "{nowhere:?}");
    ensure!(nowhere.stderr.contains("gcp: ") && nowhere.stderr.contains("kubernetes: "), "{nowhere:?}");
    let with_token = tries(&folder, "second", &hub.join_line(&[])?, &machine)?;
    ensure!(json_of(&with_token)?.pointer("/by_identity") == Some(&false.into()), "{with_token:?}");
    Ok(())
}
