//! Scaleway: `GET /instance/v1/zones/ZONE/products/servers` and `.../availability`. Prices are in euro.

use std::collections::BTreeMap;

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::HttpClient;
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::{Currency, Gpu, GpuKind, Offer, PriceSource, facts};
use blueprint_hub_provision_core::resource::Arch;
use futures_util::future::{BoxFuture, FutureExt};
use http::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::fetch::{Fetch, MAX_PAGES, blank, endless, price};

const NAME: &str = "scaleway";

/// Rows of a page; the API gives 50 unless told.
const PER_PAGE: usize = 100;

/// What Scaleway sells in the zones that the hub knows, by its own lists.
#[derive(Debug, Clone)]
pub struct Scaleway(Fetch);

#[derive(Debug, Deserialize)]
struct Page<T> {
    servers: BTreeMap<String, T>,
}

#[derive(Debug, Deserialize)]
struct Server {
    hourly_price: f64,
    ncpus: u32,
    /// Bytes.
    ram: u64,
    arch: String,
    #[serde(default)]
    gpu: Option<u16>,
    #[serde(default)]
    gpu_info: Option<GpuInfo>,
    #[serde(default)]
    end_of_service: bool,
    #[serde(default)]
    baremetal: bool,
}

#[derive(Debug, Deserialize)]
struct GpuInfo {
    #[serde(default)]
    gpu_name: String,
    /// Bytes of each.
    #[serde(default)]
    gpu_memory: u64,
}

#[derive(Debug, Deserialize)]
struct Stock {
    /// `available`, `scarce` or `shortage`.
    availability: String,
}

impl Scaleway {
    /// The public API.
    pub const ENDPOINT: &str = "https://api.scaleway.com";

    /// Asks `endpoint`, [`ENDPOINT`](Self::ENDPOINT) or a stand-in for it.
    #[must_use]
    pub fn new(http: HttpClient, endpoint: &str) -> Self {
        Self(Fetch::new(http, endpoint.to_owned()))
    }

    async fn all<T: DeserializeOwned>(
        &self,
        call: &'static str,
        path: &str,
    ) -> Result<BTreeMap<String, T>, ProviderError> {
        let mut rows = BTreeMap::new();
        for number in 1..=MAX_PAGES {
            let path = format!("{path}?page={number}&per_page={PER_PAGE}");
            let (page, head) = self.0.get::<Page<T>>(call, &path).await?;
            let is_empty = page.servers.is_empty();
            rows.extend(page.servers);
            // Without a count the list ends with an empty page.
            let is_last = total(&head).map_or(is_empty, |total| rows.len() >= total || is_empty);
            if is_last {
                return Ok(rows);
            }
        }
        Err(endless(call))
    }

    async fn zone(&self, zone: &str, now: Timestamp) -> Result<Vec<Offer>, ProviderError> {
        let path = format!("/instance/v1/zones/{zone}/products/servers");
        let servers: BTreeMap<String, Server> = self.all("ListServersTypes", &path).await?;
        let stock: BTreeMap<String, Stock> =
            self.all("GetServerTypesAvailability", &format!("{path}/availability")).await?;
        let is_there = |plan: &String| stock.get(plan).is_none_or(|stock| stock.availability != "shortage");
        let sold = servers.iter().filter(|(plan, _)| is_there(plan));
        Ok(sold.filter_map(|(plan, server)| server.offer(plan, zone, now)).collect())
    }

    async fn list(&self, now: Timestamp) -> Result<Vec<Offer>, ProviderError> {
        let mut offers = Vec::new();
        for zone in facts(NAME).into_iter().flat_map(|facts| facts.regions()) {
            offers.extend(self.zone(zone, now).await?);
        }
        Ok(offers)
    }
}

impl PriceSource for Scaleway {
    fn provider(&self) -> &str {
        NAME
    }

    fn origin(&self) -> String {
        self.0.origin()
    }

    fn ask(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        self.list(now).boxed()
    }
}

fn total(head: &HeaderMap) -> Option<usize> {
    head.get("x-total-count")?.to_str().ok()?.parse().ok()
}

