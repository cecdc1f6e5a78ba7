//! What a machine has to have, as options of commands.

use std::path::PathBuf;

use blueprint_common_runtime::cli::CliError;
use blueprint_hub_import_core::Remote;
use blueprint_hub_provision_core::scaling::TierTerms;
use clap::Args;
use serde_json::{Map, Value};

use crate::cli::Global;
use crate::cmd::remotes;

/// What a machine has to have.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Sizes by name: minimal, basic, recommended, performance or gpu; other options replace their part
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Processors at least, such as 2 or 0.5
    #[arg(long, visible_alias = "cpu", value_name = "COUNT", value_parser = crate::cmd::decimal)]
    min_cpu: Option<String>,
    /// GiB of memory at least, such as 4 or 0.5
    #[arg(long, visible_alias = "memory", value_name = "GIB", value_parser = crate::cmd::decimal)]
    min_memory: Option<String>,
    /// GB of disk at least
    #[arg(long, value_name = "GB", value_parser = crate::cmd::whole::<u32>)]
    min_disk: Option<u32>,
    /// GPUs of this kind, such as l4, a100 or h100; `any` where nothing is named
    #[arg(long, value_name = "KIND", num_args = 0..=1, default_missing_value = "any")]
    gpu: Option<String>,
    /// GPUs at least
    #[arg(long, value_name = "COUNT")]
    gpu_count: Option<u16>,
    /// GiB of memory of each GPU at least
    #[arg(long, value_name = "GIB")]
    min_vram: Option<u32>,
    /// A provider's region, an area (us-east), a country (de) or a continent (eu)
    #[arg(long, value_name = "PLACE")]
    region: Option<String>,
    /// Processors that the program runs on: `x86_64`, `arm64` or `any`
    #[arg(long, value_parser = ["x86_64", "arm64", "any"])]
    arch: Option<String>,
    /// Also machines that the provider may take back at any time
    #[arg(long)]
    spot: bool,
    /// No processors that are given their full speed only for a while
    #[arg(long)]
    no_burstable: bool,
    /// How shared processors count: `whole`, `baseline` (as what is promised of them) or `dedicated` (not at all)
    #[arg(long, value_name = "HOW", value_parser = ["whole", "baseline", "dedicated"])]
    processors: Option<String>,
    /// GB that each sends to the internet in a month
    #[arg(long, value_name = "GB")]
    egress: Option<u32>,
    /// US dollars that an hour may cost, all counted
    #[arg(long, visible_alias = "budget", value_name = "USD", value_parser = crate::cmd::decimal)]
    max_price: Option<String>,
    /// Of this provider alone
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// A remote that was imported, or a provider of this name
    #[arg(long, value_name = "NAME", conflicts_with_all = ["provider", "template"])]
    remote: Option<String>,
    /// Takes the remote from this file, in any form that `import` reads, and stores nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["provider", "template"])]
    remote_config: Option<PathBuf>,
    /// This plan of the provider alone
    #[arg(long, value_name = "NAME", requires = "provider")]
    plan: Option<String>,
    /// A template of `blueprint-hub templates`: its provider and plan
    #[arg(long, value_name = "ID", conflicts_with = "provider")]
    template: Option<String>,
    /// What the blueprint cannot run without, as JSON in a file: nothing asked for here makes it less
    #[arg(long, value_name = "FILE")]
    blueprint: Option<PathBuf>,
}

impl Filter {
    /// Adds what the blueprint needs, and what the remote says where `query` says nothing; gives the remote.
    pub(in crate::cmd) fn place(
        &self,
        global: &Global,
        query: &mut Query,
    ) -> Result<Option<Remote>, CliError> {
        if let Some(path) = &self.blueprint {
            let text = std::fs::read_to_string(path).map_err(|error| {
                crate::cmd::unread(path, &error).hint(
                    "--blueprint names a file with what the blueprint needs; docs/provisioning.md shows one",
                )
            })?;
            query.text("blueprint", Some(&text));
        }
        let found = remotes::find(global, self.remote.as_deref(), self.remote_config.as_deref())?;
        if let Some(remote) = &found {
            for (name, value) in [
                ("provider", &remote.provider),
                ("strategy", &remote.strategy),
                ("region", &remote.region),
                ("cpu", &remote.min_cpu),
                ("memory_gib", &remote.min_memory),
            ] {
                query.fill(name, value.as_deref());
            }
            let joined = |list: &[String]| (!list.is_empty()).then(|| list.join(","));
            query.fill("plans", joined(&remote.plans).as_deref());
            // One region that was asked for is none of several.
            if !query.has("region") {
                query.fill("regions", joined(&remote.regions).as_deref());
            }
        }
        Ok(found)
    }

