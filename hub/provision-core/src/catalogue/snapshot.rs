//! Price lists as text: the one that the hub is built with (`data/NOTICE.txt` says what it is made of), and those that it
//! keeps of what providers say.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::Read;
use std::sync::Arc;

use blueprint_common_types::Micros;

use super::gpu::{self, Gpu, GpuKind};
use super::{Currency, Offer, PriceKind};
use crate::resource::Arch;

/// Longest list, in bytes, and the most that is read of one.
const MAX_BYTES: u64 = 64 << 20;

const HEADER: &str = "provider,plan,region,arch,vcpu,burstable,mem_mib,local_disk_gb,gpu_name,gpu_count,gpu_vram_mib,\
od_micros,spot_micros,currency,as_of,source";

/// A list cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be unpacked.
    #[error("the price list cannot be unpacked: {0}")]
    Unpack(String),
    /// A row is not one.
    #[error("line {line} of the price list: {what}")]
    Row {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// Whether the list has rows of `provider`; those of the others come from templates.
pub(super) fn has(provider: &str) -> bool {
    ["aws", "azure", "gcp", "linode", "scaleway"].contains(&provider)
}

/// Rows of a list packed with zstd. Rows that are no machine for us are left out; what is damaged is an error.
pub(super) fn read(packed: &[u8]) -> Result<Vec<Offer>, SnapshotError> {
    let unpack = |error: &dyn std::fmt::Display| SnapshotError::Unpack(error.to_string());
    let mut text = String::new();
    ruzstd::decoding::StreamingDecoder::new(packed)
        .map_err(|error| unpack(&error))?
        .take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| unpack(&error))?;
    read_text(&text, PriceKind::Snapshot)
}

/// Rows of a list as text, each of this kind.
pub(super) fn read_text(text: &str, kind: PriceKind) -> Result<Vec<Offer>, SnapshotError> {
    let mut lines = text.lines().enumerate();
    if lines.next().map(|(_, line)| line) != Some(HEADER) {
        return Err(SnapshotError::Row { line: 1, what: "the columns are not the known ones".to_owned() });
    }
    let mut names = Names::default();
    let mut offers = Vec::with_capacity(text.len() / 64);
    for (index, line) in lines {
        let row = row(line, kind, &mut names).map_err(|what| SnapshotError::Row { line: index + 1, what })?;
        match row {
            // One price for all regions.
            Some(row) if &*row.region == "*" => {
                let everywhere = super::regions::of(&row.provider);
                offers
                    .extend(everywhere.map(|region| Offer { region: names.share(2, region), ..row.clone() }));
            }
            row => offers.extend(row),
        }
    }
    Ok(offers)
}

/// Rows as text, which [`read_text`] reads as the same. Rows whose names have a comma or a line feed are left out.
pub(super) fn write(offers: &[Offer]) -> String {
    let mut text = String::with_capacity(96 * (offers.len() + 1));
    text.push_str(HEADER);
    text.push('\n');
    for offer in offers {
        let names = [&offer.provider, &offer.plan, &offer.region, &offer.source];
        if names.iter().any(|name| name.contains([',', '\n', '\r'])) {
            continue;
        }
        let arch = match offer.arch {
            Arch::X86_64 => "x86_64",
            Arch::Arm64 => "arm64",
        };
        let gpu = match &offer.gpu {
            Some(gpu) if gpu.is_whole() => format!("{},{},{}", gpu.kind.as_str(), gpu.count(), gpu.vram_mib),
            // A slice of Azure's is told by its plan, and its number is a whole one there.
            Some(gpu) if &*offer.provider == "azure" => format!("{},1,{}", gpu.kind.as_str(), gpu.vram_mib),
            Some(gpu) => {
                format!("{},0.{:03},{}", gpu.kind.as_str(), gpu.count_millis % 1000, gpu.vram_mib)
            }
            None => ",,".to_owned(),
        };
        let spot = offer.spot.map(|spot| spot.get().to_string()).unwrap_or_default();
        let currency = match offer.currency {
            Currency::Usd => "USD",
            Currency::Eur => "EUR",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{},{},{},{arch},{},{},{},{},{gpu},{},{spot},{currency},{},{}",
            offer.provider,
            offer.plan,
            offer.region,
            offer.vcpus,
            u8::from(offer.is_burstable),
            offer.memory_mib,
            offer.disk_gb,
            offer.on_demand.get(),
            offer.as_of,
            offer.source,
        );
    }
    text
}

/// Texts that many rows share, each once in memory.
#[derive(Default)]
struct Names {
    known: BTreeSet<Arc<str>>,
    /// Of the row before; most rows say the same again.
    last: [Option<Arc<str>>; 4],
}

impl Names {
    /// The one of a column, of which there are four.
    fn share(&mut self, column: usize, name: &str) -> Arc<str> {
        let last = self.last.get(column).and_then(Option::as_ref);
        if let Some(same) = last.filter(|last| ***last == *name) {
            return Arc::clone(same);
        }
        let shared = self.known.get(name).cloned().unwrap_or_else(|| {
            let first: Arc<str> = name.into();
            self.known.insert(Arc::clone(&first));
            first
        });
        if let Some(last) = self.last.get_mut(column) {
            *last = Some(Arc::clone(&shared));
        }
        shared
    }
}

fn number<T: std::str::FromStr>(column: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{column} is {text:?}"))
}

