//! Native workloads: a program of this machine, or one that was fetched.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use blueprint_agent_workload_core::{Places, PrepareFailed, arguments, environment, label};
use blueprint_common_types::workload::{RpcKind, Source, WorkloadSpec};

use crate::cgroup::Cgroup;
use crate::folders::Folders;
use crate::gpu::GpuLease;
use crate::instance::Start;
use crate::inventory::inventory;
use crate::launch::{Confinement, Launch};

/// Bytes of a `/tmp` of its own.
const TMP_BYTES: u64 = 256 << 20;

/// Names of variables that a process needs of its machine.
const INHERITED: [&str; 4] = ["PATH", "LANG", "TZ", "SSL_CERT_FILE"];

/// Checks a program that is on this machine already.
pub(crate) fn testing(path: &str, is_allowed: bool) -> Result<PathBuf, PrepareFailed> {
    let failed = PrepareFailed::here;
    if !is_allowed {
        return Err(failed(
            "sources of the kind testing are off on this node; set workload.testing = true for development"
                .to_owned(),
        ));
    }
    let metadata = fs::metadata(path).map_err(|error| failed(format!("{path}: {error}")))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(failed(format!("{path} is not an executable file")));
    }
    Ok(PathBuf::from(path))
}

/// Refuses what this machine does not have, before anything is started.
pub(crate) fn check_machine(spec: &WorkloadSpec) -> Result<(), PrepareFailed> {
    match inventory().lacks(&spec.limits) {
        None => Ok(()),
        Some(lack) => Err(PrepareFailed::here(lack.to_string())),
    }
}

/// Refuses what asks for limits that would not hold; `unheld` says why they would not. An engine holds those of
/// containers, and refuses what it cannot.
pub(crate) fn check_limits(spec: &WorkloadSpec, unheld: Option<&str>) -> Result<(), PrepareFailed> {
    let is_container = matches!(spec.source, Source::Container { .. });
    match (unheld.filter(|_| !is_container), spec.limits.asked()) {
        (Some(why), Some(limit)) => Err(PrepareFailed::here(format!(
            "it asks for a limit ({limit}) that this node cannot hold: {why}; run it on another node, or set \
             workload.allow_unlimited = true on this one"
        ))),
        (None, _) | (Some(_), None) => Ok(()),
    }
}

/// Why nobody holds the limits of a workload although the node has control groups: those of an agent without root belong to
/// the workload's own user, so what is not confined goes out of its group.
pub(crate) fn escapes(spec: &WorkloadSpec, agent_is_root: bool) -> Option<&'static str> {
    (!agent_is_root && !is_confined(spec)).then_some(
        "the agent is an ordinary user, and what runs without sandbox.landlock and sandbox.no_new_privileges can leave its \
         control group",
    )
}

/// Whether it reaches its own files alone.
const fn is_confined(spec: &WorkloadSpec) -> bool {
    spec.sandbox.landlock && spec.sandbox.no_new_privileges
}

/// What a native workload becomes.
pub(crate) fn launch(start: Start<'_>, program: PathBuf, group: Option<&Cgroup>) -> Launch {
    let Start { seat, spec, bundle: _, folders, secret_env, user, rpc, gpus, disk: _ } = start;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let places = Places {
        data_dir: text(&folders.data),
        keystore: text(&folders.keystore),
        bridge_socket: (!spec.test_mode).then(|| text(&folders.socket)),
        http_rpc_url: rpc.url(RpcKind::Http),
        ws_rpc_url: rpc.url(RpcKind::Ws),
    };
    let mut env = environment(seat.service, spec, &places);
    for name in INHERITED {
        if let Ok(value) = std::env::var(name) {
            env.entry(name.to_owned()).or_insert(value);
        }
    }
    env.entry("HOME".to_owned()).or_insert_with(|| text(&folders.data));
    env.extend(secret_env);
    // Above what the document says: they are its own, and the others are not.
    env.extend(gpus.variables());
    // A folder in memory over /tmp would hide what lies below it.
    let is_below_tmp =
        [&folders.data, &folders.runtime, &program].iter().any(|path| path.starts_with("/tmp"));
    let may_mount = nix::unistd::geteuid().is_root() && !is_below_tmp;
    tracing::debug!(workload = label(seat), user = ?user, "native workload put together");
    let confinement = is_confined(spec).then(|| confinement(&program, folders, gpus));
    Launch {
        keeper: 0,
        program,
        args: arguments(spec),
        env,
        folder: folders.data.clone(),
        user,
        cgroups: group.map(Cgroup::entries).unwrap_or_default(),
        no_new_privileges: spec.sandbox.no_new_privileges,
        private_tmp: (spec.sandbox.private_tmp && may_mount).then_some(TMP_BYTES),
        confinement,
        beside: None,
    }
}

/// What programs need to read: those of the system, its settings, and how it finds names.
const READABLE: [&str; 14] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc",
    "/opt",
    "/nix",
    "/proc",
    "/sys",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/nscd",
];

/// Folders that every program may write to.
pub(crate) const SHARED: [&str; 2] = ["/tmp", "/dev/shm"];

/// Devices that every program may use.
const DEVICES: [&str; 8] = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts"];

/// What a workload may read and write: the rest of the machine, and other workloads with it, is none of its business.
fn confinement(program: &Path, folders: &Folders, gpus: &GpuLease) -> Confinement {
    let own = program.parent().unwrap_or(program).to_owned();
    let read = READABLE.iter().map(PathBuf::from).chain([own, folders.keystore.clone()]);
    let is_root = nix::unistd::geteuid().is_root();
    let is_ours = |path: &Path| folders.data.starts_with(path) || folders.runtime.starts_with(path);
    // Without users of their own, workloads would find each other's folders there.
    let shared = SHARED.iter().map(PathBuf::from).filter(|path| is_root || !is_ours(path));
    let write = [folders.data.clone(), folders.bridge.clone()].into_iter().chain(shared);
    let devices = DEVICES.iter().map(|name| Path::new("/dev").join(name)).chain(gpus.devices());
    Confinement { read: read.collect(), write: write.chain(devices).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_were_asked_for_are_refused_where_nobody_holds_them() {
        let document = |source: &str, limits: &str| -> WorkloadSpec {
            let text = format!("{{\"source\": {source}, \"limits\": {limits}}}");
            serde_json::from_str(&text).unwrap()
        };
        let native = "{\"type\": \"testing\", \"path\": \"/bin/true\"}";
        let digest = "00".repeat(32);
        let image = format!("{{\"type\": \"container\", \"image\": \"a/b\", \"digest\": \"{digest}\"}}");
        let refused = check_limits(&document(native, "{\"pids\": 9}"), Some("it is a test")).unwrap_err();
        assert!(
            refused.reason.contains("(pids)") && refused.reason.contains("it is a test"),
            "{}",
            refused.reason
        );
        assert!(!refused.may_pass && refused.is_of_node);
        let open = |name: &str, agent_is_root| {
            let text = format!("{{\"source\": {native}, \"sandbox\": {{\"{name}\": false}}}}");
            escapes(&serde_json::from_str(&text).unwrap(), agent_is_root).is_some()
        };
        for (name, escapes) in [("landlock", true), ("no_new_privileges", true), ("private_tmp", false)] {
            assert_eq!((open(name, false), open(name, true)), (escapes, false), "{name}");
        }
        check_limits(&document(native, "{}"), Some("it is a test")).unwrap();
        check_limits(&document(native, "{\"pids\": 9}"), None).unwrap();
        check_limits(&document(&image, "{\"pids\": 9}"), Some("it is a test")).unwrap();
    }
}
