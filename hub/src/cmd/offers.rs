//! `providers`, `templates`, `offers` and `estimate-cost`: machines that can be ordered, and what they cost.

pub(in crate::cmd) mod filter;
mod show;

use std::path::PathBuf;

use blueprint_common_runtime::cli::{CliError, Output, eprint_line, print_json, print_line};
use clap::Args;
use serde_json::Value;

use self::filter::{Filter, Query};
pub(in crate::cmd) use self::show::explained;
use super::client::{ask, rows, text};
use super::unread;
use crate::cli::Global;

/// Most offers that the hub gives at once.
const MOST_OFFERS: i64 = 1000;

/// Lists providers: regions, range of prices, age of the price list.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub providers
Prices are those of an hour, from the built-in list unless the provider was asked.")]
pub(crate) struct Providers {}

/// Lists the templates of the product's specification.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub templates --gpu
Their prices are the specification's; `blueprint-hub offers` shows what lists say.")]
pub(crate) struct Templates {
    /// Only those with a GPU
    #[arg(long)]
    gpu: bool,
    /// Only those of this provider
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

/// Searches machines of all providers, cheapest first, all known costs counted.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: blueprint-hub offers --min-cpu 4 --min-memory 8 --region eu --max-price 0.10
         blueprint-hub offers --gpu l4 --spot
An hour's price is the machine, its public address, the disk asked for where that is billed apart, and egress."
)]
pub(crate) struct Offers {
    #[command(flatten)]
    filter: Filter,
    /// How many to show, up to 1000
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=MOST_OFFERS))]
    limit: u32,
}

/// Says which machine the hub would order, and what it costs by hour, day and month.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub estimate-cost --preset recommended --region eu --hours 720
         blueprint-hub estimate-cost --spec spec.json --replicas 3 --pricing-toml default_pricing.toml
With --spec the numbers are what a service needs, and the machine gets room for the system beside it.")]
pub(crate) struct EstimateCost {
    #[command(flatten)]
    filter: Filter,
    /// Specification as JSON in a file; the existing tools' shapes are read, too
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    spec: Option<PathBuf>,
    /// How to choose: cheapest, first-match, hybrid, local-only, or preferred:NAME,NAME
    #[arg(long, value_name = "HOW", conflicts_with = "provider")]
    strategy: Option<String>,
    /// How many machines
    #[arg(long, default_value_t = 1)]
    replicas: u32,
    /// Hours that they run
    #[arg(long, default_value_t = 730)]
    hours: u32,
    /// What you add, in percent
    #[arg(long, value_name = "PERCENT")]
    markup: Option<String>,
    /// What going before others costs on top, in percent
    #[arg(long, value_name = "PERCENT")]
    priority_premium: Option<String>,
    /// What a promise of availability costs on top, in percent
    #[arg(long, value_name = "PERCENT")]
    sla_cost: Option<String>,
    /// Only providers that this hub can order of
    #[arg(long)]
    configured: bool,
    /// Relies on prices of any age
    #[arg(long)]
    accept_stale_price: bool,
    /// Shows whose word each condition was: the blueprint's, yours or the operator's
    #[arg(long)]
    explain: bool,
    /// Writes the pricing engine's default_pricing.toml for the first choice here
    #[arg(long, value_name = "FILE")]
    pricing_toml: Option<PathBuf>,
}

impl Providers {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let answer = ask(global, "GET", "/v1/providers", None)?;
        match global.output {
            Output::Json => print_json(&answer),
            Output::Table => show::providers(rows(&answer, "providers")).print(),
        }
        Ok(())
    }
}

impl Templates {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let mut query = Query::default();
        query.flag("gpu", self.gpu);
        query.text("provider", self.provider.as_deref());
        let answer = ask(global, "GET", &query.path("/v1/templates")?, None)?;
        match global.output {
            Output::Json => print_json(&answer),
            Output::Table => show::templates(rows(&answer, "templates")).print(),
        }
        Ok(())
    }
}

impl Offers {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let mut query = Query::default();
        self.filter.write(&mut query);
        // Where to look, and not how to choose: all that fit are listed.
        if let Some(remote) = self.filter.place(global, &mut query)?
            && remote.strategy.is_some()
        {
            query.remove("strategy");
        }
        query.number("limit", Some(self.limit));
        let answer = ask(global, "GET", &query.path("/v1/offers")?, None)?;
        if global.output == Output::Json {
            print_json(&answer);
            return Ok(());
        }
        let found = rows(&answer, "offers");
        if found.is_empty() {
            print_line("no machine fits; what came nearest at each provider:");
            show::verdicts(rows(&answer, "providers")).print();
            return Ok(());
        }
        show::offers(found).print();
        let count = answer.get("found").and_then(Value::as_u64).unwrap_or(0);
        let rest = count.saturating_sub(u64::try_from(found.len()).unwrap_or(u64::MAX));
        if rest > 0 {
            let more = if i64::from(self.limit) < MOST_OFFERS { "--limit shows more of them, " } else { "" };
            eprint_line(&format!("{rest} more; {more}--min-cpu, --region and the like fewer"));
        }
        Ok(())
    }
}

impl EstimateCost {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let mut query = Query::default();
        self.filter.write(&mut query);
        if let Some(path) = &self.spec {
            let spec = std::fs::read_to_string(path)
                .map_err(|error| unread(path, &error).hint("--spec names a file"))?;
            query.text("spec", Some(&spec));
        }
        query.text("strategy", self.strategy.as_deref());
        self.filter.place(global, &mut query)?;
        query.number("replicas", Some(self.replicas));
        query.number("hours", Some(self.hours));
        query.text("markup_percent", self.markup.as_deref());
        query.text("priority_percent", self.priority_premium.as_deref());
        query.text("sla_percent", self.sla_cost.as_deref());
        query.flag("configured", self.configured);
        query.flag("accept_stale", self.accept_stale_price);
        let answer = ask(global, "GET", &query.path("/v1/estimate")?, None)?;
        match global.output {
            Output::Json => print_json(&answer),
            Output::Table => show::estimate(&answer),
        }
        if self.explain && global.output == Output::Table {
            explained(answer.get("explained").unwrap_or(&Value::Null)).print();
        }
        if let Some(path) = &self.pricing_toml {
            let Some(pricing) = answer.get("pricing").filter(|pricing| !pricing.is_null()) else {
                return Err(CliError::failure("no machine was chosen, so there is no price to write")
                    .hint("--strategy local-only and clusters have none"));
            };
            std::fs::write(path, text(pricing, "toml"))
                .map_err(|error| CliError::failure(format!("cannot write {}: {error}", path.display())))?;
            eprint_line(&format!("wrote {}; start the pricing engine again to use it", path.display()));
        }
        Ok(())
    }
}
