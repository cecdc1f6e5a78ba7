//! Which orders go without a token, and whether Azure's names are compared.

use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::{Instance, InstanceSpec, Listing, ProviderError};
use futures_util::future::{BoxFuture, ready};

use super::*;

/// Azure with one machine, `bp-d-1`.
struct Azure(Result<&'static str, ()>);

impl Azure {
    fn nothing<T: Send + 'static>() -> BoxFuture<'static, Result<T, ProviderError>> {
        Box::pin(ready(Err(ProviderError::Busy { reason: "not of this test".to_owned() })))
    }
}

impl Provider for Azure {
    fn name(&self) -> &'static str {
        "azure"
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        Self::nothing()
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>> {
        Self::nothing()
    }

    fn create<'a>(&'a self, _: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        Self::nothing()
    }

    fn delete<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Self::nothing()
    }

    fn boot<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Self::nothing()
    }

    fn stop<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Self::nothing()
    }

    fn vouched_name<'a>(
        &'a self,
        key: &'a InstanceKey,
    ) -> BoxFuture<'a, Result<Option<String>, ProviderError>> {
        let Ok(own) = self.0 else { return Self::nothing() };
        Box::pin(ready(Ok((key.as_str() == "bp-d-1").then(|| own.to_owned()))))
    }
}

fn machine(account: &str, instance: &str) -> Machine {
    Machine {
        kind: ProofKind::Azure,
        account: account.to_owned(),
        region: String::new(),
        instance: instance.to_owned(),
        provider_ids: Vec::new(),
    }
}

#[tokio::test]
async fn a_machine_of_azure_is_the_one_of_its_name_that_azure_vouches_for() {
    let ordered = OrderedMachines::default();
    let genuine = machine("sub", "id-1");
    assert_eq!(ordered.provider_ids("bp-d-1", &genuine).await, Ok(vec![]), "there is no Azure");
    ordered.ask(&[Arc::new(Azure(Ok("sub/id-1")))]);
    assert_eq!(ordered.provider_ids("bp-d-1", &genuine).await, Ok(vec!["bp-d-1".to_owned()]));
    for (what, name, machine) in [
        ("another machine", "bp-d-1", machine("sub", "id-2")),
        ("another subscription", "bp-d-1", machine("other", "id-1")),
        ("a name of nobody", "bp-d-2", genuine.clone()),
        ("no name of an order", "web", genuine.clone()),
        ("no name at all", "bp-d-1/../x", genuine.clone()),
        ("parts that make up the same text", "bp-d-1", machine("sub/id-1", "")),
    ] {
        assert_eq!(ordered.provider_ids(name, &machine).await, Ok(vec![]), "{what}");
    }
    let starting = OrderedMachines { azure: true, ..OrderedMachines::default() };
    assert!(starting.provider_ids("bp-d-1", &genuine).await.is_err(), "nor while the hub is starting");
    assert_eq!(starting.provider_ids("web", &genuine).await, Ok(vec![]));
    let silent = OrderedMachines::default();
    silent.ask(&[Arc::new(Azure(Err(())))]);
    assert!(silent.provider_ids("bp-d-1", &genuine).await.is_err(), "nobody is refused for that");
    assert_eq!(silent.provider_ids("web", &genuine).await, Ok(vec![]), "nor is it asked for others");
}

#[cfg(all(feature = "provider-aws", feature = "provider-gcp", feature = "provider-azure"))]
#[test]
fn orders_go_without_a_token_where_all_that_is_needed_is_configured() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use blueprint_common_runtime::config::Sources;

    use crate::config::HubConfig;

    let folder = tempfile::tempdir().unwrap();
    let der = include_bytes!("../../../identity-core/tests/data/region.cer");
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der));
    for region in ["eu-central-1", "us-east-1"] {
        std::fs::write(folder.path().join(format!("{region}.pem")), &pem).unwrap();
    }
    let certificates = folder.path().display().to_string();
    let all = [
        ("providers.aws.enabled", "true"),
        ("providers.aws.regions", "eu-central-1"),
        ("providers.gcp.enabled", "true"),
        ("providers.gcp.regions", "us-central1"),
        ("providers.gcp.service_account", "nodes@p.iam.gserviceaccount.com"),
        ("providers.azure.enabled", "true"),
        ("providers.azure.regions", "eastus"),
        ("join.identity.aws_accounts", "123456789012"),
        ("join.identity.aws_certificates", certificates.as_str()),
        ("join.identity.gcp_projects", "p"),
        ("join.identity.azure_subscriptions", "s"),
        ("join.identity.azure_intermediates", "/azure.pem"),
    ];
    let load = |changes: &[(&str, &str)]| {
        let flags = all.iter().chain(changes).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        HubConfig::load(&Sources { file: None, env: Vec::new(), flags: flags.collect() })
    };
    let with = |changes: &[(&str, &str)]| {
        let listed: Vec<_> = [("join.identity.ordered", "any")].iter().chain(changes).copied().collect();
        let (config, _) = load(&listed).unwrap();
        OrderedMachines::new(&config.identity, &config.providers).unwrap()
    };
    let places = [
        ("aws", "eu-central-1"),
        ("aws", "eu-west-1"),
        ("gcp", "us-central1"),
        ("azure", "eastus"),
        ("vultr", "ewr"),
        ("kubernetes", ""),
    ];
    let go = |ordered: OrderedMachines| -> Vec<&str> {
        let go = |(provider, region): &&(&str, &str)| ordered.proof_of(provider, region).is_some();
        places.iter().filter(go).map(|(provider, _)| *provider).collect()
    };
    assert!(go(with(&[("join.identity.ordered", "none")])).is_empty());
    assert!(load(&[]).unwrap().0.identity.ordered.is_empty(), "by default none");
    assert_eq!(go(with(&[])), ["aws", "gcp", "azure"], "and nothing in a region without a certificate");
    for (key, value, left) in [
        ("join.identity.ordered", "none", &[][..]),
        ("join.identity.ordered", "gcp", &["gcp"]),
        ("join.identity.aws_regions", "us-east-1", &["gcp", "azure"]),
        ("join.identity.gcp_regions", "europe-west3", &["aws", "azure"]),
        ("join.identity.gcp_service_accounts", "other@p.iam.gserviceaccount.com", &["aws", "azure"]),
        ("join.identity.azure_subscriptions", "", &["aws", "gcp"]),
        ("providers.azure.enabled", "false", &["aws", "gcp"]),
    ] {
        assert_eq!(go(with(&[(key, value)])), left, "{key} = {value}");
    }
    for (listed, key, value) in [
        ("any", "join.identity.azure_intermediates", ""),
        ("azure", "join.identity.azure_intermediates", ""),
        ("aws", "join.identity.aws_max_age", "10m"),
    ] {
        let error = load(&[("join.identity.ordered", listed), (key, value)]).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
        load(&[("join.identity.ordered", "gcp"), (key, value)]).unwrap();
    }
    let error = HubConfig::load(&Sources {
        flags: vec![("join.identity.ordered".to_owned(), "aws,kubernetes".to_owned())],
        ..Sources::default()
    });
    assert!(error.unwrap_err().to_string().contains("join.identity.ordered"), "pods are never ordered");
}
