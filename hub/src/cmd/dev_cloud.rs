//! The machines of `dev`: deployments of the simulated cloud, ordered as an operator orders them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use blueprint_hub_provision_core::DeploymentId;
use http::StatusCode;
use serde_json::{Value, json};

use super::client::{ask_async, exchange, rows, text};
use crate::cli::Global;

/// What the deployments of `dev` are called before their number.
const NAME: &str = "sim-";

/// States of a machine that will not serve.
const ENDED: [&str; 4] = ["deleting", "failed", "gone", "lost"];

/// One deployment for each machine, each with a service of its own.
pub(crate) struct DevFleet<'a> {
    global: &'a Global,
    nodes: u32,
    /// Names and ids of its deployments, once they are ordered.
    deployments: Vec<(String, String)>,
    /// Machines that had ended before this start.
    ended: BTreeSet<String>,
}

impl<'a> DevFleet<'a> {
    /// So many machines of the hub that `global` names; looks whether the programs are there that they run.
    pub(crate) fn new(global: &'a Global, nodes: u32) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find this program's own path")?;
        for name in ["blueprint-agent", "blueprint-example-service"] {
            let path = own.with_file_name(name);
            ensure!(
                path.is_file(),
                "{} is missing: dev needs the agent and the example service beside the hub; from a checkout run packaging/dev",
                path.display()
            );
        }
        Ok(Self { global, nodes, deployments: Vec::new(), ended: BTreeSet::new() })
    }

    /// Where the machines' consoles are.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        Ok(self.global.state()?.join("sim").join("machines"))
    }

    /// Whether one of the machines offers this service.
    pub(crate) fn offers(&self, service: &str) -> bool {
        (1..=self.nodes).any(|number| service == format!("1/{number}"))
    }

    /// Orders the machines that there are none of yet, and switches those on that are off. What an earlier start ordered beyond
    /// them is switched off and kept.
    pub(crate) async fn ensure(&mut self) -> Result<()> {
        let answer = ask_async(self.global, "GET", "/v1/deployments", None).await?;
        let known = |name: &str| {
            let is_it = |row: &&Value| text(row, "name") == name && text(row, "wanted") != "gone";
            rows(&answer, "deployments").iter().find(is_it)
        };
        for number in 1..=self.nodes {
            let (name, service) = (format!("{NAME}{number}"), format!("1/{number}"));
            let Some(row) = known(&name) else {
                let id = self.order(&name, &service).await?;
                self.deployments.push((name, id));
                continue;
            };
            ensure!(
                text(row, "service") == service,
                "a deployment is called {name} and does not offer {service}, so dev cannot use the name: start dev with fewer \
                 --nodes, end that one with `blueprint-hub terminate {name}`, and start anew"
            );
            if text(row, "wanted") == "stopped" {
                self.switch(row, "running").await?;
            }
            self.deployments.push((name, text(row, "id")));
        }
        for number in self.nodes.saturating_add(1)..=super::dev::MOST_NODES {
            let service = format!("1/{number}");
            let own = known(&format!("{NAME}{number}")).filter(|row| text(row, "service") == service);
            if let Some(row) = own.filter(|row| text(row, "wanted") == "running") {
                self.switch(row, "stopped").await?;
            }
        }
        self.ended = self.look().await?.into_iter().map(|(key, _)| key).collect();
        Ok(())
    }

    /// Orders one machine; gives the id of its deployment.
    async fn order(&self, name: &str, service: &str) -> Result<String> {
        let key = DeploymentId::random().context("no randomness for a request key")?;
        let body = json!({
            "request_key": key.as_str(), "name": name, "replicas": 1, "service": service, "machine": { "provider": "sim" },
        });
        let ordered = ask_async(self.global, "POST", "/v1/deployments", Some(&body)).await;
        let ordered = ordered.map_err(anyhow::Error::from).with_context(|| format!("cannot order {name}"))?;
        Ok(text(ordered.get("deployment").unwrap_or(&Value::Null), "id"))
    }

    async fn switch(&self, row: &Value, wanted: &str) -> Result<()> {
        let (path, body) = (format!("/v1/deployments/{}", text(row, "id")), json!({ "wanted": wanted }));
        ask_async(self.global, "PUT", &path, Some(&body)).await?;
        Ok(())
    }

    /// Machines of the deployments that will not serve: their keys, and why.
    async fn look(&self) -> Result<Vec<(String, String)>> {
        let mut ended = Vec::new();
        for (name, id) in &self.deployments {
            let path = format!("/v1/deployments/{id}");
            let answer = ask_async(self.global, "GET", &path, None).await?;
            let machines = rows(answer.get("deployment").unwrap_or(&Value::Null), "instances");
            let of = machines.iter().filter(|row| ENDED.contains(&text(row, "state").as_str()));
            ended.extend(of.map(|row| (text(row, "key"), format!("{name}: {}", text(row, "reason")))));
        }
        Ok(ended)
    }

    /// Why a machine failed since the start, where one did.
    pub(crate) async fn failed(&self) -> Result<Option<String>> {
        let ended = self.look().await?.into_iter().find(|(key, _)| !self.ended.contains(key));
        Ok(ended.map(|(_, why)| why))
    }

    /// Removes the machines of `folder` that an earlier version ran beside the deployments, with their nodes; says how many.
    /// Nothing else of the folder is touched.
    pub(crate) async fn forget_old(&self, folder: &Path) -> Result<usize> {
        let machines = folder.join("machines");
        let is_machine = |name: &String| {
            let own = machines.join(name);
            ["agent.toml", "user-data.json"].iter().all(|file| own.join(file).is_file())
        };
        let names = (1..=super::dev::MOST_NODES).map(|number| format!("{NAME}{number}"));
        let names: Vec<String> = names.filter(is_machine).collect();
        for name in &names {
            let path = format!("/v1/nodes/{name}");
            let (status, answer) = exchange(self.global, "DELETE", &path, None).await?;
            // One that never joined has no node.
            ensure!(
                status.is_success() || status == StatusCode::NOT_FOUND,
                "cannot remove the node {name} of an earlier version: {answer}"
            );
            let own = machines.join(name);
            std::fs::remove_dir_all(&own).with_context(|| format!("cannot remove {}", own.display()))?;
        }
        if !names.is_empty() {
            // It stays where it has something else.
            let _ = std::fs::remove_dir(&machines);
        }
        Ok(names.len())
    }
}
