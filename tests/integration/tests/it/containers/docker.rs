//! A Docker engine of the test's own: data, network, mounts and processes are apart from those of the machine.
//!
//! It is process 1 of a process namespace, so its end is the end of all that it started, and what it mounted and
//! routed goes with its namespaces. Only its cgroups have to be removed.

use std::fs::File;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::Builder;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use blueprint_agent_workload::container::{ContainerSpec, Engine};
use blueprint_common_types::workload::{ResourceLimits, Sha256Digest};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{
    Host, Launch, Need, Process, binary, eventually, eventually_ok, processes_naming, require, scratch,
};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::registry::{Registry, archive};
use crate::fixture::{CALL, SOON};

/// Longest wait for anything that an engine does.
const PATIENCE: Duration = Duration::from_secs(60);

/// The value that marks what the tests' agent made.
pub(crate) const NODE: &str = "node-of-the-test";

/// An engine with a registry beside it, and what asks them.
pub(crate) struct Docker {
    process: Process,
    pub(crate) registry: Registry,
    pub(crate) engine: Engine,
    runtime: Runtime,
    cgroup: String,
    /// How it is started, but for the disk.
    launch: Vec<String>,
    folder: TempDir,
}

impl Docker {
    /// Starts one; `None`, after a loud skip, where this machine cannot.
    pub(crate) fn start() -> Result<Option<Self>> {
        Self::start_on(None, None, "")
    }

    /// Starts one in the network of a host, whose agent then reaches its containers.
    pub(crate) fn start_at(host: &Host) -> Result<Option<Self>> {
        Self::start_on(None, Some(host), "")
    }

    /// The same with more options.
    pub(crate) fn start_with(host: &Host, options: &str) -> Result<Option<Self>> {
        Self::start_on(None, Some(host), options)
    }

    /// Starts one in the network of another host, which gets the same images by the same names.
    pub(crate) fn start_beside(&self, host: &Host) -> Result<Option<Self>> {
        let Some(mut docker) = Self::start_on(None, Some(host), "")? else { return Ok(None) };
        let pid = docker.process.pid();
        let listen =
            |port| enter(pid, || TcpListener::bind((Ipv4Addr::LOCALHOST, port)))?.context("cannot listen");
        docker.registry = self.registry.start_beside(listen)?;
        Ok(Some(docker))
    }

    /// Starts one whose disk has so many MiB.
    pub(crate) fn start_small(mib: u32) -> Result<Option<Self>> {
        Self::start_on(Some(mib), None, "")
    }

    fn start_on(mib: Option<u32>, host: Option<&Host>, options: &str) -> Result<Option<Self>> {
        let needs = ["dockerd", "containerd", "runc", "iptables", "setpriv", "unshare", "cc", "tar"];
        let needs: Vec<Need> = [Need::Root].into_iter().chain(needs.map(Need::Program)).collect();
        if !require(&needs) {
            return Ok(None);
        }
        let folder = scratch("docker")?;
        let cgroup = folder.path().file_name().context("no name")?.to_string_lossy().into_owned();
        let path = folder.path().display();
        let disk = match mib {
            Some(mib) => format!("mkdir {path}/data && mount -t tmpfs -o size={mib}m none {path}/data &&"),
            None => String::new(),
        };
        // What engines keep below /run by fixed names is theirs alone, too.
        let script = format!(
            "ip link set lo up && mount -t tmpfs none /run && {disk} exec dockerd --data-root {path}/data \
             --exec-root {path}/exec --pidfile {path}/pid --cgroup-parent /{cgroup} -H unix://{path}/docker.sock \
             {options}"
        );
        // Not by `ip netns exec`, which hides the control groups behind a fresh `/sys`.
        let place = match host {
            Some(host) => vec![
                "nsenter".to_owned(),
                format!("--net=/run/netns/{}", host.namespace()),
                "unshare".to_owned(),
            ],
            None => vec!["unshare".to_owned(), "--net".to_owned()],
        };
        let apart = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script];
        let launch: Vec<String> = place.into_iter().chain(apart.map(str::to_owned)).collect();
        let process = run(&launch)?;
        let socket = folder.path().join("docker.sock");
        eventually_ok(SOON, "the engine", || Request::get("/_ping").send_unix(&socket, CALL).map(drop))?;
        let pid = process.pid();
        let registry = Registry::start(|bind| enter(pid, bind)?.context("cannot listen"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let engine = Engine::new(socket);
        Ok(Some(Self { process, registry, engine, runtime, cgroup, launch, folder }))
    }

    /// Kills it with all that it runs, as the end of a machine does.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        let (path, socket) = (self.folder.path(), self.socket());
        let text = format!("{}/exec", path.display());
        eventually(SOON, "the end of the engine", || processes_naming(&text).is_empty().then_some(()))?;
        // What a machine does not have after its start.
        for file in [&path.join("pid"), &socket] {
            if file.exists() {
                std::fs::remove_file(file)?;
            }
        }
        std::fs::remove_dir_all(path.join("exec"))?;
        Ok(())
    }

