//! Specifications as today's tools write them.
//!
//! Four shapes are read: our own; the flat one of the remote providers' crate (`cpu`, `memory_gb`, `storage_gb`, ...);
//! the nested one of the specification (`compute.cpu_cores`, `storage.memory_gb`, ...); and the Manager's
//! `ResourceLimits` (`memory_size`, `storage_space`, ...). Fractions are rounded up.

use serde_json::{Map, Value};

use super::{GIB, GpuSpec, ResourceSpec, SpecError};

/// Why a document is not a specification.
#[derive(Debug, thiserror::Error)]
pub enum ReadSpecError {
    /// It is not JSON, or a field of our own shape is wrong.
    #[error("not a resource specification: {0}")]
    Shape(String),
    /// A number is not one that a machine can have.
    #[error("{field} is {value}, and has to be a number from {least} to {most}")]
    Number {
        /// Which field.
        field: &'static str,
        /// What it is.
        value: String,
        /// Least value.
        least: f64,
        /// Most value.
        most: f64,
    },
    /// It can be read, and no machine can meet it.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

type Fields = Map<String, Value>;

impl ResourceSpec {
    /// Reads any of the four shapes, and checks the bounds.
    ///
    /// # Errors
    ///
    /// What is wrong, by field. Numbers that are not finite, negative, or more than a machine can have are refused.
    pub fn read(text: &str) -> Result<Self, ReadSpecError> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| ReadSpecError::Shape(error.to_string()))?;
        let Value::Object(fields) = &value else {
            return Err(ReadSpecError::Shape("an object was expected".to_owned()));
        };
        let spec = if fields.contains_key("memory_size") || fields.contains_key("storage_space") {
            manager(fields)?
        } else if fields.contains_key("compute") || fields.get("storage").is_some_and(Value::is_object) {
            nested(fields)?
        } else if ["cpu", "memory_gb", "storage_gb", "disk_gb"].iter().any(|name| fields.contains_key(*name))
        {
            flat(fields)?
        } else {
            serde_json::from_value(value).map_err(|error| ReadSpecError::Shape(error.to_string()))?
        };
        spec.check()?;
        Ok(spec)
    }
}

/// A number of `fields`, in units of 1/`scale`, rounded up.
fn number(fields: &Fields, field: &'static str, most: f64, scale: u64) -> Result<Option<u64>, ReadSpecError> {
    let Some(value) = fields.get(field).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let wrong = || ReadSpecError::Number { field, value: value.to_string(), least: 0.0, most };
    let number = value.as_f64().filter(|number| (0.0..=most).contains(number)).ok_or_else(wrong)?;
    // Exact where the text is short, as people write it: 0.1 is 100 thousandths, not 101.
    let text = format!("{number:.9}");
    let (whole, decimals) = text.split_once('.').ok_or_else(wrong)?;
    let whole: u128 = whole.parse().map_err(|_| wrong())?;
    let decimals: u128 = decimals.parse().map_err(|_| wrong())?;
    let scaled = whole * u128::from(scale) + (decimals * u128::from(scale)).div_ceil(1_000_000_000);
    u64::try_from(scaled).map(Some).map_err(|_| wrong())
}

fn small<T: TryFrom<u64>>(
    fields: &Fields,
    field: &'static str,
    most: f64,
) -> Result<Option<T>, ReadSpecError> {
    Ok(number(fields, field, most, 1)?.and_then(|number| T::try_from(number).ok()))
}

fn object<'a>(fields: &'a Fields, field: &str, empty: &'a Fields) -> &'a Fields {
    fields.get(field).and_then(Value::as_object).unwrap_or(empty)
}

fn gpu(count: Option<u16>, min_vram_gib: Option<u32>) -> Option<GpuSpec> {
    let count = count.filter(|count| *count > 0)?;
    Some(GpuSpec { count, kind: None, min_vram_mib: min_vram_gib.unwrap_or(0).saturating_mul(1024) })
}

const MOST_CPUS: f64 = 1024.0;
const MOST_GIB: f64 = 1_048_576.0;

fn flat(fields: &Fields) -> Result<ResourceSpec, ReadSpecError> {
    let base = ResourceSpec::default();
    let cpu = number(fields, "cpu", MOST_CPUS, 1000)?;
    let storage = match number(fields, "storage_gb", MOST_GIB, GIB)? {
        Some(bytes) => Some(bytes),
        None => number(fields, "disk_gb", MOST_GIB, GIB)?,
    };
    Ok(ResourceSpec {
        cpu_millis: cpu.map_or(base.cpu_millis, |millis| u32::try_from(millis).unwrap_or(u32::MAX)),
        memory_bytes: number(fields, "memory_gb", MOST_GIB, GIB)?.unwrap_or(base.memory_bytes),
        storage_bytes: storage.unwrap_or(base.storage_bytes),
        gpu: gpu(small(fields, "gpu_count", 64.0)?, None),
        allow_spot: fields.get("allow_spot").and_then(Value::as_bool).unwrap_or(false),
        ..base
    })
}

