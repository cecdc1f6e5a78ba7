//! Asks a service for its metrics by the Blueprint SDK's protocol, and makes the page of them that others show themselves.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use blueprint_common_types::ServiceKey;
use blueprint_proto::qos::GetBlueprintMetricsRequest;
use blueprint_proto::qos::qos_metrics_client::QosMetricsClient;
use http::StatusCode;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::scrape::{MAX_PAGE, ScrapeError};

/// Longest name, and longest value that is a text, in bytes; others are left out.
const MAX_TEXT: usize = 256;

/// Longest text of the service that a reason repeats, in characters.
const SAID_CHARS: usize = 80;

/// Calls `qos.QosMetrics/GetBlueprintMetrics` once, over a connection of its own (HTTP/2 in clear text), and gives the answer
/// in Prometheus' text format. A value that is no number becomes a label: `NAME_info{value="TEXT"} 1`.
///
/// # Errors
///
/// Each variant of [`ScrapeError`] says its case; a service without that call answers 404. An answer of more than
/// [`MAX_PAGE`] bytes cannot be read.
///
/// # Cancel safety
///
/// Dropping it closes the connection.
pub async fn ask(address: SocketAddr, service: ServiceKey, within: Duration) -> Result<String, ScrapeError> {
    tokio::time::timeout(within, call(address, service)).await.map_err(|_| ScrapeError::Late(within))?
}

async fn call(address: SocketAddr, service: ServiceKey) -> Result<String, ScrapeError> {
    let refused = |error: tonic::transport::Error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        ScrapeError::Unreachable(cause.to_string())
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(refused)?;
    let channel = endpoint.connect().await.map_err(refused)?;
    let mut client = QosMetricsClient::new(channel).max_decoding_message_size(MAX_PAGE);
    let ServiceKey { blueprint: blueprint_id, service: service_id } = service;
    let answer = client.get_blueprint_metrics(GetBlueprintMetricsRequest { blueprint_id, service_id }).await;
    let answer = answer.map_err(|status| refusal(&status))?;
    Ok(page(answer.into_inner().custom_metrics.into_iter().collect()))
}

/// What a refused call says about the service.
fn refusal(status: &Status) -> ScrapeError {
    if matches!(status.code(), Code::Unimplemented | Code::NotFound) {
        return ScrapeError::Status(StatusCode::NOT_FOUND);
    }
    let said: String = status.message().chars().filter(|c| !c.is_control()).take(SAID_CHARS).collect();
    ScrapeError::Unreachable(format!("{:?}: {said}", status.code()))
}

/// A map as a page, in the order of its names.
fn page(entries: BTreeMap<String, String>) -> String {
    let mut page = String::new();
    for (name, value) in entries {
        let value = value.trim();
        let name = name_of(&name);
        if name.is_empty() || name.len() > MAX_TEXT || value.len() > MAX_TEXT {
            continue;
        }
        // A `String` takes whatever is written to it.
        let _ = match value.parse::<f64>() {
            Ok(number) if number.is_nan() => writeln!(page, "{name} NaN"),
            Ok(number) if number.is_infinite() => {
                writeln!(page, "{name} {}Inf", if number > 0.0 { '+' } else { '-' })
            }
            Ok(_) => writeln!(page, "{name} {value}"),
            Err(_) => writeln!(page, "{name}_info{{value=\"{}\"}} 1", label(value)),
        };
    }
    page
}

/// A name that the format allows: other characters become `_`.
fn name_of(name: &str) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut clean: String = name.chars().map(|c| if is_name(c) { c } else { '_' }).collect();
    if clean.starts_with(|c: char| c.is_ascii_digit()) {
        clean.insert(0, '_');
    }
    clean
}

/// A text as the value of a label.
fn label(text: &str) -> String {
    let clean = text.chars().filter(|c| !c.is_control());
    clean.collect::<String>().replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use blueprint_proto::qos;
    use blueprint_proto::qos::qos_metrics_server::{QosMetrics, QosMetricsServer};
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response};

    use super::*;

    const WITHIN: Duration = Duration::from_secs(5);
    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    /// A blueprint that tells its metrics for one service.
    struct Blueprint;

    #[tonic::async_trait]
    impl QosMetrics for Blueprint {
        async fn get_status(
            &self,
            _: Request<qos::GetStatusRequest>,
        ) -> Result<Response<qos::GetStatusResponse>, Status> {
            Err(Status::unimplemented("not asked"))
        }

        async fn get_resource_usage(
            &self,
            _: Request<qos::GetResourceUsageRequest>,
        ) -> Result<Response<qos::GetResourceUsageResponse>, Status> {
            Err(Status::unimplemented("not asked"))
        }

        async fn get_blueprint_metrics(
            &self,
            request: Request<GetBlueprintMetricsRequest>,
        ) -> Result<Response<qos::GetBlueprintMetricsResponse>, Status> {
            let asked = request.into_inner();
            if (asked.blueprint_id, asked.service_id) != (7, 42) {
                return Err(Status::not_found("another service"));
            }
            let all = [
                ("jobs_total", "12"),
                ("queue depth", " 3.5 "),
                ("9lives", "inf"),
                ("version", "v1.2 \"beta\"\n"),
                ("", "1"),
                ("broken", "NaN"),
            ];
            let custom_metrics =
                all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            Ok(Response::new(qos::GetBlueprintMetricsResponse { custom_metrics, timestamp: 1 }))
        }

        async fn get_historical_metrics(
            &self,
            _: Request<qos::GetHistoricalMetricsRequest>,
        ) -> Result<Response<qos::GetHistoricalMetricsResponse>, Status> {
            Err(Status::unimplemented("not asked"))
        }
    }

    #[tokio::test]
    async fn what_a_blueprint_tells_becomes_a_page_and_who_does_not_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(QosMetricsServer::new(Blueprint));
        let serve = server.serve_with_incoming(TcpListenerStream::new(listener));
        let test = async {
            let page = ask(address, SERVICE, WITHIN).await.unwrap();
            let expected = "_9lives +Inf\nbroken NaN\njobs_total 12\nqueue_depth 3.5\n\
                            version_info{value=\"v1.2 \\\"beta\\\"\"} 1\n";
            assert_eq!(page, expected);
            let other = ServiceKey { blueprint: 7, service: 43 };
            assert_eq!(ask(address, other, WITHIN).await, Err(ScrapeError::Status(StatusCode::NOT_FOUND)));
        };
        tokio::select! {
            ended = serve => unreachable!("the server ended: {ended:?}"),
            () = test => {}
        }
        let gone = ask("127.0.0.1:1".parse().unwrap(), SERVICE, WITHIN).await;
        assert!(matches!(gone, Err(ScrapeError::Unreachable(_))), "{gone:?}");
    }
}