    /// Starts it again, with what it has on its disk; one of a host, whose network stays.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        self.process = run(&self.launch)?;
        let socket = self.socket();
        eventually_ok(SOON, "the engine", || Request::get("/_ping").send_unix(&socket, CALL).map(drop))
    }

    /// Runs what asks the engine, for a minute at most.
    pub(crate) fn ask<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let work = async { tokio::time::timeout(PATIENCE, work).await };
        self.runtime.block_on(work).context("the engine took more than a minute")
    }

    /// Asks it past the client under test.
    pub(crate) fn raw(&self, method: &str, path: &str) -> Result<Value> {
        let response = Request::new(method, path).send_unix(&self.folder.path().join("docker.sock"), CALL)?;
        ensure!(response.status < 300, "{method} {path}: {} {}", response.status, response.text());
        if response.body.is_empty() { Ok(Value::Null) } else { response.json() }
    }

    /// A folder of the node, made for this engine.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// The engine's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// Pushes an image of the example, which runs as a blueprint.
    pub(crate) fn push_blueprint(&self) -> Result<(String, Sha256Digest)> {
        let files = self.folder("blueprint")?;
        copy_whole(&binary("blueprint-example-service")?, &files, "blueprint")?;
        for mount in ["mnt/data", "mnt/keystore", "mnt/bridge", "tmp"] {
            std::fs::create_dir_all(files.join(mount))?;
        }
        let layer = archive(&files, &self.folder.path().join("blueprint.tar"))?;
        let image = self.registry.name("test/blueprint")?;
        // Its entry point says `run`, as those of blueprints do.
        let digest =
            self.registry.push("test/blueprint", &layer, &json!({ "Entrypoint": ["/blueprint", "run"] }))?;
        Ok((image, digest))
    }

    /// Pushes an image of the example that says itself whether it is well: where `/var/lib/db/well` is there.
    pub(crate) fn push_checked(&self) -> Result<(String, Sha256Digest)> {
        let files = self.folder("checked")?;
        copy_whole(&binary("blueprint-example-service")?, &files, "blueprint")?;
        copy_whole(Path::new("/bin/cat"), &files, "bin/cat")?;
        for mount in ["mnt/data", "mnt/keystore", "mnt/bridge", "tmp", "var/lib/db"] {
            std::fs::create_dir_all(files.join(mount))?;
        }
        let layer = archive(&files, &self.folder.path().join("checked.tar"))?;
        let config = json!({
            "Entrypoint": ["/blueprint", "run"],
            "Healthcheck": {
                "Test": ["CMD", "/bin/cat", "/var/lib/db/well"], "Interval": 300_000_000, "Timeout": 10_000_000_000u64,
                "Retries": 1,
            },
        });
        Ok((self.registry.name("private/checked")?, self.registry.push("private/checked", &layer, &config)?))
    }

    /// Pushes an image of a shell with these programs of the machine, which does what `script` says.
    pub(crate) fn push_shell(&self, script: &str, programs: &[&str]) -> Result<(String, Sha256Digest)> {
        let files = self.folder("shell")?;
        for program in ["sh"].iter().chain(programs) {
            let path = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(program));
            let path = path.into_iter().find(|path| path.exists());
            copy_whole(&path.with_context(|| format!("no {program}"))?, &files, &format!("bin/{program}"))?;
        }
        for folder in ["mnt/data", "mnt/keystore", "mnt/bridge", "tmp", "etc"] {
            std::fs::create_dir_all(files.join(folder))?;
        }
        std::fs::write(files.join("etc/plain"), "no program")?;
        // The engine gives what it mounts there the rights of the folder.
        std::fs::set_permissions(files.join("tmp"), std::fs::Permissions::from_mode(0o1777))?;
        let layer = archive(&files, &self.folder.path().join("shell.tar"))?;
        let config = json!({ "Entrypoint": ["/bin/sh", "-c", script], "Env": ["PATH=/bin"] });
        Ok((self.registry.name("test/shell")?, self.registry.push("test/shell", &layer, &config)?))
    }

    /// Opens a connection as a process of the node does, and reads what comes.
    pub(crate) fn read_from(&self, address: SocketAddr) -> Result<String> {
        let stream = enter(self.process.pid(), || TcpStream::connect_timeout(&address, CALL))?;
        let mut stream = stream.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(CALL))?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text)?;
        Ok(text)
    }

    /// Listens as a program of the node.
    pub(crate) fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        enter(self.process.pid(), || TcpListener::bind(address))?.context("cannot listen")
    }

    /// Pushes the image of the probe under this name, with so many MiB of ballast.
    pub(crate) fn push(&self, image: &str, ballast_mib: u64) -> Result<Sha256Digest> {
        let files = self.folder(&format!("image-{}", image.replace('/', "-")))?;
        let source = self.folder.path().join("probe.c");
        std::fs::write(&source, include_str!("probe.c"))?;
        let compiler = Launch::new("cc").args(["-static", "-O1", "-o"]).arg(files.join("probe")).arg(&source);
        let compiled = compiler.run(PATIENCE)?;
        ensure!(compiled.code == Some(0), "cc: {}", compiled.stderr);
        if ballast_mib > 0 {
            File::create(files.join("ballast"))?.set_len(ballast_mib << 20)?;
        }
        let layer = archive(&files, &self.folder.path().join("layer.tar"))?;
        let config = json!({
            "Entrypoint": ["/probe"], "Cmd": ["hold"], "Env": ["FROM_IMAGE=1", "GIVEN=by the image"],
            "Volumes": { "/cache": {} },
            "Healthcheck": {
                "Test": ["CMD", "/probe", "well"], "Interval": 200_000_000, "Timeout": 10_000_000_000u64, "Retries": 1,
            },
        });
        self.registry.push(image, &layer, &config)
    }

    /// A container of the probe's image, which is pushed and pulled; it is told to do `args`.
    pub(crate) fn probe(&self, args: &[&str]) -> Result<ContainerSpec> {
        let (image, digest) = (self.registry.name("test/probe")?, self.push("test/probe", 0)?);
        self.ask(self.engine.pull(&image, &digest, None, drop))??;
        Ok(ContainerSpec {
            name: "svc-7-42".to_owned(),
            node: NODE.to_owned(),
            image,
            digest,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: [].into(),
            limits: ResourceLimits {
                memory_bytes: 64 << 20,
                cpu_millis: 500,
                pids: 32,
                ..ResourceLimits::default()
            },
            gpu_ids: Vec::new(),
            devices: Vec::new(),
            disk: None,
            mounts: Vec::new(),
            ports: Vec::new(),
            user: None,
            extra_hosts: Vec::new(),
        })
    }
}

