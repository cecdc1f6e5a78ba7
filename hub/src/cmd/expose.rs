//! `service expose` and `service hide`: one service, reachable for clients or not.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_runtime::cli::{CliError, Exit, Output, eprint_line, print_json, print_line};
use blueprint_common_types::{AgentId, ServiceKey};
use blueprint_hub_proxy_core::ServiceSettings;
use clap::Args;
use serde_json::{Value, json};

use super::client::{ask, rows, text};
use super::owner::{change, read, store};
use super::seconds;
use crate::cli::Global;
use crate::files;

/// Certificate of the hub's authority in the form that clients read.
const CA_PEM: &str = "ca.pem";

/// Letters in a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;

/// Makes a service reachable.
#[derive(Debug, Args)]
pub(crate) struct Expose {
    /// Service, as BLUEPRINT/SERVICE
    service: ServiceKey,
    /// Makes an access token that opens this service and no other
    #[arg(long)]
    token: bool,
    /// How long the token lives, up to 90d
    #[arg(long, default_value = "30d", value_parser = seconds, value_name = "TIME", requires = "token")]
    ttl: u64,
    /// A note for people
    #[arg(long, default_value = "service expose", requires = "token")]
    label: String,
}

/// Where clients find the proxy, as the hub says.
struct Front {
    scheme: &'static str,
    /// Host and port.
    authority: String,
    listen: SocketAddr,
    domain: String,
    tls: String,
}

impl Expose {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let service = self.service;
        let front = Front::ask(global)?;
        let (settings, _) = read(global, service)?;
        let healthy = healthy(global, service, &settings)?;
        if settings.hidden {
            store(global, service, |settings| {
                settings.hidden = false;
                String::new()
            })?;
        }
        let made = match self.token {
            false => None,
            true => {
                let body = json!({
                    "ttl_secs": self.ttl, "label": self.label, "services": service.to_string(),
                });
                Some(ask(global, "POST", "/v1/access", Some(&body))?)
            }
        };
        let token = made.as_ref().map(|made| text(made, "access_token"));
        let by_path = front.by_path(service);
        let by_host = front.by_host(service);
        let curl = front.curl(global, &by_path, token.as_deref())?;
        let warnings = front.warnings(global, token.is_some())?;
        if global.output == Output::Json {
            print_json(&json!({
                "service": service,
                "url": by_path,
                "host_url": by_host,
                "healthy_targets": healthy,
                "access_token": token,
                "token": made.as_ref().and_then(|made| made.get("token")),
                "curl": curl,
                "warnings": warnings,
            }));
            return Ok(());
        }
        let noun = if healthy == 1 { "target" } else { "targets" };
        print_line(&format!("{service} is reachable: {healthy} healthy {noun}"));
        print_line(&format!("  {by_path}"));
        if let Some(by_host) = by_host {
            print_line(&format!("  {by_host}  (where DNS leads it here)"));
        }
        if let Some(token) = token {
            print_line(&format!("access token, shown once: {token}"));
        }
        print_line(&format!("try it:\n  {curl}"));
        for warning in warnings {
            print_line(&format!("note: {warning}"));
        }
        Ok(())
    }
}

/// Keeps all clients from a service.
pub(crate) fn hide(global: &Global, service: ServiceKey) -> Result<(), CliError> {
    change(global, service, |settings| {
        let word = format!("{service} is hidden: clients are told that there is no such service");
        if std::mem::replace(&mut settings.hidden, true) { format!("nothing changed: {word}") } else { word }
    })?;
    let path = format!("/v1/services/{}/{}", service.blueprint, service.service);
    if ask(global, "GET", &path, None).is_err_and(|error| error.exit == Exit::NotFound) {
        eprint_line(&format!("note: no node offers {service}; it will be hidden once one does"));
    }
    Ok(())
}

