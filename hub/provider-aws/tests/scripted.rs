//! What moto does not do: full zones, lost answers, tokens, broken pages, and the metadata service of a machine.
//!
//! A server on loopback answers each call as the test says, and keeps what it was asked.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_aws::{AwsCloud, AwsConfig, InstanceRole};
use blueprint_hub_provider_kit::{CredentialSource, Credentials, Fixed, HttpClient, HttpConfig};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{
    DeploymentId, ErrorClass, Instance, InstanceSpec, Provider, ProviderError, Tags,
};

/// One request: its first line with its body, and its head.
struct Asked {
    line: String,
    head: String,
    /// What a form says.
    form: BTreeMap<String, String>,
}

/// Status and body; none where the connection is closed without an answer.
type Says = Option<(u16, String)>;

/// A server that answers as `answer` says, and what it was asked, by the action of a form or else its first line.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(mut answer: impl FnMut(&Asked) -> Says + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        // It ends with the process of the test.
        std::thread::Builder::new()
            .spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let Some(request) = read(&mut stream) else { continue };
                    let name = request.form.get("Action").unwrap_or(&request.line).clone();
                    let subnet = request.form.get("NetworkInterface.1.SubnetId");
                    noted
                        .lock()
                        .unwrap()
                        .push(subnet.map_or(name.clone(), |subnet| format!("{name} {subnet}")));
                    if let Some((status, body)) = answer(&request) {
                        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
                    }
                }
            })
            .unwrap();
        Self { url, asked }
    }

    fn asked(&self, prefix: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|line| line.starts_with(prefix)).cloned().collect()
    }
}

fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                let form = serde_urlencoded::from_str(body).unwrap_or_default();
                let line = head.lines().next().unwrap_or_default().to_owned();
                return Some(Asked { line, head: head.to_owned(), form });
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(piece.get(..count)?),
        }
    }
}

fn refused(status: u16, code: &str) -> Says {
    Some((
        status,
        format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>m</Message></Error></Errors><RequestID>r</RequestID></Response>"
        ),
    ))
}

fn item(id: &str) -> String {
    format!(
        "<item><instanceId>{id}</instanceId><instanceState><name>pending</name></instanceState>\
         <launchTime>2026-11-21T10:00:00.000Z</launchTime><tagSet><item><key>blueprint-instance</key><value>bp-x-1</value>\
         </item></tagSet></item>"
    )
}

/// EC2 with three zones and an image; `run` answers `RunInstances` for a subnet, and everything else has its usual answer.
fn ec2(mut run: impl FnMut(&Asked, &str) -> Says + Send + 'static) -> Server {
    Server::start(move |asked| {
        let ok = |name: &str, inner: &str| Some((200, format!("<{name}Response>{inner}</{name}Response>")));
        match asked.form.get("Action")?.as_str() {
            "DescribeInstances" => ok("DescribeInstances", "<reservationSet/>"),
            "DescribeImages" => ok(
                "DescribeImages",
                "<imagesSet><item><imageId>ami-1</imageId><rootDeviceName>/dev/xvda</rootDeviceName><architecture>x86_64</architecture></item></imagesSet>",
            ),
            "DescribeSubnets" => {
                let subnet = |n: u32| {
                    format!(
                        "<item><subnetId>subnet-{n}</subnetId><vpcId>vpc-1</vpcId><availabilityZone>z{n}</availabilityZone></item>"
                    )
                };
                ok(
                    "DescribeSubnets",
                    &format!("<subnetSet>{}{}{}</subnetSet>", subnet(1), subnet(2), subnet(3)),
                )
            }
            "DescribeSecurityGroups" => ok(
                "DescribeSecurityGroups",
                "<securityGroupInfo><item><groupId>sg-1</groupId></item></securityGroupInfo>",
            ),
            "RunInstances" => run(asked, asked.form.get("NetworkInterface.1.SubnetId")?),
            _ => refused(400, "InvalidAction"),
        }
    })
}