fn nested(fields: &Fields) -> Result<ResourceSpec, ReadSpecError> {
    let empty = Fields::new();
    let compute = object(fields, "compute", &empty);
    let storage = object(fields, "storage", &empty);
    let base = ResourceSpec::default();
    let cpu = number(compute, "cpu_cores", MOST_CPUS, 1000)?;
    let accelerators = match fields.get("accelerators").and_then(Value::as_object) {
        Some(accelerators) => gpu(
            small(accelerators, "gpu_count", 64.0)?.or(small(accelerators, "count", 64.0)?),
            small(accelerators, "min_vram_gb", 1024.0)?,
        ),
        None => gpu(small(compute, "gpu_count", 64.0)?, None),
    };
    Ok(ResourceSpec {
        cpu_millis: cpu.map_or(base.cpu_millis, |millis| u32::try_from(millis).unwrap_or(u32::MAX)),
        memory_bytes: number(storage, "memory_gb", MOST_GIB, GIB)?.unwrap_or(base.memory_bytes),
        storage_bytes: number(storage, "disk_gb", MOST_GIB, GIB)?.unwrap_or(base.storage_bytes),
        gpu: accelerators,
        allow_spot: fields.get("allow_spot").and_then(Value::as_bool).unwrap_or(false),
        ..base
    })
}

fn manager(fields: &Fields) -> Result<ResourceSpec, ReadSpecError> {
    const MOST_BYTES: f64 = 1_125_899_906_842_624.0;
    let base = ResourceSpec::from(&blueprint_common_types::workload::ResourceLimits::default());
    let cpu = number(fields, "cpu_count", MOST_CPUS, 1000)?;
    let is_required =
        fields.get("gpu_policy").and_then(Value::as_str).is_none_or(|policy| policy == "Required");
    let asked = gpu(small(fields, "gpu_count", 64.0)?, small(fields, "gpu_min_vram_gb", 1024.0)?);
    Ok(ResourceSpec {
        cpu_millis: cpu.map_or(base.cpu_millis, |millis| u32::try_from(millis).unwrap_or(u32::MAX)),
        memory_bytes: number(fields, "memory_size", MOST_BYTES, 1)?.unwrap_or(base.memory_bytes),
        storage_bytes: number(fields, "storage_space", MOST_BYTES, 1)?.unwrap_or(base.storage_bytes),
        gpu: asked.filter(|_| is_required),
        bandwidth_mbps: small(fields, "network_bandwidth", 1_000_000.0)?.unwrap_or(0),
        ..base
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_shapes_say_the_same() {
        let flat = ResourceSpec::read(r#"{"cpu": 2.0, "memory_gb": 4.0, "storage_gb": 20, "gpu_count": null, "allow_spot": true, "qos": {"priority": 5}}"#).unwrap();
        let nested = ResourceSpec::read(
            r#"{"compute": {"cpu_cores": 2.0}, "storage": {"memory_gb": 4.0, "disk_gb": 20.0}, "allow_spot": true}"#,
        )
        .unwrap();
        let own = ResourceSpec::read(
            r#"{"cpu_millis": 2000, "memory_bytes": 4294967296, "storage_bytes": 21474836480, "allow_spot": true}"#,
        )
        .unwrap();
        assert_eq!(flat, nested);
        assert_eq!(flat, own);
        let manager = ResourceSpec::read(r#"{"storage_space": 21474836480, "memory_size": 4294967296, "cpu_count": 2, "gpu_count": 1, "gpu_policy": "Required", "gpu_min_vram_gb": 24, "network_bandwidth": 100}"#).unwrap();
        assert_eq!((manager.cpu_millis, manager.memory_bytes), (own.cpu_millis, own.memory_bytes));
        assert_eq!(manager.gpu, Some(GpuSpec { count: 1, kind: None, min_vram_mib: 24 * 1024 }));
        assert_eq!(manager.bandwidth_mbps, 100);
    }

    #[test]
    fn a_gpu_that_is_only_preferred_is_no_demand() {
        let text = r#"{"memory_size": 4294967296, "gpu_count": 1, "gpu_policy": "Preferred"}"#;
        assert_eq!(ResourceSpec::read(text).unwrap().gpu, None);
    }

    #[test]
    fn fractions_are_exact_and_rounded_up() {
        let spec = ResourceSpec::read(r#"{"cpu": 0.1, "memory_gb": 0.5, "storage_gb": 1.3}"#).unwrap();
        assert_eq!((spec.cpu_millis, spec.memory_bytes), (100, GIB / 2));
        assert_eq!(spec.storage_bytes, (GIB * 13).div_ceil(10));
        assert_eq!(ResourceSpec::read(r#"{"cpu": 1.0001}"#).unwrap().cpu_millis, 1001);
    }

    #[test]
    fn what_no_machine_has_is_refused_by_name() {
        for (text, word) in [
            (r#"{"cpu": -1}"#, "cpu is -1"),
            (r#"{"cpu": 1e300}"#, "cpu is"),
            (r#"{"cpu": "2"}"#, "cpu is \"2\""),
            (r#"{"cpu": 0}"#, "cpu_millis is 0"),
            (r#"{"memory_gb": 99999999}"#, "memory_gb"),
            (r#"{"gpu_count": 65, "cpu": 1}"#, "gpu_count"),
            (r#"{"cores": 2}"#, "unknown field `cores`"),
            ("[]", "an object was expected"),
            ("", "not a resource specification"),
        ] {
            let error = ResourceSpec::read(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
