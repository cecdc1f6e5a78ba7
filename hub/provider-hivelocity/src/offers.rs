//! What Hivelocity sells: `GET /inventory/product`, by the hour. Sizes are texts for people there; what cannot be read is
//! not offered.

use std::collections::BTreeMap;

use blueprint_common_types::{Micros, Timestamp};
use blueprint_hub_provider_kit::cloud_time;
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::catalogue::{Currency, Day, Gpu, GpuKind, Offer, PriceKind};
use blueprint_hub_provision_core::resource::Arch;
use serde::Deserialize;
use tracing::{debug, warn};

use crate::api::{Api, Call};
use crate::device::Line;

pub(crate) const STOCK: Call = Call("get_stock_resource");

/// The parts of the store that are asked.
const SHELVES: [&str; 3] = ["MAIN", "GPU", "OUTLET"];

/// Most that an hour of any product may cost, in US dollars.
const MOST_PER_HOUR: f64 = 1000.0;

/// Hours of the month that monthly prices are reckoned with, and how far an hour's price may be off: by the hour it is
/// dearer.
const MONTH: (f64, f64) = (730.0, 4.0);

/// A product in one facility, as far as the hub looks.
#[derive(Debug, Clone, Deserialize)]
struct Stock {
    product_id: u64,
    data_center: String,
    /// `available`, `limited` or `unavailable`.
    stock: String,
    #[serde(default)]
    product_hourly_price: Option<f64>,
    #[serde(default)]
    hourly_location_premium: Option<f64>,
    #[serde(default)]
    product_monthly_price: Option<f64>,
    #[serde(default)]
    product_disabled_billing_periods: Option<Vec<String>>,
    #[serde(default)]
    product_memory: Option<String>,
    #[serde(default)]
    product_drive: Option<String>,
    #[serde(default)]
    product_gpu: Option<String>,
    #[serde(default)]
    processor_info: Option<Processor>,
    #[serde(default)]
    is_vps: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Processor {
    threads: Option<u32>,
    cores: Option<u32>,
    sockets: Option<u32>,
    vcpus: Option<u32>,
}

/// Why a product is not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    /// None is left, or it is not sold by the hour.
    Unavailable,
    /// A price of nothing, or of more than any machine costs.
    AbsurdPrice,
    /// The price of an hour does not fit that of a month.
    PricesDiffer,
    /// Processors, memory or disk that cannot be read.
    NoMachine,
    /// A GPU that is not known, or whose number or memory is not said.
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

/// The offers in these facilities (all of them where none is named), sorted by price, plan and facility.
///
/// # Errors
///
/// As the API answers.
pub(crate) async fn ask(api: &Api, wanted: &[String], now: Timestamp) -> Result<Vec<Offer>, ProviderError> {
    let mut refused: BTreeMap<Refusal, usize> = BTreeMap::new();
    let mut offers = Vec::new();
    for shelf in SHELVES {
        let path = format!("/inventory/product?location={shelf}&group_by=flat");
        let (groups, answer) = api.get::<BTreeMap<String, Vec<Stock>>>(STOCK, &path).await?;
        let at = cloud_time(answer.headers()).unwrap_or(now);
        let sold = groups.values().flatten();
        for stock in sold.filter(|stock| wanted.is_empty() || wanted.contains(&stock.data_center)) {
            match stock.offer(at) {
                Ok(offer) => offers.push(offer),
                Err(refusal) => {
                    debug!(product = stock.product_id, reason = refusal.label(), "product not offered");
                    *refused.entry(refusal).or_default() += 1;
                }
            }
        }
    }
    for (refusal, count) in refused {
        match refusal {
            Refusal::Unavailable | Refusal::UnknownGpu => {}
            Refusal::AbsurdPrice | Refusal::PricesDiffer | Refusal::NoMachine => {
                warn!(
                    provider = "hivelocity",
                    reason = refusal.label(),
                    count,
                    "products left out of the offers"
                );
            }
        }
    }
    offers.sort_by(|a, b| (a.on_demand, &a.plan, &a.region).cmp(&(b.on_demand, &b.plan, &b.region)));
    offers.dedup_by(|a, b| (&a.plan, &a.region) == (&b.plan, &b.region));
    Ok(offers)
}

impl Stock {
    fn offer(&self, at: Timestamp) -> Result<Offer, Refusal> {
        let by_hour = self.product_disabled_billing_periods.iter().flatten().all(|period| period != "hourly");
        if self.stock == "unavailable" || !by_hour || self.data_center.is_empty() {
            return Err(Refusal::Unavailable);
        }
        let line = if self.is_vps == Some(true) { Line::Vps } else { Line::Metal };
        let vcpus = self.processor_info.as_ref().and_then(Processor::count).ok_or(Refusal::NoMachine)?;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let memory_gib = sizes(&text(&self.product_memory)).max().ok_or(Refusal::NoMachine)?;
        let disk_gb = sizes(&text(&self.product_drive)).max().ok_or(Refusal::NoMachine)?;
        let gpu = match text(&self.product_gpu).trim() {
            "" | "None" | "N/A" => None,
            words => Some(gpu(words).ok_or(Refusal::UnknownGpu)?),
        };
        Ok(Offer {
            provider: "hivelocity".into(),
            plan: line.name_of(self.product_id).into(),
            region: self.data_center.as_str().into(),
            arch: Arch::X86_64,
            vcpus,
            is_burstable: false,
            memory_mib: memory_gib.saturating_mul(1024),
            // One drive of several: nothing says how they are put together.
            disk_gb: u32::try_from(disk_gb).map_err(|_| Refusal::NoMachine)?,
            gpu,
            on_demand: self.price()?,
            spot: None,
            currency: Currency::Usd,
            as_of: Day::from(at),
            source: "hivelocity /inventory/product".into(),
            kind: PriceKind::Live,
        })
    }

