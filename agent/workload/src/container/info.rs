//! What kind of engine this is and what it can do.

use std::collections::BTreeMap;
use std::path::PathBuf;

use blueprint_common_engine::ApiVersion;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::EngineError;

/// Whose engine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Docker, or what says nothing else.
    Docker,
    /// Podman's compatible service.
    Podman,
}

/// What an engine is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Whose it is.
    pub product: Product,
    /// Its version, such as `20.10.24`.
    pub version: String,
    /// The version of the interface that is spoken with it: the oldest that both sides know.
    pub api: ApiVersion,
    /// 1 or 2; 0 where it does not say.
    pub cgroup_version: u8,
    /// Names of its runtimes, ordered, such as `nvidia` and `runc`.
    pub runtimes: Vec<String>,
    /// Whether it says that it can give GPUs: a runtime of NVIDIA's, or GPUs found as CDI devices. One with NVIDIA's
    /// hook alone can without saying so, hence the engine decides when it is asked.
    pub has_gpu_runtime: bool,
    /// Whether it runs without the rights of root.
    pub is_rootless: bool,
    /// Whether its storage driver always takes a size for a container's own files. These are read-only here, and
    /// **no engine bounds a folder of the node that is mounted**: the size of the data folder is bounded by whoever
    /// makes it, or not at all.
    pub bounds_storage: bool,
    /// Limits it would leave out, of `memory`, `processors` and `processes`; no container starts while there is one.
    pub unbounded: Vec<&'static str>,
    /// The log driver to ask for.
    pub(super) log_driver: &'static str,
}

impl EngineInfo {
    pub(super) fn new(api: ApiVersion, version: &Version, system: &System) -> Self {
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let runtimes: Vec<String> = system.runtimes.iter().flatten().map(|(name, _)| name.clone()).collect();
        let devices = system.discovered_devices.iter().flatten();
        let has_cdi_gpu = devices.into_iter().any(|device| device.id.starts_with("nvidia.com/gpu"));
        let unbounded = [
            (system.memory_limit, "memory"),
            (system.cpu_cfs_quota, "processors"),
            (system.pids_limit, "processes"),
        ];
        let drivers = system.plugins.log.clone().unwrap_or_default();
        let drivers =
            ["local", "k8s-file"].into_iter().find(|known| drivers.iter().any(|name| name == known));
        Self {
            product: version.product(),
            version: version.version.clone(),
            api,
            cgroup_version: system.cgroup_version.parse().unwrap_or_default(),
            has_gpu_runtime: has_cdi_gpu || runtimes.iter().any(|name| name.starts_with("nvidia")),
            runtimes,
            is_rootless: system.rootless
                || list(&system.security_options).iter().any(|option| option == "name=rootless"),
            bounds_storage: matches!(system.driver.as_str(), "btrfs" | "zfs"),
            // Silence is no refusal: Podman leaves out what it takes for granted.
            unbounded: unbounded
                .iter()
                .filter(|(can, _)| *can == Some(false))
                .map(|(_, name)| *name)
                .collect(),
            log_driver: drivers.unwrap_or("json-file"),
        }
    }
}

/// `GET /version`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Version {
    version: String,
    api_version: String,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: String,
    components: Option<Vec<Component>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Component {
    name: String,
}

impl Version {
    /// The oldest version that both sides speak: it means the same to every engine that speaks it.
    pub(super) fn negotiate(&self, socket: PathBuf) -> Result<ApiVersion, EngineError> {
        if let Some(spoken) = ApiVersion::common(&self.min_api_version, &self.api_version) {
            return Ok(spoken);
        }
        let cut = |text: &str| text.chars().filter(|c| !c.is_control()).take(20).collect::<String>();
        let found = match self.api_version.as_str() {
            "" => "no version of the Docker Engine API".to_owned(),
            newest => format!("versions {} to {}", cut(&self.min_api_version), cut(newest)),
        };
        Err(EngineError::Version { socket, found })
    }

    fn product(&self) -> Product {
        let is_podman = |component: &Component| component.name.starts_with("Podman");
        let is_podman = self.components.iter().flatten().any(is_podman);
        if is_podman { Product::Podman } else { Product::Docker }
    }
}

/// `GET /info`, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct System {
    cgroup_version: String,
    runtimes: Option<BTreeMap<String, IgnoredAny>>,
    discovered_devices: Option<Vec<Device>>,
    rootless: bool,
    security_options: Option<Vec<String>>,
    driver: String,
    memory_limit: Option<bool>,
    #[serde(rename = "CpuCfsQuota")]
    cpu_cfs_quota: Option<bool>,
    pids_limit: Option<bool>,
    plugins: Plugins,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Plugins {
    log: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Device {
    #[serde(rename = "ID")]
    id: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn negotiate(min: &str, newest: &str) -> Result<String, String> {
        let version: Version =
            serde_json::from_value(json!({ "ApiVersion": newest, "MinAPIVersion": min })).unwrap();
        version
            .negotiate("/e.sock".into())
            .map(|version| version.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_oldest_common_version_is_spoken() {
        assert_eq!(negotiate("1.12", "1.41").unwrap(), "1.41");
        assert_eq!(negotiate("1.24", "1.47").unwrap(), "1.41");
        assert_eq!(negotiate("1.44", "1.52").unwrap(), "1.44");
        assert_eq!(negotiate("", "1.43").unwrap(), "1.41");
        let old = negotiate("1.12", "1.40").unwrap_err();
        assert!(
            old.contains("on /e.sock speaks versions 1.12 to 1.40, and 1.41 or a later 1.x is needed"),
            "{old}"
        );
        assert!(negotiate("2.0", "2.3").is_err());
        assert!(negotiate("", "").unwrap_err().contains("no version of the Docker Engine API"));
    }

    #[test]
    fn an_engine_says_what_it_can() {
        let version: Version = serde_json::from_value(json!({ "Version": "20.10.24" })).unwrap();
        let system: System = serde_json::from_value(json!({
            "CgroupVersion": "1", "Runtimes": { "runc": { "path": "runc" }, "nvidia": {} }, "Driver": "overlay2",
            "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"],
            "Plugins": { "Log": ["json-file", "local"] }, "MemoryLimit": false, "CpuCfsQuota": true,
            "PidsLimit": null, "Warnings": null,
        }))
        .unwrap();
        let info = EngineInfo::new(ApiVersion::OLDEST, &version, &system);
        assert_eq!((info.product, info.cgroup_version, info.log_driver), (Product::Docker, 1, "local"));
        assert_eq!(info.runtimes, ["nvidia", "runc"]);
        assert!(info.has_gpu_runtime && info.is_rootless && !info.bounds_storage);
        assert_eq!(info.unbounded, ["memory"]);
    }

    #[test]
    fn podman_is_known_by_its_components() {
        let version: Version =
            serde_json::from_value(json!({ "Components": [{ "Name": "Podman Engine" }] })).unwrap();
        let system: System =
            serde_json::from_value(json!({ "Rootless": true, "Plugins": { "Log": ["k8s-file", "none"] } }))
                .unwrap();
        let info = EngineInfo::new(ApiVersion::OLDEST, &version, &system);
        assert_eq!((info.product, info.log_driver, info.cgroup_version), (Product::Podman, "k8s-file", 0));
        assert!(info.is_rootless && info.unbounded.is_empty() && !info.has_gpu_runtime);
    }
}
