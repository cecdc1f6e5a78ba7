//! The clouds that the provisioner is tried over: a fake of each, and the provider for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_engine::Place;
use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_aws::{AwsCloud, AwsConfig};
use blueprint_hub_provider_azure::{Azure, AzureConfig};
use blueprint_hub_provider_digitalocean::{DigitalOcean, DigitalOceanConfig};
use blueprint_hub_provider_docker::{AgentProgram, Docker, DockerConfig, EngineHost, Patience};
use blueprint_hub_provider_gcp::{GcpCloud, GcpConfig};
use blueprint_hub_provider_hivelocity::{Hivelocity, HivelocityConfig};
use blueprint_hub_provider_kit::{Credentials, Fixed, HttpClient, HttpConfig};
use blueprint_hub_provider_linode::{Linode, LinodeConfig};
use blueprint_hub_provider_scaleway::{Scaleway, ScalewayConfig};
use blueprint_hub_provider_vultr::{Vultr, VultrConfig};
use blueprint_hub_provision_core::Provider;
use blueprint_hub_provision_core::resource::Arch;
use blueprint_tests_cloud::azure::{self, AzureDialect, SUBSCRIPTION};
use blueprint_tests_cloud::digitalocean::DigitalOceanDialect;
use blueprint_tests_cloud::docker::DockerDialect;
use blueprint_tests_cloud::ec2::{self, Ec2Dialect};
use blueprint_tests_cloud::gcp::{self, GcpDialect, PROJECT as GCP_PROJECT};
use blueprint_tests_cloud::hivelocity::HivelocityDialect;
use blueprint_tests_cloud::linode::LinodeDialect;
use blueprint_tests_cloud::scaleway::{PROJECT, ScalewayDialect};
use blueprint_tests_cloud::vultr::VultrDialect;
use blueprint_tests_cloud::{Dialect, FakeCloud};
use tempfile::TempDir;

const TOKEN: &str = "dop_v1_0123456789";

/// What differs from cloud to cloud.
pub(crate) struct Cloud {
    pub(crate) fake: FakeCloud,
    pub(crate) provider: Arc<dyn Provider>,
    /// Plan, region and GB of disk.
    pub(crate) sells: (&'static str, &'static str, u32),
    /// What stands beside machines and is billed: disks, addresses, interfaces.
    pub(crate) beside: Box<dyn Fn() -> Vec<String>>,
    _files: Option<TempDir>,
}

pub(crate) fn hub() -> HubId {
    HubId::from_bytes([1; 16])
}

async fn cloud_of(
    dialect: impl Dialect,
    sells: (&'static str, &'static str, u32),
    make: impl FnOnce(String, HttpClient) -> Arc<dyn Provider>,
) -> Cloud {
    let fake = FakeCloud::start(dialect, TOKEN).await;
    let provider = make(fake.url(), HttpClient::new(HttpConfig::default()).unwrap());
    Cloud { fake, provider, sells, beside: Box::new(Vec::new), _files: None }
}

/// Credentials of these fields; where nothing else is said, each is the token.
fn fixed(fields: &[(&str, &str)]) -> Arc<Fixed> {
    let field = |(name, value): &(&str, &str)| ((*name).to_owned(), Secret::new((*value).to_owned()));
    Arc::new(Fixed::new(Credentials::new("a test", fields.iter().map(field))))
}

pub(crate) async fn digitalocean() -> Cloud {
    cloud_of(DigitalOceanDialect::default(), ("s-1vcpu-1gb", "fra1", 25), |endpoint, http| {
        Arc::new(DigitalOcean::new(DigitalOceanConfig {
            hub: hub(),
            endpoint,
            regions: Vec::new(),
            image: "debian-13-x64".to_owned(),
            credentials: fixed(&[("token", TOKEN)]),
            http,
        }))
    })
    .await
}

pub(crate) async fn ec2() -> Cloud {
    cloud_of(Ec2Dialect::new(3), ("t3.micro", ec2::REGION, 25), |endpoint, http| {
        let regions = vec![ec2::REGION.parse().unwrap()];
        let config = AwsConfig { endpoint: Some(endpoint), ..AwsConfig::new(regions) };
        let keys = fixed(&[("access_key_id", TOKEN), ("secret_access_key", TOKEN)]);
        Arc::new(AwsCloud::new(config, http, keys))
    })
    .await
}

pub(crate) async fn vultr() -> Cloud {
    vultr_of("vc2-1c-1gb").await
}

