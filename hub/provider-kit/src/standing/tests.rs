use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{InstanceState, Tags};
use futures_util::future::ready;

use super::*;

const HUB: HubId = HubId::from_bytes([1; 16]);

/// An account that is called `name`, with these machines in it.
struct Cloud {
    name: &'static str,
    machines: Vec<Instance>,
}

impl HasAccount for Cloud {
    fn account(&self) -> BoxFuture<'_, Result<String, ProviderError>> {
        ready(Ok(self.name.to_owned())).boxed()
    }
}

impl Provider for Cloud {
    fn name(&self) -> &'static str {
        "gcp"
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>> {
        ready(Ok(Listing { instances: self.machines.clone(), cloud_time: None })).boxed()
    }

    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        ready(Ok(machine(spec.tags.clone()))).boxed()
    }

    fn delete<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        ready(Ok(())).boxed()
    }

    fn boot<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        ready(Ok(())).boxed()
    }

    fn stop<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        ready(Ok(())).boxed()
    }
}

fn tags(hub: HubId) -> Option<Tags> {
    Some(Tags { hub, deployment: "aaaaaaaaaaaaaaaa".parse().unwrap(), attempt: 1 })
}

fn machine(tags: Option<Tags>) -> Instance {
    Instance {
        key: "bp-aaaaaaaaaaaaaaaa-1".parse().unwrap(),
        provider_id: "1".to_owned(),
        tags,
        state: InstanceState::Running,
        created_at: Timestamp::default(),
    }
}

fn spec() -> InstanceSpec {
    InstanceSpec {
        key: "bp-aaaaaaaaaaaaaaaa-1".parse().unwrap(),
        tags: tags(HUB),
        plan: "small".to_owned(),
        region: "near".to_owned(),
        spot: false,
        disk_gb: 0,
        arch: Arch::X86_64,
        ttl: None,
        user_data: Secret::new(String::new()),
    }
}

#[tokio::test]
async fn another_account_is_refused_while_machines_stand_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gcp.account");
    let cloud = |name, machines: &[Instance]| {
        Standing::new(Arc::new(Cloud { name, machines: machines.to_vec() }), HUB, &path)
    };
    let others = machine(tags(HubId::from_bytes([2; 16])));
    cloud("first", std::slice::from_ref(&others)).list().await.unwrap();
    assert!(!path.exists(), "another hub's machine holds nothing");
    cloud("first", &[]).create(&spec()).await.unwrap();

    let second = cloud("second", &[]);
    let refusals = [
        second.list().await.map(drop),
        second.create(&spec()).await.map(drop),
        second.delete("1").await,
        second.boot("1").await,
        second.stop("1").await,
    ];
    for refused in refusals {
        let error = refused.unwrap_err();
        assert!(matches!(error, ProviderError::Deny { .. }), "{error:?}");
        let told = error.line();
        assert!(told.contains("credentials of second") && told.contains("stand in first"), "{told}");
        assert!(told.contains("gcp.account"), "{told}");
    }
    cloud("first", &[machine(tags(HUB))]).list().await.unwrap();
    assert!(second.list().await.is_err());
    // The last machine is gone.
    cloud("first", &[others]).list().await.unwrap();
    second.list().await.unwrap();
    second.create(&spec()).await.unwrap();
    assert!(cloud("first", &[]).list().await.is_err());
}