    fn price(&self) -> Result<Micros, Refusal> {
        let is_sane = |price: f64, most: f64| price.is_finite() && price > 0.0 && price <= most;
        let own = self.product_hourly_price.ok_or(Refusal::Unavailable)?;
        let premium = self.hourly_location_premium.unwrap_or(0.0);
        let hourly = own + premium;
        if !is_sane(own, MOST_PER_HOUR) || premium < 0.0 || !is_sane(hourly, MOST_PER_HOUR) {
            return Err(Refusal::AbsurdPrice);
        }
        if let Some(monthly) = self.product_monthly_price {
            if !is_sane(monthly, MOST_PER_HOUR * MONTH.0) {
                return Err(Refusal::AbsurdPrice);
            }
            let ratio = own * MONTH.0 / monthly;
            if !(1.0 / MONTH.1..=MONTH.1).contains(&ratio) {
                return Err(Refusal::PricesDiffer);
            }
        }
        let price: Micros = format!("{hourly:.6}").parse().map_err(|_| Refusal::AbsurdPrice)?;
        if price == Micros::ZERO { Err(Refusal::AbsurdPrice) } else { Ok(price) }
    }
}

impl Processor {
    /// Processors as the machine counts them; the lower number where several are said.
    fn count(&self) -> Option<u32> {
        let sockets = self.sockets.filter(|sockets| *sockets > 0).unwrap_or(1);
        let own = self.vcpus.or_else(|| self.threads.or(self.cores)?.checked_mul(sockets));
        own.filter(|count| *count > 0)
    }
}

/// The sizes that a text names, in GB: `2 x 960GB SSD, 4TB HDD` is 960 and 4000.
fn sizes(text: &str) -> impl Iterator<Item = u64> {
    let text = text.to_ascii_uppercase();
    let is_of_size = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let words: Vec<String> =
        text.split(|c| !is_of_size(c)).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let unit = |word: &str| match word {
            "GB" => Some(1),
            "TB" => Some(1000),
            _ => None,
        };
        let end = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
        let (number, own) = word.split_at(end);
        let next = words.get(at + 1).map_or("", String::as_str);
        let factor = if own.is_empty() { unit(next) } else { unit(own) };
        if let (Some(factor), Ok(number)) = (factor, number.parse::<Micros>()) {
            found.push(number.get().saturating_mul(factor) / 1_000_000);
        }
    }
    found.into_iter().filter(|size| *size > 0)
}

