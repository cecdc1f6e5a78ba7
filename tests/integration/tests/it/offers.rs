//! Machines and prices by the command line, with no account and no network.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::fixture::{CALL, Hub, rows, text};

/// Exit codes of the command line.
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;

#[test]
fn machines_are_found_compared_and_priced_without_an_account() -> Result<()> {
    let hub = Hub::start(&[])?;

    let providers = hub.json(&["providers"])?;
    let providers = rows(&providers, "/providers")?;
    let equinix = providers.iter().find(|row| row["name"] == "equinix").context("it is listed")?;
    ensure!(equinix["discontinued"].as_str().is_some_and(|why| why.contains("2026-06-30")), "{equinix}");
    ensure!(rows(&hub.json(&["templates"])?, "/templates")?.len() == 31);
    ensure!(rows(&hub.json(&["templates", "--gpu"])?, "/templates")?.len() == 5);

    let found = hub.json(&[
        "offers",
        "--min-cpu",
        "4",
        "--min-memory",
        "8",
        "--region",
        "eu",
        "--max-price",
        "0.10",
    ])?;
    let offers = rows(&found, "/offers")?;
    ensure!(!offers.is_empty());
    for offer in offers {
        let hourly: f64 = text(offer, "/hourly")?.parse()?;
        let is_right = offer["vcpus"].as_u64() >= Some(4)
            && offer["memory_mib"].as_u64() >= Some(8192)
            && offer["arch"] == "x86_64"
            && hourly <= 0.10;
        ensure!(is_right && !text(offer, "/freshness")?.is_empty(), "{offer}");
    }
    let prices: Vec<f64> = offers.iter().filter_map(|offer| offer["hourly"].as_str()?.parse().ok()).collect();
    ensure!(prices.is_sorted() && prices.len() == offers.len(), "{prices:?}");

    let estimate =
        hub.json(&["estimate-cost", "--preset", "recommended", "--hours", "10", "--replicas", "3"])?;
    let again =
        hub.json(&["estimate-cost", "--preset", "recommended", "--hours", "10", "--replicas", "3"])?;
    ensure!(estimate == again, "the same question, the same answer");
    let plan = rows(&estimate, "/plan")?;
    ensure!(plan.len() > 1 && !text(&estimate, "/pricing/toml")?.is_empty(), "{estimate}");
    ensure!(rows(&estimate, "/providers")?.len() == 9, "each tells what it has, or why not: {estimate}");
    Ok(())
}

#[test]
fn what_cannot_be_is_told_with_the_next_step() -> Result<()> {
    let hub = Hub::start(&[])?;
    for (arguments, code, words) in [
        (["estimate-cost", "--max-price", "0"], USAGE, ["nearest is", "more than 0.00"]),
        (["estimate-cost", "--region", "atlantis"], USAGE, ["atlantis", "us-east"]),
        (["estimate-cost", "--min-cpu", "1000"], USAGE, ["of 1000.00 processors", "blueprint-hub offers"]),
        (["estimate-cost", "--provider", "equinix"], USAGE, ["2026-06-30", "Hivelocity"]),
        (["offers", "--provider", "nowhere"], NOT_FOUND, ["nowhere", "digitalocean"]),
        (["offers", "--min-cpu", "four"], USAGE, ["cpu", "0.5"]),
        (["offers", "--gpu", "rtx-9999"], USAGE, ["rtx-9999", "h100"]),
        (["estimate-cost", "--strategy", "dearest"], USAGE, ["dearest", "first-match"]),
    ] {
        let finished = hub.command(&arguments)?.run(CALL)?;
        ensure!(finished.code == Some(code), "{arguments:?}: {:?} {}", finished.code, finished.stderr);
        for word in words {
            ensure!(finished.stderr.contains(word), "{arguments:?}: {}", finished.stderr);
        }
    }
    Ok(())
}

