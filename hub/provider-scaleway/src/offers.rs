//! What Scaleway sells: `GET /products/servers` of each zone. Prices are in euro, and without disk and address.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provider_kit::cloud_time;
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::{Currency, Day, Gpu, GpuKind, Offer, PriceKind};
use blueprint_hub_provision_core::resource::Arch;
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing::{debug, warn};

use crate::api::{Api, Call, call, read, rights};

pub(crate) const TYPES: Call = call("ListServersTypes", rights::NONE);
pub(crate) const STOCK: Call = call("GetServerTypesAvailability", rights::NONE);

/// Most that an hour of any type may cost, in euro: eight of the largest GPUs are at 28 (2026-07).
const MOST_PER_HOUR: f64 = 1000.0;

/// Hours of the month that monthly prices are reckoned with, and how far they may be off from that.
const MONTH: (f64, f64) = (730.0, 2.0);

/// Rows of a page.
const PER_PAGE: usize = 100;

/// Pages at most.
const MAX_PAGES: usize = 20;

#[derive(Debug, Deserialize)]
struct Page<T> {
    servers: BTreeMap<String, T>,
}

/// A type as the API shows it.
#[derive(Debug, Clone, Deserialize)]
struct Server {
    hourly_price: f64,
    #[serde(default)]
    monthly_price: Option<f64>,
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

#[derive(Debug, Clone, Deserialize)]
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

/// Why a type is not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    /// None is left, or no new ones are made.
    Unavailable,
    /// A price of nothing, or of more than any machine costs.
    AbsurdPrice,
    /// The price of an hour does not fit that of a month.
    PricesDiffer,
    /// No processor that is known, no memory.
    NoMachine,
    /// A GPU that is not known.
    UnknownGpu,
}

impl Refusal {
    const fn label(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::AbsurdPrice => "absurd_price",
            Self::PricesDiffer => "prices_differ",
            Self::NoMachine => "no_machine",
            Self::UnknownGpu => "unknown_gpu",
        }
    }
}

/// The offers of these zones, sorted by price, plan and zone.
///
/// # Errors
///
/// As the API answers; a list that is not whole is an error.
pub(crate) async fn ask(api: &Api, zones: &[&str], now: Timestamp) -> Result<Vec<Offer>, ProviderError> {
    let mut refused: BTreeMap<Refusal, usize> = BTreeMap::new();
    let mut offers = Vec::new();
    for zone in zones {
        let path = format!("/instance/v1/zones/{zone}/products/servers");
        let (types, time) = all::<Server>(api, TYPES, &path).await?;
        let (stock, _) = all::<Stock>(api, STOCK, &format!("{path}/availability")).await?;
        let gone: BTreeSet<&str> = stock
            .iter()
            .filter(|(_, stock)| stock.availability == "shortage")
            .map(|(plan, _)| plan.as_str())
            .collect();
        for (plan, server) in &types {
            let checked =
                if gone.contains(plan.as_str()) { Err(Refusal::Unavailable) } else { server.check() };
            match checked {
                Ok(sold) => offers.push(sold.offer(plan, zone, server, time.unwrap_or(now))),
                Err(refusal) => {
                    debug!(plan, zone, reason = refusal.label(), "type not offered");
                    *refused.entry(refusal).or_default() += 1;
                }
            }
        }
    }
    for (refusal, count) in refused {
        match refusal {
            Refusal::Unavailable | Refusal::UnknownGpu => {}
            Refusal::AbsurdPrice | Refusal::PricesDiffer | Refusal::NoMachine => {
                warn!(provider = "scaleway", reason = refusal.label(), count, "types left out of the offers");
            }
        }
    }
    offers.sort_by(|a, b| (a.on_demand, &a.plan, &a.region).cmp(&(b.on_demand, &b.plan, &b.region)));
    Ok(offers)
}

/// Every row of such a list, which is one object by the names of types.
async fn all<T: DeserializeOwned>(
    api: &Api,
    call: Call,
    path: &str,
) -> Result<(BTreeMap<String, T>, Option<Timestamp>), ProviderError> {
    let mut rows = BTreeMap::new();
    for number in 1..=MAX_PAGES {
        let page = format!("{path}?page={number}&per_page={PER_PAGE}");
        let answer = api.send(call, Method::GET, &page, None).await?;
        let page: Page<T> = read(call, &answer)?;
        let is_empty = page.servers.is_empty();
        rows.extend(page.servers);
        let total = answer.headers().get("x-total-count");
        let total = total.and_then(|total| total.to_str().ok()?.parse::<usize>().ok());
        // Without a count the list ends with an empty page.
        if is_empty || total.is_some_and(|total| rows.len() >= total) {
            return Ok((rows, cloud_time(answer.headers())));
        }
    }
    let source = format!("the list has more than {MAX_PAGES} pages").into();
    Err(ProviderError::Other { call: call.name, source })
}