/// GPUs out of a text such as `2 x NVIDIA L40S 48GB`: number, kind and memory have to be there.
fn gpu(text: &str) -> Option<Gpu> {
    let (count, rest) = match text.split_once(" x ").or_else(|| text.split_once("x ")) {
        Some((count, rest)) => (count.trim().parse::<u16>().ok()?, rest),
        None => (1, text),
    };
    let vram_gib = u32::try_from(sizes(rest).next()?).ok()?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let named = words.iter().position(|word| word.to_ascii_uppercase().ends_with("GB"))?;
    // `48 GB` is two words.
    let end = if words.get(named)?.eq_ignore_ascii_case("gb") { named.checked_sub(1)? } else { named };
    let kind = GpuKind::named(&words.get(..end)?.join(" "))?;
    Some(Gpu::whole(kind, count, vram_gib.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn stock(change: impl Fn(&mut Value)) -> Stock {
        let mut stock = json!({
            "product_id": 525, "data_center": "NYC1", "stock": "available", "product_hourly_price": 0.21,
            "hourly_location_premium": 0.01, "product_monthly_price": 110.0, "product_memory": "32GB DDR4",
            "product_drive": "2 x 960GB SSD", "product_gpu": null, "is_vps": false,
            "processor_info": { "cores": 4, "threads": 8, "sockets": 1, "vcpus": null },
            "product_disabled_billing_periods": ["biennial"],
        });
        change(&mut stock);
        serde_json::from_value(stock).unwrap()
    }

    #[test]
    fn a_product_is_an_offer_with_the_premium_of_its_place() {
        let offer = stock(|_| ()).offer(Timestamp::from_millis(0)).unwrap();
        assert_eq!((&*offer.plan, &*offer.region, offer.on_demand.get()), ("bm-525", "NYC1", 220_000));
        assert_eq!((offer.vcpus, offer.memory_mib, offer.disk_gb), (8, 32 * 1024, 960));
        let vps = stock(|it| it["is_vps"] = true.into()).offer(Timestamp::from_millis(0)).unwrap();
        assert_eq!(&*vps.plan, "vps-525");
    }

    #[test]
    fn sizes_are_read_out_of_words() {
        let of = |text: &str| sizes(text).collect::<Vec<_>>();
        assert_eq!(of("2 x 960GB SSD, 4TB HDD"), [960, 4000]);
        assert_eq!(of("1.92 TB NVMe"), [1920]);
        assert_eq!(of("lots"), Vec::<u64>::new());
        let gpus = |text: &str| gpu(text).map(|gpu| (gpu.to_string(), gpu.vram_mib));
        assert_eq!(gpus("2 x NVIDIA L40S 48GB"), Some(("2x NVIDIA L40S".to_owned(), 48 * 1024)));
        assert_eq!(gpus("NVIDIA L4 24 GB"), Some(("1x NVIDIA L4".to_owned(), 24 * 1024)));
        assert_eq!((gpus("NVIDIA X9000 24GB"), gpus("NVIDIA L40S")), (None, None));
    }

    #[test]
    fn traps_are_not_offered() {
        for (field, value, refusal) in [
            ("stock", json!("unavailable"), Refusal::Unavailable),
            ("product_disabled_billing_periods", json!(["hourly"]), Refusal::Unavailable),
            ("product_hourly_price", json!(null), Refusal::Unavailable),
            ("product_hourly_price", json!(0.0), Refusal::AbsurdPrice),
            ("product_hourly_price", json!(1e300), Refusal::AbsurdPrice),
            ("hourly_location_premium", json!(-0.2), Refusal::AbsurdPrice),
            ("product_hourly_price", json!(9.0), Refusal::PricesDiffer),
            ("product_memory", json!("much"), Refusal::NoMachine),
            ("product_drive", json!(null), Refusal::NoMachine),
            ("processor_info", json!({}), Refusal::NoMachine),
            ("product_gpu", json!("a large one"), Refusal::UnknownGpu),
        ] {
            let found = stock(|it| it[field] = value.clone()).offer(Timestamp::from_millis(0)).err();
            assert_eq!(found, Some(refusal), "{field} {value}");
        }
    }
}