pub(crate) async fn vultr_metal() -> Cloud {
    vultr_of("vbm-4c-32gb").await
}

async fn vultr_of(plan: &'static str) -> Cloud {
    cloud_of(VultrDialect::default(), (plan, "fra", 25), |endpoint, http| {
        Arc::new(Vultr::new(VultrConfig {
            hub: hub(),
            endpoint,
            regions: Vec::new(),
            image: "Debian 13 x64".to_owned(),
            bare_metal: true,
            credentials: fixed(&[("api_key", TOKEN)]),
            http,
        }))
    })
    .await
}

pub(crate) async fn linode() -> Cloud {
    cloud_of(LinodeDialect::default(), ("g6-nanode-1", "us-east", 0), |endpoint, http| {
        Arc::new(Linode::new(LinodeConfig {
            hub: hub(),
            endpoint,
            regions: Vec::new(),
            image: "linode/debian13".to_owned(),
            credentials: fixed(&[("token", TOKEN)]),
            http,
        }))
    })
    .await
}

pub(crate) async fn gcp() -> Cloud {
    cloud_of(GcpDialect::new(2), ("e2-small", gcp::REGION, 0), |endpoint, http| {
        let config =
            GcpConfig { endpoint: Some(endpoint), ..GcpConfig::new(vec![gcp::REGION.parse().unwrap()]) };
        let token = fixed(&[("project_id", GCP_PROJECT), ("access_token", TOKEN)]);
        Arc::new(GcpCloud::new(config, http, token))
    })
    .await
}

pub(crate) async fn azure() -> Cloud {
    let dialect = AzureDialect::default();
    let sells = ("Standard_D2s_v5", azure::REGION, 0);
    let cloud = cloud_of(dialect.clone(), sells, |endpoint, http| {
        let token = fixed(&[("subscription_id", SUBSCRIPTION), ("access_token", TOKEN)]);
        Arc::new(Azure::new(AzureConfig {
            login_endpoint: endpoint.clone(),
            metadata_endpoint: endpoint.clone(),
            prices_endpoint: endpoint.clone(),
            endpoint,
            ..AzureConfig::new(hub(), vec![azure::REGION.to_owned()], token, http)
        }))
    });
    Cloud { beside: Box::new(move || dialect.parts()), ..cloud.await }
}

pub(crate) async fn scaleway() -> Cloud {
    let dialect = ScalewayDialect::default();
    let cloud = cloud_of(dialect.clone(), ("DEV1-S", "fr-par-1", 20), |endpoint, http| {
        Arc::new(Scaleway::new(ScalewayConfig {
            hub: hub(),
            endpoint,
            zones: vec!["fr-par-1".to_owned(), "nl-ams-1".to_owned()],
            image: "debian_trixie".to_owned(),
            credentials: fixed(&[("secret_key", TOKEN), ("project_id", PROJECT)]),
            http,
        }))
    });
    let beside = move || {
        let volumes = dialect.volumes().into_iter().map(|volume| format!("volume {volume}"));
        volumes.chain((0..dialect.addresses()).map(|number| format!("address {number}"))).collect()
    };
    Cloud { beside: Box::new(beside), ..cloud.await }
}

pub(crate) async fn hivelocity() -> Cloud {
    cloud_of(HivelocityDialect::default(), ("bm-525", "NYC1", 960), |endpoint, http| {
        Arc::new(Hivelocity::new(HivelocityConfig {
            hub: hub(),
            endpoint,
            facilities: vec!["NYC1".to_owned()],
            system: "Ubuntu 24.04".to_owned(),
            credentials: fixed(&[("api_key", TOKEN)]),
            http,
        }))
    })
    .await
}

pub(crate) async fn engine() -> Cloud {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("agent");
    std::fs::write(&path, "an agent").unwrap();
    let agent = AgentProgram { path, is_static: true };
    let cloud = cloud_of(DockerDialect::new(TOKEN, &[]), ("docker-small", "local", 25), |url, _| {
        let address = url.trim_start_matches("http://").parse().unwrap();
        Arc::new(Docker::new(DockerConfig {
            name: "local-docker",
            hub: hub(),
            hosts: vec![EngineHost { region: "local".to_owned(), place: Place::loopback(address).unwrap() }],
            image: None,
            agents: BTreeMap::from([(Arch::X86_64, agent)]),
            patience: Patience::default(),
        }))
    });
    Cloud { _files: Some(files), ..cloud.await }
}