impl Server {
    /// Its row; `None` for what ends, runs on no processor of ours, or has GPUs that are not known.
    fn offer(&self, plan: &str, zone: &str, now: Timestamp) -> Option<Offer> {
        let arch = match self.arch.as_str() {
            "x86_64" => Arch::X86_64,
            "arm64" => Arch::Arm64,
            _ => return None,
        };
        if self.end_of_service || self.baremetal {
            return None;
        }
        let gpu = match self.gpu.filter(|count| *count > 0) {
            None => None,
            Some(count) => {
                let info = self.gpu_info.as_ref()?;
                let kind = GpuKind::named(&info.gpu_name)?;
                let vram = u32::try_from(info.gpu_memory >> 20).ok().filter(|vram| *vram > 0)?;
                Some(Gpu::whole(kind, count, vram))
            }
        };
        Some(Offer {
            plan: plan.into(),
            region: zone.into(),
            arch,
            vcpus: self.ncpus,
            memory_mib: self.ram >> 20,
            gpu,
            on_demand: price(self.hourly_price),
            ..blank(NAME, "scaleway products/servers", Currency::Eur, now)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::served::{client, served};

    fn server(change: impl Fn(&mut Value)) -> Value {
        let mut server = json!({
            "hourly_price": 0.05926, "monthly_price": 43.26, "ncpus": 2, "ram": 8_589_934_592u64, "arch": "x86_64",
            "gpu": 0, "gpu_info": null, "end_of_service": false, "baremetal": false, "volumes_constraint": {"min_size": 0, "max_size": 0},
        });
        change(&mut server);
        server
    }

    #[tokio::test]
    async fn servers_of_every_zone_are_offers() {
        let l4 = server(|server| {
            server["gpu"] = 2.into();
            server["gpu_info"] =
                json!({"gpu_name": "L4", "gpu_memory": 25_769_803_776u64, "gpu_manufacturer": "NVIDIA"});
        });
        let unknown = server(|server| {
            server["gpu"] = 1.into();
            server["gpu_info"] = json!({"gpu_name": "X9", "gpu_memory": 1});
        });
        let servers = json!({"servers": {
            "PRO2-XXS": server(|_| ()), "COPARM1-2C-8G": server(|server| server["arch"] = "arm64".into()),
            "L4-2-24G": l4, "X9-1": unknown, "OLD1-S": server(|server| server["end_of_service"] = true.into()),
            "GONE-S": server(|_| ()), "RISC1": server(|server| server["arch"] = "riscv64".into()),
        }});
        let stock = json!({"servers": {"PRO2-XXS": {"availability": "scarce"}, "GONE-S": {"availability": "shortage"}}});
        let mut documents = Vec::new();
        let zones: Vec<_> = facts(NAME).unwrap().regions().collect();
        for zone in &zones {
            let first = *zone == "fr-par-1";
            let path = |rest: &str| -> &'static str {
                format!("/instance/v1/zones/{zone}/products/servers{rest}&per_page=100").leak()
            };
            let empty = || json!({"servers": {}});
            documents.push((path("?page=1"), if first { servers.clone() } else { empty() }));
            documents.push((path("?page=2"), empty()));
            documents.push((path("/availability?page=1"), if first { stock.clone() } else { empty() }));
            documents.push((path("/availability?page=2"), empty()));
        }
        let endpoint = served(documents);
        let offers = Scaleway::new(client(), &endpoint).ask(Timestamp::from_millis(0)).await.unwrap();
        let plans: Vec<_> = offers.iter().map(|offer| (&*offer.plan, offer.arch)).collect();
        assert_eq!(
            plans,
            [("COPARM1-2C-8G", Arch::Arm64), ("L4-2-24G", Arch::X86_64), ("PRO2-XXS", Arch::X86_64)]
        );
        assert!(
            offers.iter().all(|offer| offer.currency == Currency::Eur && offer.on_demand.get() == 59_260)
        );
        assert_eq!(offers.get(1).unwrap().gpu.clone().unwrap().to_string(), "2x NVIDIA L4");
    }
}
