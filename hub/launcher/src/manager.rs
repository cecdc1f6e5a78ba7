//! The Manager's bridge: greeted for the blueprint, and asked what the blueprint asks.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use blueprint_proto::blueprint_manager_bridge::blueprint_manager_bridge_client::BlueprintManagerBridgeClient;
use blueprint_proto::v1::bridge_request::Call;
use tonic::Status;
use tonic::transport::Channel;

use crate::socket;
use crate::voice::Voice;

/// Pause between two greetings where the first was not heard.
const GREET_AGAIN: Duration = Duration::from_secs(1);

/// The Manager, over one connection: it ties a connection to the service that was registered over it.
#[derive(Debug, Clone)]
pub(crate) struct Manager(BlueprintManagerBridgeClient<Channel>);

impl Manager {
    pub(crate) async fn connect(path: &Path) -> Result<Self, String> {
        Ok(Self(BlueprintManagerBridgeClient::new(socket::channel(path).await?)))
    }

    /// Says that the blueprint is there, until that is heard.
    pub(crate) async fn greet(mut self, voice: Voice) {
        while let Err(status) = self.0.ping(()).await {
            voice.say(&format!("the Blueprint Manager does not take the greeting: {}", status.message()));
            tokio::time::sleep(GREET_AGAIN).await;
        }
    }

    /// Asks what a blueprint asked; `here` is where its service is reached on this machine.
    pub(crate) async fn ask(mut self, call: Call, here: SocketAddr) -> Result<(), Status> {
        match call {
            Call::Register(mut call) => {
                call.upstream_url = rewritten(&call.upstream_url, here);
                self.0.register_blueprint_service_proxy(call).await
            }
            Call::Unregister(call) => self.0.unregister_blueprint_service_proxy(call).await,
            Call::AddOwner(call) => self.0.add_owner_to_service(call).await,
            Call::RemoveOwner(call) => self.0.remove_owner_from_service(call).await,
            Call::UpdateTls(call) => self.0.update_blueprint_service_tls_profile(call).await,
        }
        .map(drop)
    }
}

/// The same URL at another place: path and query stay.
fn rewritten(url: &str, here: SocketAddr) -> String {
    let uri = url.parse::<http::Uri>().ok();
    let rest = uri.as_ref().and_then(http::Uri::path_and_query).map_or("", http::uri::PathAndQuery::as_str);
    format!("http://{here}{}", if rest == "/" { "" } else { rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_where_the_launcher_listens_and_keeps_its_path() {
        let here = SocketAddr::from(([127, 0, 0, 1], 4000));
        for (url, wanted) in [
            ("http://localhost:8080", "http://127.0.0.1:4000"),
            ("http://0.0.0.0:8080/", "http://127.0.0.1:4000"),
            ("http://127.0.0.1:8080/base?a=b", "http://127.0.0.1:4000/base?a=b"),
        ] {
            assert_eq!(rewritten(url, here), wanted);
        }
    }
}
