//! Vultr: `GET /v2/plans` and `/v2/plans-metal`.

use std::collections::BTreeMap;

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::catalogue::{Currency, Gpu, GpuKind, Offer};
use serde::Deserialize;
use serde_json::Value;

use super::{blank, hourly};

/// What a page of any list of this API says of the whole list.
#[derive(Debug, Default, Deserialize)]
pub struct Meta {
    /// Rows of all pages.
    #[serde(default)]
    pub total: usize,
    /// Where the other pages are.
    #[serde(default)]
    links: Links,
}

#[derive(Debug, Default, Deserialize)]
struct Links {
    #[serde(default)]
    next: String,
}

impl Meta {
    /// The end of a query that asks for the next page; empty where there is none.
    ///
    /// # Errors
    ///
    /// Where what it says is no cursor that can go into a query.
    pub fn next(&self) -> Result<String, BadCursor> {
        let next = &self.links.next;
        // Letters, digits and what Base64 has besides.
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=".contains(&b);
        if !next.bytes().all(is_plain) {
            return Err(BadCursor);
        }
        Ok(if next.is_empty() { String::new() } else { format!("&cursor={next}") })
    }
}

/// A list names a next page that is no name of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cursor of the next page has characters that no cursor has")]
pub struct BadCursor;

/// A kind of machine.
#[derive(Debug, Clone, Deserialize)]
pub struct Plan {
    /// Its name in orders.
    pub id: String,
    /// Processors of a virtual machine.
    #[serde(default)]
    vcpu_count: u32,
    /// Threads of a whole machine.
    #[serde(default)]
    cpu_threads: u32,
    /// MiB.
    ram: u64,
    #[serde(default)]
    disk: u32,
    #[serde(default)]
    disk_count: Option<u32>,
    #[serde(flatten)]
    cost: Cost,
    #[serde(default)]
    location_cost: Option<BTreeMap<String, Cost>>,
    /// `hourly`, or `monthly` for what is billed by whole months.
    #[serde(default)]
    invoice_type: String,
    #[serde(default)]
    locations: Vec<String>,
    #[serde(default)]
    deploy_ondemand: Option<bool>,
    #[serde(default)]
    gpu_type: String,
    #[serde(default)]
    gpu_vram_gb: Option<u32>,
    /// A number, or a text such as `1/4`.
    #[serde(default)]
    gpu_count: Value,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Cost {
    #[serde(default)]
    hourly_cost: f64,
    #[serde(default)]
    monthly_cost: Option<f64>,
}

impl Cost {
    fn price(self) -> blueprint_common_types::Micros {
        hourly(self.hourly_cost, self.monthly_cost)
    }
}

impl Plan {
    /// One row for each place; none for what is not sold by the hour, or has GPUs that are not known. Prices that cannot be
    /// are zero.
    #[must_use]
    pub fn offers(&self, now: Timestamp) -> Vec<Offer> {
        let is_sold = self.deploy_ondemand != Some(false) && self.invoice_type != "monthly";
        let gpu = match self.gpu() {
            Ok(gpu) if is_sold => gpu,
            Ok(_) | Err(()) => return Vec::new(),
        };
        let base = Offer {
            plan: self.id.as_str().into(),
            vcpus: self.vcpu_count.max(self.cpu_threads),
            memory_mib: self.ram,
            disk_gb: self.disk.saturating_mul(self.disk_count.unwrap_or(1).max(1)),
            gpu,
            on_demand: self.cost.price(),
            ..blank("vultr", "vultr /v2/plans", Currency::Usd, now)
        };
        let costs = self.location_cost.as_ref();
        let places = self.locations.iter().filter(|place| !place.is_empty());
        let offer = |place: &String| {
            let here = costs.and_then(|costs| costs.get(place)).map(|cost| cost.price());
            Offer { region: place.as_str().into(), on_demand: here.unwrap_or(base.on_demand), ..base.clone() }
        };
        places.map(offer).collect()
    }

    /// Its GPUs; an error for those that are not known.
    fn gpu(&self) -> Result<Option<Gpu>, ()> {
        if self.gpu_type.is_empty() {
            return if self.id.starts_with("vcg-") || self.id.contains("gpu") { Err(()) } else { Ok(None) };
        }
        let kind = GpuKind::named(&self.gpu_type.replace('_', " ")).ok_or(())?;
        let thousandths = match &self.gpu_count {
            Value::Number(count) => count.as_u64().and_then(|count| count.checked_mul(1000)).ok_or(())?,
            Value::String(text) => fraction(text).ok_or(())?,
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return Err(()),
        };
        let count_millis = u32::try_from(thousandths).ok().filter(|count| *count > 0).ok_or(())?;
        let vram_mib = self.gpu_vram_gb.unwrap_or(0).saturating_mul(1024);
        // The API tells the memory of all of them.
        Ok(Some(Gpu { kind, count_millis, vram_mib: vram_mib / (count_millis / 1000).max(1) }))
    }
}

/// Thousandths of `1/4`, or of a whole number.
fn fraction(text: &str) -> Option<u64> {
    let (above, below) = text.split_once('/').unwrap_or((text, "1"));
    let (above, below): (u64, u64) = (above.trim().parse().ok()?, below.trim().parse().ok()?);
    above.checked_mul(1000)?.checked_div(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_read() {
        for (text, thousandths) in
            [("1/4", Some(250)), ("2", Some(2000)), ("1/0", None), ("", None), ("a/b", None)]
        {
            assert_eq!(fraction(text), thousandths, "{text}");
        }
    }

    #[test]
    fn a_cursor_is_no_query() {
        let next = |next: &str| Meta { total: 1, links: Links { next: next.to_owned() } }.next();
        assert_eq!(next("bmV4dA==").unwrap(), "&cursor=bmV4dA==");
        assert_eq!(next("").unwrap(), "");
        assert_eq!(next("x&per_page=1"), Err(BadCursor));
    }
}