impl Drop for Docker {
    #[expect(clippy::print_stderr, reason = "what is left behind is told to the person who runs the tests")]
    fn drop(&mut self) {
        let _ = self.process.kill();
        let text = self.folder.path().display().to_string();
        let gone = eventually(SOON, "the end of the engine's processes", || {
            processes_naming(&text).is_empty().then_some(())
        });
        let removed = gone.and_then(|()| {
            eventually_ok(SOON, "the removal of the engine's cgroups", || remove_cgroups(&self.cgroup))
        });
        if let Err(error) = removed {
            eprintln!("{error:#}");
        }
    }
}

/// Copies a program below `files`, with the libraries that it needs.
fn copy_whole(program: &Path, files: &Path, inside: &str) -> Result<()> {
    let needs = Launch::new("ldd").arg(program).run(PATIENCE)?;
    ensure!(needs.code == Some(0), "ldd: {}", needs.stderr);
    let libraries = needs.stdout.split_whitespace().filter(|word| word.starts_with('/'));
    let all = libraries.map(|library| (library.to_owned(), library.trim_start_matches('/').to_owned()));
    for (from, to) in all.chain([(program.display().to_string(), inside.to_owned())]) {
        let to = files.join(to);
        std::fs::create_dir_all(to.parent().context("no folder")?)?;
        std::fs::copy(from, to)?;
    }
    Ok(())
}

fn run(launch: &[String]) -> Result<Process> {
    let (program, arguments) = launch.split_first().context("no program")?;
    Launch::new(program).args(arguments).start()
}

/// Removes a cgroup of this name with all below it, in each hierarchy that this machine has.
fn remove_cgroups(name: &str) -> Result<()> {
    fn remove(path: &Path) -> Result<()> {
        for entry in std::fs::read_dir(path)?.flatten() {
            if entry.path().is_dir() {
                remove(&entry.path())?;
            }
        }
        std::fs::remove_dir(path).with_context(|| format!("cannot remove {}", path.display()))
    }
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root)?.flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        let path = hierarchy.join(name);
        if path.is_dir() && !hierarchy.is_symlink() {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Calls `work` on a thread in the network of a process. Sockets made there stay there.
fn enter<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> Result<T> {
    let path = format!("/proc/{pid}/ns/net");
    let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    std::thread::scope(|scope| {
        let thread = Builder::new().name("docker".to_owned()).spawn_scoped(scope, move || {
            setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {path}"))?;
            Ok(work())
        })?;
        thread.join().map_err(|_| anyhow!("the thread in the engine's network panicked"))?
    })
}