/// How many targets may get requests.
fn healthy(global: &Global, service: ServiceKey, settings: &ServiceSettings) -> Result<usize, CliError> {
    let path = format!("/v1/services/{}/{}", service.blueprint, service.service);
    let shown = ask(global, "GET", &path, None).map_err(|error| {
        error.hint("offer it on a machine: blueprint-agent service add BLUEPRINT/SERVICE --local HOST:PORT")
    })?;
    let targets = rows(&shown, "targets");
    let is_drained = |row: &Value| {
        let node: Option<AgentId> = text(row, "node").parse().ok();
        node.is_some_and(|node| settings.upstream.weight(&node) == 0)
    };
    let up = || targets.iter().filter(|row| text(row, "health") == "healthy");
    let count = up().filter(|row| !is_drained(row)).count();
    if count > 0 {
        return Ok(count);
    }
    let (words, hint) = if up().count() > 0 {
        let hint = format!("`blueprint-hub service undrain {service} NODE` gives a node its share again");
        ("all that are healthy are drained".to_owned(), hint)
    } else {
        let reason = targets.iter().map(|row| text(row, "reason")).find(|reason| reason != "-");
        let hint = format!("see `blueprint-hub service show {service}`, then run the command again");
        (reason.unwrap_or_else(|| "no reason was given".to_owned()), hint)
    };
    Err(CliError::unavailable(format!("{service} has no target that could answer: {words}")).hint(hint))
}

impl Front {
    fn ask(global: &Global) -> Result<Self, CliError> {
        let status = ask(global, "GET", "/v1/status", None)?;
        let field = |name: &str| status.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let listen: SocketAddr = field("proxy_listen")
            .parse()
            .map_err(|_| CliError::failure("the hub does not say where its proxy listens"))?;
        let tls = field("proxy_tls");
        let join = field("join_address");
        let host = join.rsplit_once(':').map_or(join.as_str(), |(host, _)| host);
        let scheme = if tls == "off" { "http" } else { "https" };
        // A certificate is for a name; without TLS loopback is what is reached.
        let authority = if tls == "off" && listen.ip().is_loopback() {
            listen.to_string()
        } else {
            format!("{host}:{}", listen.port())
        };
        Ok(Self { scheme, authority, listen, domain: field("proxy_domain"), tls })
    }

    fn by_path(&self, service: ServiceKey) -> String {
        format!("{}://{}/s{}.b{}/", self.scheme, self.authority, service.service, service.blueprint)
    }

    fn by_host(&self, service: ServiceKey) -> Option<String> {
        let ServiceKey { blueprint, service } = service;
        let Self { scheme, listen, domain, .. } = self;
        (!domain.is_empty())
            .then(|| format!("{scheme}://s{service}.b{blueprint}.{domain}:{}/", listen.port()))
    }

    /// A command line that works on this machine.
    fn curl(&self, global: &Global, url: &str, token: Option<&str>) -> Result<String, CliError> {
        let mut curl = "curl --fail-with-body".to_owned();
        if self.tls == "hub" {
            curl.push_str(&format!(" --cacert '{}'", authority_file(global)?));
        }
        if self.tls != "off" && self.listen.ip().is_loopback() {
            curl.push_str(&format!(" --connect-to '::{}'", self.listen));
        }
        let token = token.unwrap_or("$TOKEN");
        curl.push_str(&format!(" -H \"Authorization: Bearer {token}\" '{url}'"));
        Ok(curl)
    }

    fn warnings(&self, global: &Global, has_token: bool) -> Result<Vec<String>, CliError> {
        let mut warnings = Vec::new();
        if !has_token {
            warnings.push(
                "TOKEN is an access token that opens the service; --token makes one, and so does \
                 `blueprint-hub access create`"
                    .to_owned(),
            );
        }
        if self.listen.ip().is_loopback() {
            let file = global.state()?.join(files::CONFIG);
            warnings.push(format!(
                "the proxy listens on {} only, so nobody but this machine reaches it; for others set \
                 proxy.listen = \"0.0.0.0:{}\" and proxy.tls = \"hub\" (or \"files\") in {}, and start the \
                 hub again",
                self.listen,
                self.listen.port(),
                file.display(),
            ));
        }
        Ok(warnings)
    }
}

/// Path of the authority's certificate as PEM, which is made where it is missing.
fn authority_file(global: &Global) -> Result<String, CliError> {
    let state = global.state()?;
    let (from, to) = (state.join(files::CA_CERTIFICATE), state.join(CA_PEM));
    let failed = |what: &str, error: &dyn std::fmt::Display| CliError::failure(format!("{what}: {error}"));
    let der =
        std::fs::read(&from).map_err(|error| failed(&format!("cannot read {}", from.display()), &error))?;
    let text = STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while let Some((line, after)) =
        rest.split_at_checked(PEM_LINE.min(rest.len())).filter(|(line, _)| !line.is_empty())
    {
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    std::fs::write(&to, pem).map_err(|error| failed(&format!("cannot write {}", to.display()), &error))?;
    Ok(to.display().to_string())
}
