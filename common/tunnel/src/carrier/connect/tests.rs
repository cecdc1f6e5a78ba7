//! CONNECT against a proxy of a few lines.

use tokio::net::TcpListener;

use super::*;

const WITHIN: Duration = Duration::from_secs(20);

/// Answers one request with `answer` and returns the request; then echoes what comes.
async fn proxy_once(listener: &TcpListener, answer: &[u8]) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    // In pieces, as a network may cut it.
    let (first, second) = answer.split_at(answer.len() / 2);
    stream.write_all(first).await.unwrap();
    tokio::task::yield_now().await;
    stream.write_all(second).await.unwrap();
    let (mut from, mut to) = stream.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
    String::from_utf8(request).unwrap()
}

/// Connects to `hub.example:443` through a proxy that answers so.
async fn attempt(answer: &[u8], credentials: &str) -> (Result<Vec<u8>, ConnectProxyError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let proxy: ProxyUrl = format!("http://{credentials}127.0.0.1:{port}").parse().unwrap();
    let client = async {
        let mut stream = connect(&proxy, "hub.example", 443, WITHIN).await?;
        stream.write_all(b"ping").await?;
        stream.shutdown().await?;
        let mut echo = Vec::new();
        stream.read_to_end(&mut echo).await?;
        Ok(echo)
    };
    tokio::join!(client, proxy_once(&listener, answer))
}

#[tokio::test]
async fn a_connection_through_the_proxy_is_as_if_direct() {
    let answer = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\nhello ";
    let (outcome, request) = attempt(answer, "").await;
    assert_eq!(outcome.unwrap(), b"hello ping");
    assert_eq!(request, "CONNECT hub.example:443 HTTP/1.1\r\nHost: hub.example:443\r\n\r\n");
}

#[tokio::test]
async fn credentials_are_sent_in_basic_form() {
    // "Aladdin:open sesame" is the example of RFC 7617.
    let (outcome, request) = attempt(b"HTTP/1.0 200 OK\r\n\r\n", "Aladdin:open%20sesame@").await;
    assert_eq!(outcome.unwrap(), b"ping");
    assert!(request.contains("\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"), "{request}");
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    let check = async |answer: &[u8], expected: &str| {
        let (outcome, _) = attempt(answer, "u:canary@").await;
        let text = outcome.unwrap_err().to_string();
        assert!(text.contains(expected) && !text.contains("canary"), "{text}");
    };
    check(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "asks for credentials")
        .await;
    check(b"HTTP/1.1 403 Forbidden\r\n\r\n", "forbids hub.example:443").await;
    check(b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "answered 502").await;
    check(b"HTTP/1.1 20 OK\r\n\r\n", "no HTTP proxy").await;
    check(b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP proxy").await;
    check(&[b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; ANSWER_MAX]].concat(), "no HTTP proxy").await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_proxy_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy: ProxyUrl = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let outcome = connect(&proxy, "hub.example", 443, Duration::from_secs(5)).await;
    assert!(matches!(outcome, Err(ConnectProxyError::TimedOut { .. })), "{outcome:?}");
}

#[test]
fn a_proxy_url_is_taken_apart_and_shows_no_password() {
    let url: ProxyUrl = "http://user:pa%3Ass%40@proxy.example:3128/".parse().unwrap();
    assert_eq!((url.host.as_str(), url.port), ("proxy.example", 3128));
    assert_eq!(url.credentials.as_ref().unwrap().expose(), b"user:pa:ss@");
    assert_eq!(format!("{url} {url:?}"), "http://proxy.example:3128 ProxyUrl(http://proxy.example:3128)");
    let v6: ProxyUrl = "http://[::1]:80".parse().unwrap();
    assert_eq!((v6.host.as_str(), v6.to_string().as_str()), ("::1", "http://[::1]:80"));
}

#[test]
fn a_bad_proxy_url_is_refused_with_its_reason() {
    let check = |text: &str, expected| assert_eq!(text.parse::<ProxyUrl>(), Err(expected), "{text}");
    check("https://proxy:1", ProxyUrlError::Scheme);
    check("proxy:1", ProxyUrlError::Scheme);
    check("http://proxy", ProxyUrlError::Port);
    check("http://proxy:0", ProxyUrlError::Port);
    check("http://proxy:65536", ProxyUrlError::Port);
    check("http://:80", ProxyUrlError::Host);
    check("http://a b:80", ProxyUrlError::Host);
    check("http://::1:80", ProxyUrlError::Host);
    check("http://user@proxy:80", ProxyUrlError::Credentials);
    check("http://user:%4@proxy:80", ProxyUrlError::Credentials);
    check("http://user:%0a@proxy:80", ProxyUrlError::Credentials);
    check("http://proxy:80/path", ProxyUrlError::Path);
}

#[test]
fn a_host_cannot_smuggle_a_line_into_the_request() {
    for host in ["", "a\r\nb", "a b", "a:1", "a/b", "[::1]"] {
        assert_eq!(target(host, 443), None, "{host:?}");
    }
    assert_eq!(target("::1", 443).as_deref(), Some("[::1]:443"));
    assert_eq!(target("10.0.0.1", 443).as_deref(), Some("10.0.0.1:443"));
}