    /// Adds what is asked for.
    pub(in crate::cmd) fn write(&self, query: &mut Query) {
        query.text("preset", self.preset.as_deref());
        query.text("cpu", self.min_cpu.as_deref());
        query.text("memory_gib", self.min_memory.as_deref());
        query.number("disk_gb", self.min_disk);
        query.text("gpu", self.gpu.as_deref());
        query.number("gpu_count", self.gpu_count.map(u32::from));
        query.number("min_vram_gib", self.min_vram);
        query.text("region", self.region.as_deref());
        query.text("arch", self.arch.as_deref());
        query.flag("spot", self.spot);
        query.flag("no_burstable", self.no_burstable);
        query.text("processors", self.processors.as_deref());
        query.number("egress_gb", self.egress);
        query.text("max_price", self.max_price.as_deref());
        query.text("provider", self.provider.as_deref());
        query.text("plan", self.plan.as_deref());
        query.text("template", self.template.as_deref());
    }
}

/// Fields of a question, as a query or as JSON.
#[derive(Default)]
pub(in crate::cmd) struct Query(Map<String, Value>);

impl Query {
    /// Adds a field where it has a value.
    pub(in crate::cmd) fn text(&mut self, name: &str, value: Option<&str>) {
        self.0.extend(value.map(|value| (name.to_owned(), value.into())));
    }

    /// Adds a field where it has none yet and there is a value.
    pub(in crate::cmd) fn fill(&mut self, name: &str, value: Option<&str>) {
        if !self.0.contains_key(name) {
            self.text(name, value);
        }
    }

    /// Whether a field has a value.
    pub(in crate::cmd) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Takes a field out.
    pub(in crate::cmd) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Adds a number where there is one.
    pub(in crate::cmd) fn number(&mut self, name: &str, value: Option<u32>) {
        self.0.extend(value.map(|value| (name.to_owned(), value.into())));
    }

    /// Adds a field where it is on.
    pub(in crate::cmd) fn flag(&mut self, name: &str, is_on: bool) {
        self.0.extend(is_on.then(|| (name.to_owned(), true.into())));
    }

    /// Adds what a tier gives each replica, where nothing else is said.
    pub(in crate::cmd) fn at_least(&mut self, tier: &TierTerms) {
        if ["preset", "plan", "template"].iter().any(|name| self.0.contains_key(*name)) {
            return;
        }
        let cpu = format!("{}.{:03}", tier.cpu_millis / 1000, tier.cpu_millis % 1000);
        let memory =
            format!("{}.{:03}", tier.memory_bytes >> 30, (tier.memory_bytes >> 20) % 1024 * 1000 / 1024);
        for (name, value) in [("cpu", cpu), ("memory_gib", memory)] {
            if !self.0.contains_key(name) {
                self.text(name, Some(&value));
            }
        }
        if tier.gpus > 0 && !self.0.contains_key("gpu") && !self.0.contains_key("gpu_count") {
            self.number("gpu_count", Some(tier.gpus.into()));
        }
    }

    /// As the query of `path`.
    pub(in crate::cmd) fn path(&self, path: &str) -> Result<String, CliError> {
        let query = serde_urlencoded::to_string(&self.0)
            .map_err(|error| CliError::usage(format!("the options have no form in a query: {error}")))?;
        Ok(format!("{path}?{query}"))
    }

    /// As a JSON object.
    pub(in crate::cmd) fn json(self) -> Value {
        Value::Object(self.0)
    }
}