/// One row; `None` for one that no service of ours could use as it is described.
fn row(line: &str, kind: PriceKind, names: &mut Names) -> Result<Option<Offer>, String> {
    let fields: Vec<&str> = line.split(',').collect();
    let [
        provider,
        plan,
        region,
        arch,
        vcpu,
        burstable,
        mem,
        disk,
        gpu_name,
        gpu_count,
        vram,
        od,
        spot,
        currency,
        as_of,
        source,
    ] = fields.as_slice()
    else {
        return Err(format!("{} columns", fields.len()));
    };
    let arch = match *arch {
        "x86_64" => Arch::X86_64,
        "arm64" => Arch::Arm64,
        other => return Err(format!("arch is {other:?}")),
    };
    let currency = match *currency {
        "USD" => Currency::Usd,
        "EUR" => Currency::Eur,
        other => return Err(format!("currency is {other:?}")),
    };
    let gpu = match gpu_of(provider, plan, gpu_name, gpu_count, vram)? {
        Found::Gpu(gpu) => Some(gpu),
        Found::None => None,
        Found::Unknown => return Ok(None),
    };
    let price = |column, text: &str| number::<u64>(column, text).map(Micros::new);
    let on_demand = price("od_micros", od)?;
    if on_demand == Micros::ZERO {
        return Err("the price is zero".to_owned());
    }
    let spot = if spot.is_empty() { None } else { Some(price("spot_micros", spot)?) };
    Ok(Some(Offer {
        provider: names.share(0, provider),
        plan: names.share(1, plan),
        region: names.share(2, region),
        arch,
        vcpus: number("vcpu", vcpu)?,
        is_burstable: *burstable == "1",
        memory_mib: number("mem_mib", mem)?,
        disk_gb: if disk.is_empty() { 0 } else { number("local_disk_gb", disk)? },
        gpu,
        on_demand,
        // A list that does not know repeats the other price; a real one is below it.
        spot: spot.filter(|spot| *spot < on_demand && *spot > Micros::ZERO),
        currency,
        as_of: number("as_of", as_of)?,
        source: names.share(3, source),
        kind,
    }))
}

enum Found {
    None,
    Gpu(Gpu),
    Unknown,
}

fn gpu_of(provider: &str, plan: &str, name: &str, count: &str, vram: &str) -> Result<Found, String> {
    if provider == "azure" && plan.starts_with("Standard_N") {
        let count = if count.is_empty() { 0 } else { number("gpu_count", count)? };
        return Ok(gpu::of_azure(plan, count).map_or(Found::Unknown, Found::Gpu));
    }
    if count.is_empty() {
        return Ok(Found::None);
    }
    let Some(kind) = GpuKind::named(name) else {
        return Ok(Found::Unknown);
    };
    let count: Micros = count.parse().map_err(|_| format!("gpu_count is {count:?}"))?;
    let count_millis = u32::try_from(count.get() / 1000).map_err(|_| "gpu_count is too large".to_owned())?;
    Ok(Found::Gpu(Gpu { kind, count_millis, vram_mib: number("gpu_vram_mib", vram)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_row(line: &str) -> Result<Option<Offer>, String> {
        row(line, PriceKind::Snapshot, &mut Names::default())
    }

    #[test]
    fn a_row_is_read() {
        let line = "aws,g6f.large,us-east-1,x86_64,2,0,8192,,NVIDIA L4,0.125,2861,202000,90000,USD,2026-07-20,karpenter-aws";
        let offer = read_row(line).unwrap().unwrap();
        assert_eq!((offer.vcpus, offer.memory_mib, offer.on_demand.get()), (2, 8192, 202_000));
        assert_eq!(offer.gpu.unwrap().count_millis, 125);
        assert_eq!(offer.spot.map(Micros::get), Some(90_000));
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let offers = read(include_bytes!("../../data/snapshot.csv.zst")).unwrap();
        let again = read_text(&write(&offers), PriceKind::Snapshot).unwrap();
        assert_eq!(offers.len(), again.len());
        for (one, other) in offers.iter().zip(&again) {
            assert_eq!(one, other);
        }
        let mut odd = offers.first().unwrap().clone();
        odd.plan = "a,b".into();
        assert_eq!(write(&[odd]).lines().count(), 1);
    }

    #[test]
    fn what_is_damaged_is_named_and_what_is_unknown_left_out() {
        let base = "aws,x,us-east-1,x86_64,2,0,8192,,,,,202000,,USD,2026-07-20,list";
        assert!(read_row(base).unwrap().is_some());
        for (from, to, word) in [
            (",202000,", ",0,", "the price is zero"),
            (",202000,", ",-5,", "od_micros"),
            (",202000,", ",NaN,", "od_micros"),
            ("x86_64", "i386", "i386"),
            ("USD", "CNY", "CNY"),
            ("2026-07-20", "yesterday", "as_of"),
            (",list", "", "15 columns"),
        ] {
            let error = read_row(&base.replace(from, to)).unwrap_err();
            assert!(error.contains(word), "{word}: {error}");
        }
        let unknown = "aws,x,us-east-1,x86_64,2,0,8192,,Some Card,1,1000,202000,,USD,2026-07-20,list";
        assert!(read_row(unknown).unwrap().is_none());
        // "Spot" that equals the other price is a list that does not know.
        let line = "aws,x,us-east-1,x86_64,2,0,8192,,,,,202000,202000,USD,2026-07-20,list";
        assert_eq!(read_row(line).unwrap().unwrap().spot, None);
    }

    #[test]
    fn a_list_that_is_cut_is_an_error() {
        let packed = include_bytes!("../../data/snapshot.csv.zst");
        assert!(read(packed.get(..packed.len() / 2).unwrap()).is_err());
        assert!(read(b"no list").is_err());
    }
}