#[test]
fn whose_word_counts_is_told_and_what_a_blueprint_needs_is_never_made_less() -> Result<()> {
    let hub = Hub::start(&["provision.region=us", "provision.max_order_hourly=50"])?;
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let needs = write(
        "needs.json",
        r#"{"resources": {"cpu": 4.0, "memory_gb": 8.0, "storage_gb": 20.0}, "region": "eu", "max_instances": 3}"#,
    )?;
    let asked =
        ["estimate-cost", "--min-cpu", "1", "--min-memory", "16", "--region", "de", "--max-price", "60"];
    let asked = [asked.as_slice(), &["--blueprint", &needs, "--accept-stale-price"]].concat();
    let estimate = hub.json(&asked)?;
    let word = |condition: &str, field: &str| estimate["explained"][condition][field].clone();
    let said = [
        ("cpu_millis", "blueprint"),
        ("memory_bytes", "customer"),
        ("region", "customer"),
        ("max_hourly", "operator"),
        ("allow_spot", "default"),
    ];
    for (condition, origin) in said {
        ensure!(word(condition, "origin") == origin, "{condition}: {}", estimate["explained"]);
    }
    ensure!(word("region", "blueprint") == "eu" && word("region", "operator") == "us", "{estimate}");
    let outside =
        hub.command(&["estimate-cost", "--region", "us", "--blueprint", &needs, "--accept-stale-price"])?;
    let outside = outside.run(CALL)?;
    ensure!(
        outside.code == Some(USAGE) && outside.stderr.contains("which is not in"),
        "both places hold: {}",
        outside.stderr
    );
    let first = rows(&estimate, "/plan")?.first().context("a machine")?;
    ensure!(first["vcpus"].as_u64() >= Some(4) && first["memory_mib"].as_u64() >= Some(16 * 1024), "{first}");
    let shown = hub.command(&[asked.as_slice(), &["--explain"]].concat())?.run(CALL)?;
    ensure!(shown.stdout.contains("CONDITION") && shown.stdout.contains("blueprint"), "{}", shown.stdout);

    // A file that says four large GPUs is not made one of any size by an option that says another thing.
    let spec = write(
        "gpus.json",
        r#"{"cpu": 4.0, "memory_gb": 16.0, "storage_gb": 20.0, "gpu_count": 4, "allow_spot": false}"#,
    )?;
    let priced = hub.json(&["estimate-cost", "--spec", &spec, "--min-vram", "16", "--accept-stale-price"])?;
    let first = rows(&priced, "/plan")?.first().context("a machine")?;
    ensure!(first["gpu"]["count_millis"].as_u64() >= Some(4000), "{first}");
    let wrong = write("wrong.json", r#"{"regoin": "eu"}"#)?;
    let finished = hub.command(&["estimate-cost", "--blueprint", &wrong])?.run(CALL)?;
    ensure!(finished.code == Some(USAGE) && finished.stderr.contains("regoin"), "{}", finished.stderr);
    let dropped = write("dropped.json", r#"{"resources": {"cpu_millis": 1000, "arch": "arm64"}}"#)?;
    let finished = hub.command(&["estimate-cost", "--blueprint", &dropped])?.run(CALL)?;
    ensure!(finished.code == Some(USAGE) && finished.stderr.contains("beside it"), "{}", finished.stderr);
    Ok(())
}

#[test]
fn a_specification_of_existing_tools_is_priced_and_written_for_the_pricing_engine() -> Result<()> {
    let hub = Hub::start(&[])?;
    let folder = tempfile::tempdir()?;
    let spec = folder.path().join("spec.json");
    std::fs::write(
        &spec,
        r#"{"cpu": 2.0, "memory_gb": 4.0, "storage_gb": 20.0, "gpu_count": null, "allow_spot": false}"#,
    )?;
    let file = folder.path().join("default_pricing.toml");
    let (spec, file) = (spec.to_string_lossy(), file.to_string_lossy());
    let arguments = ["estimate-cost", "--spec", &spec, "--pricing-toml", &file, "--markup", "20"];
    let estimate: Value = hub.json(&arguments)?;
    // The service has its 4 GiB to itself: a machine of 4 GiB does not do.
    let first = rows(&estimate, "/plan")?.first().context("a machine")?;
    ensure!(first["memory_mib"].as_u64() > Some(4096), "{first}");
    let written = std::fs::read_to_string(&*file)?;
    ensure!(written.contains("[default]") && written.contains("kind = \"MemoryMB\""), "{written}");
    Ok(())
}
