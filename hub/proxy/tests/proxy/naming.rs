//! Three ways to name a service, and no way to name two.

use http::StatusCode;

use crate::rig::{Rig, empty, mirror, text};

async fn rig() -> Rig {
    let rig = Rig::with(|config| config.domain = "bp.example".to_owned()).await;
    rig.route(&[rig.service(mirror)]);
    rig
}

#[tokio::test]
async fn host_header_and_path_lead_to_the_same_service() {
    let rig = rig().await;
    let token = rig.token.expose_text();
    for (target, host, header, path, prefix) in [
        ("/a?b", "hub", "X-Service-Id: 7/42\r\n", "/a?b", None),
        ("/a?b", "s42.b7.bp.example", "", "/a?b", None),
        ("/s42.b7/a?b", "hub", "", "/a?b", Some("/s42.b7")),
        ("/s42.b7", "127.0.0.1:8276", "", "/", Some("/s42.b7")),
        ("/s42.b7/s43.b7/a", "s42.b7.bp.example", "X-Service-Id: 42\r\n", "/s43.b7/a", Some("/s42.b7")),
    ] {
        let answer = rig
            .raw(&format!(
                "GET {target} HTTP/1.1\r\nHost: {host}\r\n{header}Authorization: Bearer {}\r\n\
                 X-Forwarded-Prefix: /forged\r\nConnection: close\r\n\r\n",
                token.expose()
            ))
            .await;
        assert!(
            answer.contains(&format!("\nGET {path}\n")) || answer.contains(&format!("GET {path}\n")),
            "{answer}"
        );
        let told = prefix.map_or(!answer.contains("x-forwarded-prefix"), |prefix| {
            answer.matches("x-forwarded-prefix").count() == 1
                && answer.contains(&format!("x-forwarded-prefix: {prefix}\n"))
        });
        assert!(told, "{answer}");
    }
}

#[tokio::test]
async fn two_names_for_one_request_are_refused() {
    let rig = rig().await;
    let mut http2 = rig.http2().await;
    for (target, header) in [
        ("http://hub/s43.b7/a", "7/42"),
        ("http://hub/s42.b8/a", "7/42"),
        ("http://hub/s42.b7/a", "43"),
        ("http://s43.b7.bp.example/a", "7/42"),
        ("http://s43.b7.bp.example/s42.b7/a", "7/42"),
        ("http://s42.b7.bp.example/s43.b7/a", "7/42"),
        ("http://s42.b7.bp.example/x/..//%7343.b7/a", "7/42"),
    ] {
        let mut request = rig.request("GET", target, empty());
        request.headers_mut().remove("host");
        request.headers_mut().insert("x-service-id", header.parse().unwrap());
        let response = http2.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{target} {header}");
        assert!(text(response).await.contains("contradictory_service"), "{target} {header}");
    }
    rig.assert_metric("hub_proxy_requests_refused_total{reason=\"contradictory_service\"} 7");
}

#[tokio::test]
async fn the_proxys_own_routes_stay_its_own_under_every_name() {
    let rig = rig().await;
    let mut client = rig.http1().await;
    for target in ["/v1/auth/challenge", "/s42.b7/v1/auth/challenge", "/s42.b7/x/../v1//auth/challenge"] {
        client.ready().await.unwrap();
        let response = client.send_request(rig.request("POST", target, empty())).await.unwrap();
        assert_ne!(response.status(), StatusCode::OK);
        let answer = text(response).await;
        assert!(!answer.starts_with("POST"), "{target} reached the service: {answer}");
    }
}
