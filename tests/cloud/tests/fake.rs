//! The fake itself: it has to see what is wrong, or it proves nothing.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use blueprint_hub_provider_kit::{HttpClient, HttpConfig};
use blueprint_tests_cloud::FakeCloud;
use blueprint_tests_cloud::digitalocean::DigitalOceanDialect;
use bytes::Bytes;
use http::Request;

async fn broken_by(method: &str, path: &str, body: &str) -> Vec<String> {
    let fake = FakeCloud::start(DigitalOceanDialect::default(), "t").await;
    let request = Request::builder()
        .method(method)
        .uri(format!("{}{path}", fake.url()))
        .header("authorization", "Bearer t")
        .header("content-type", "application/json")
        .body(Bytes::from(body.to_owned()))
        .unwrap();
    HttpClient::new(HttpConfig::default()).unwrap().send("x", request).await.unwrap();
    fake.take_broken_rules()
}

#[tokio::test]
async fn broken_rules_are_seen() {
    assert!(broken_by("GET", "/v2/droplets?tag_name=bp-node&per_page=200", "").await.is_empty());
    for (method, path, body, rule) in [
        ("GET", "/v2/droplets?per_page=500", "", "per_page"),
        ("GET", "/v2/droplets?tag_name=a&type=gpus", "", "tag_name together"),
        ("DELETE", "/v2/droplets?tag_name=a", "", "by tag"),
        ("DELETE", "/v2/droplets/1/destroy_with_associated_resources/dangerous", "", "snapshots"),
        ("POST", "/v2/tags", r#"{"name":"a b"}"#, "a tag with other characters"),
        ("POST", "/v2/droplets", r#"{"name":"a"}"#, "an order without size"),
        ("POST", "/v2/droplets", r#"{"name":"a_b"}"#, "no host name"),
        ("POST", "/v2/droplets", r#"{"name":"a"}"#, "behind no firewall"),
        ("POST", "/v2/droplets", r#"{"name":"a"}"#, "root password"),
    ] {
        let broken = broken_by(method, path, body).await;
        assert!(broken.iter().any(|own| own.contains(rule)), "{path} {rule}: {broken:?}");
    }
}

#[tokio::test]
#[should_panic(expected = "rules of the cloud were broken")]
async fn a_broken_rule_fails_the_test() {
    let fake = FakeCloud::start(DigitalOceanDialect::default(), "t").await;
    let request = Request::get(format!("{}/v2/sizes", fake.url())).body(Bytes::new()).unwrap();
    HttpClient::new(HttpConfig::default()).unwrap().send("x", request).await.unwrap();
    drop(fake);
}