fn http() -> HttpClient {
    HttpClient::new(HttpConfig::default()).unwrap()
}

fn cloud(server: &Server) -> AwsCloud {
    let field = |name: &str| (name.to_owned(), Secret::new("AKIDEXAMPLE".to_owned()));
    let keys = Credentials::new("a test", ["access_key_id", "secret_access_key"].map(field));
    let config = AwsConfig {
        endpoint: Some(server.url.clone()),
        image: "ami-1".parse().unwrap(),
        ..AwsConfig::new(vec!["us-east-1".parse().unwrap()])
    };
    AwsCloud::new(config, http(), Arc::new(Fixed::new(keys)))
}

async fn create(server: &Server) -> Result<Instance, ProviderError> {
    let tags =
        Tags { hub: HubId::from_bytes([7; 16]), deployment: DeploymentId::from_bytes([1; 10]), attempt: 1 };
    let spec = InstanceSpec {
        key: "bp-x-1".parse().unwrap(),
        tags: Some(tags),
        plan: "t3.micro".to_owned(),
        region: "us-east-1".to_owned(),
        spot: false,
        disk_gb: 0,
        arch: Arch::X86_64,
        ttl: None,
        user_data: Secret::new("x".to_owned()),
    };
    cloud(server).create(&spec).await
}

fn made() -> Says {
    Some((
        200,
        format!("<RunInstancesResponse><instancesSet>{}</instancesSet></RunInstancesResponse>", item("i-1")),
    ))
}

#[tokio::test]
async fn zones_are_asked_until_one_has_a_machine() {
    let mut left = 2;
    let server = ec2(move |_, _| {
        left -= 1;
        if left >= 0 { refused(500, "InsufficientInstanceCapacity") } else { made() }
    });
    let instance = create(&server).await.unwrap();
    assert_eq!(instance.provider_id, "us-east-1/i-1");
    let mut zones = server.asked("RunInstances");
    zones.sort();
    assert_eq!(zones, ["RunInstances subnet-1", "RunInstances subnet-2", "RunInstances subnet-3"]);
}

#[tokio::test]
async fn a_region_is_full_where_one_zone_is_and_sells_nothing_where_none_does() {
    let full = ec2(|_, _| refused(500, "InsufficientInstanceCapacity"));
    assert_eq!(create(&full).await.unwrap_err().class(), ErrorClass::Capacity);
    let mixed = ec2(|_, subnet| {
        refused(400, if subnet == "subnet-2" { "InsufficientInstanceCapacity" } else { "Unsupported" })
    });
    assert_eq!(create(&mixed).await.unwrap_err().class(), ErrorClass::Capacity);
    assert_eq!(mixed.asked("RunInstances").len(), 3);
    let none = ec2(|_, _| refused(400, "Unsupported"));
    let error = create(&none).await.unwrap_err();
    assert_eq!(
        (error.class(), error.to_string().as_str()),
        (ErrorClass::NotSold, "t3.micro in us-east-1 is not sold")
    );
}

#[tokio::test]
async fn no_other_zone_is_asked_where_the_first_may_have_made_one_or_the_account_is_at_fault() {
    for (answer, class) in [
        (None, ErrorClass::Unknown),
        (Some((200, "<RunInstancesResponse><instancesSet/>".to_owned())), ErrorClass::Unknown),
        (
            Some((200, "<RunInstancesResponse><instancesSet/></RunInstancesResponse>".to_owned())),
            ErrorClass::Unknown,
        ),
        (
            Some((
                200,
                format!(
                    "<R><instancesSet>{}</instancesSet></R>",
                    item("i-1").replace("pending", "terminated")
                ),
            )),
            ErrorClass::Unknown,
        ),
        (Some((502, "<html>".to_owned())), ErrorClass::Unknown),
        (refused(500, "InternalError"), ErrorClass::Unknown),
        (refused(400, "IdempotentParameterMismatch"), ErrorClass::Unknown),
        (refused(503, "RequestLimitExceeded"), ErrorClass::Throttle),
        (refused(400, "VcpuLimitExceeded"), ErrorClass::Quota),
        (refused(403, "UnauthorizedOperation"), ErrorClass::Deny),
        (refused(400, "InvalidGroup.NotFound"), ErrorClass::Again),
        (refused(400, "InvalidParameterCombination"), ErrorClass::Reject),
    ] {
        let shown = format!("{answer:?}");
        let server = ec2(move |_, _| answer.clone());
        assert_eq!(create(&server).await.unwrap_err().class(), class, "{shown}");
        assert_eq!(server.asked("RunInstances").len(), 1, "{shown}");
    }
}