/// What of a type was found good.
struct Sold {
    price: Micros,
    arch: Arch,
    gpu: Option<Gpu>,
}

impl Sold {
    fn offer(self, plan: &str, zone: &str, server: &Server, at: Timestamp) -> Offer {
        Offer {
            provider: "scaleway".into(),
            plan: plan.into(),
            region: zone.into(),
            arch: self.arch,
            vcpus: server.ncpus,
            is_burstable: false,
            memory_mib: server.ram >> 20,
            // Disks are block volumes of their own, with a price of their own.
            disk_gb: 0,
            gpu: self.gpu,
            on_demand: self.price,
            spot: None,
            currency: Currency::Eur,
            as_of: Day::from(at),
            source: "scaleway products/servers".into(),
            kind: PriceKind::Live,
        }
    }
}

impl Server {
    fn check(&self) -> Result<Sold, Refusal> {
        if self.end_of_service || self.baremetal {
            return Err(Refusal::Unavailable);
        }
        let arch = match self.arch.as_str() {
            "x86_64" => Arch::X86_64,
            "arm64" => Arch::Arm64,
            _ => return Err(Refusal::NoMachine),
        };
        if self.ncpus == 0 || self.ram >> 20 == 0 {
            return Err(Refusal::NoMachine);
        }
        let gpu = match self.gpu.filter(|count| *count > 0) {
            Some(count) => Some(self.gpu(count).ok_or(Refusal::UnknownGpu)?),
            None => None,
        };
        Ok(Sold { price: self.price()?, arch, gpu })
    }

    fn gpu(&self, count: u16) -> Option<Gpu> {
        let info = self.gpu_info.as_ref()?;
        let vram = u32::try_from(info.gpu_memory >> 20).ok().filter(|vram| *vram > 0)?;
        Some(Gpu::whole(GpuKind::named(&info.gpu_name)?, count, vram))
    }

    fn price(&self) -> Result<Micros, Refusal> {
        let is_sane = |price: f64, most: f64| price.is_finite() && price > 0.0 && price <= most;
        if !is_sane(self.hourly_price, MOST_PER_HOUR) {
            return Err(Refusal::AbsurdPrice);
        }
        if let Some(monthly) = self.monthly_price {
            if !is_sane(monthly, MOST_PER_HOUR * MONTH.0 * MONTH.1) {
                return Err(Refusal::AbsurdPrice);
            }
            let ratio = self.hourly_price * MONTH.0 / monthly;
            if !(1.0 / MONTH.1..=MONTH.1).contains(&ratio) {
                return Err(Refusal::PricesDiffer);
            }
        }
        let price: Micros = format!("{:.6}", self.hourly_price).parse().map_err(|_| Refusal::AbsurdPrice)?;
        if price == Micros::ZERO { Err(Refusal::AbsurdPrice) } else { Ok(price) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn server(change: impl Fn(&mut Value)) -> Server {
        let mut server = json!({
            "hourly_price": 0.00878, "monthly_price": 6.42, "ncpus": 2, "ram": 2_147_483_648u64, "arch": "x86_64",
            "gpu": 0, "gpu_info": null, "end_of_service": false, "baremetal": false,
        });
        change(&mut server);
        serde_json::from_value(server).unwrap()
    }

    #[test]
    fn a_type_is_checked_and_its_gpus_are_known() {
        let sold = server(|_| ()).check().ok().unwrap();
        assert_eq!((sold.price.get(), sold.arch, sold.gpu), (8780, Arch::X86_64, None));
        assert_eq!(server(|it| it["arch"] = "arm64".into()).check().ok().unwrap().arch, Arch::Arm64);
        let gpus = server(|it| {
            it["gpu"] = 2.into();
            it["gpu_info"] = json!({ "gpu_name": "L4", "gpu_memory": 25_769_803_776u64 });
        });
        assert_eq!(gpus.check().ok().unwrap().gpu.unwrap().to_string(), "2x NVIDIA L4");
    }

    #[test]
    fn traps_are_not_offered() {
        for (field, value, refusal) in [
            ("end_of_service", json!(true), Refusal::Unavailable),
            ("baremetal", json!(true), Refusal::Unavailable),
            ("hourly_price", json!(0.0), Refusal::AbsurdPrice),
            ("hourly_price", json!(-0.1), Refusal::AbsurdPrice),
            ("hourly_price", json!(1e300), Refusal::AbsurdPrice),
            ("hourly_price", json!(6.0), Refusal::PricesDiffer),
            ("monthly_price", json!(0), Refusal::AbsurdPrice),
            ("ncpus", json!(0), Refusal::NoMachine),
            ("ram", json!(0), Refusal::NoMachine),
            ("arch", json!("riscv64"), Refusal::NoMachine),
            ("gpu", json!(1), Refusal::UnknownGpu),
        ] {
            let found = server(|it| it[field] = value.clone()).check().err();
            assert_eq!(found, Some(refusal), "{field} {value}");
        }
    }
}