#[tokio::test]
async fn the_same_call_has_the_same_token_and_the_same_words() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&calls);
    let server = ec2(move |asked, _| {
        noted.lock().unwrap().push(asked.form.clone());
        None
    });
    // An answer that is lost: whoever repeats the call gets what the first one made.
    for _ in 0..2 {
        create(&server).await.unwrap_err();
    }
    let calls = calls.lock().unwrap();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls.first(), calls.last());
    assert_eq!(calls.first().unwrap().get("ClientToken").unwrap().len(), 64);
}

#[tokio::test]
async fn a_list_is_whole_or_an_error() {
    let page = |asked: &Asked, last: Says| match asked.form.get("NextToken") {
        None => Some((
            200,
            format!(
                "<R><reservationSet><item><instancesSet>{}</instancesSet></item></reservationSet><nextToken>t</nextToken></R>",
                item("i-1")
            ),
        )),
        Some(_) => last,
    };
    for (last, class) in [
        (refused(503, "RequestLimitExceeded"), ErrorClass::Throttle),
        (None, ErrorClass::Unknown),
        (Some((200, "<R/>".to_owned())), ErrorClass::Unknown),
        // A token that leads to itself.
        (Some((200, "<R><reservationSet/><nextToken>t</nextToken></R>".to_owned())), ErrorClass::Reject),
    ] {
        let server = Server::start(move |asked| page(asked, last.clone()));
        assert_eq!(cloud(&server).list().await.unwrap_err().class(), class);
    }
    let server = Server::start(move |asked| page(asked, Some((200, "<R><reservationSet/></R>".to_owned()))));
    assert_eq!(cloud(&server).list().await.unwrap().instances.len(), 1);
}

#[tokio::test]
async fn the_role_of_a_machine_is_asked_for_with_a_token_and_kept() {
    let keys = r#"{"Code":"Success","AccessKeyId":"ASIA","SecretAccessKey":"canary","Token":"canary2","Expiration":"2099-01-01T00:00:00Z"}"#;
    let server = Server::start(move |asked| {
        let has_token = asked.head.contains("x-aws-ec2-metadata-token: t0k3n");
        Some(match asked.line.split(' ').nth(1)? {
            "/latest/api/token" if asked.line.starts_with("PUT") => (200, "t0k3n".to_owned()),
            _ if !has_token => (401, String::new()),
            "/latest/meta-data/iam/security-credentials/" => (200, "hub\n".to_owned()),
            "/latest/meta-data/iam/security-credentials/hub" => (200, keys.to_owned()),
            _ => (404, String::new()),
        })
    });
    let role = InstanceRole::new(http(), Some(&server.url));
    assert!(role.is_there().await);
    let got = role.get().await.unwrap();
    assert_eq!(
        (got.origin(), got.get("access_key_id").unwrap().expose().as_str()),
        ("the role hub of this machine", "ASIA")
    );
    assert_eq!(got.get("session_token").unwrap().expose(), "canary2");
    assert_eq!(server.asked("").len(), 3, "asked again for what is good for years");
    assert!(!format!("{got:?} {role:?}").contains("canary"));

    let bare =
        Server::start(|asked| Some((if asked.line.starts_with("PUT") { 200 } else { 404 }, "x".to_owned())));
    let role = InstanceRole::new(http(), Some(&bare.url));
    assert!(!role.is_there().await);
    let error = role.get().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Deny);
}
