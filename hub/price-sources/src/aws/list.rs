//! What the price list of one region says: a few lines about the file, the names of some 90 columns, and a row for each price.
//!
//! Rows come in no order; of some 300,000 a thousand are wanted.

use std::collections::BTreeMap;
use std::error::Error;

use blueprint_common_types::Micros;
use blueprint_hub_provider_kit::plans::rounded_up;
use blueprint_hub_provision_core::catalogue::{Day, Offer, ParseDayError};

use super::records::{NoTable, Record, Records};

/// Most lines about the file; there are five.
const MAX_LINES: u64 = 20;

/// Most days since the list was published: AWS does that several times a week, so that an older one is no copy of today's.
const MAX_DAYS: u32 = 90;

/// Which part of the machines that are known has to have a price: a list that prices fewer says something else by now.
const LEAST: usize = 2;

/// What tells the price of an hour on demand of a machine with Linux, on nobody's own host, without software and without a reservation,
/// from some hundred others that a kind has: names of columns, in upper or lower case, and the texts there.
const WANTED: [(&str, &str); 9] = [
    ("TermType", "OnDemand"),
    ("Unit", "Hrs"),
    ("Currency", "USD"),
    ("Location Type", "AWS Region"),
    ("Tenancy", "Shared"),
    ("Operating System", "Linux"),
    ("operation", "RunInstances"),
    ("CapacityStatus", "Used"),
    ("Pre Installed S/W", "NA"),
];

/// A column that lists had none of before 2023, and what it must not say: capacity that is paid in advance has a price of its own.
const NOT_WANTED: (&str, &str) = ("MarketOption", "CapacityBlock");

const PLAN: &str = "Instance Type";
const REGION: &str = "Region Code";
const PRICE: &str = "PricePerUnit";

/// Why a text is not the price list of a region.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoList {
    /// It is no table at all.
    #[error("it is no CSV file")]
    Table(#[from] NoTable),
    /// Its head is that of something else.
    #[error("record {number} is {name:?}, and AWS's price list of EC2, version 1, was expected")]
    Head { number: u64, name: String },
    /// It ends before the names of its columns.
    #[error("it has no row with names of columns")]
    Headless,
    /// What is asked of its rows is not there.
    #[error("it has no column {}", .0.join(", "))]
    Columns(Vec<&'static str>),
    /// A row of another length than the names.
    #[error("record {number} has {fields} fields, and {wanted} were expected")]
    Ragged { number: u64, fields: usize, wanted: usize },
    /// The price of a row that is wanted is none.
    #[error("record {number} has a price that is no number: {text:?}")]
    Price { number: u64, text: String },
    /// It does not say of which day it is.
    #[error("it does not say when it was published")]
    Undated,
    /// It says it wrongly.
    #[error("it does not say when it was published")]
    Day(#[from] ParseDayError),
    /// It is of another time.
    #[error(
        "it was published on {0}: not within {MAX_DAYS} days before today, so that it is not the current one"
    )]
    Stale(Day),
    /// It prices hardly anything.
    #[error(
        "only {priced} of {known} kinds of machines have a price in it: its columns mean something else by now, or it is not whole"
    )]
    Few { priced: usize, known: usize },
}

/// Where in a row things are.
#[derive(Debug)]
struct Columns {
    count: usize,
    plan: usize,
    region: usize,
    price: usize,
    /// Columns, and what has to stand there.
    wanted: Vec<(usize, &'static str)>,
    /// The same with what must not stand there.
    not_wanted: Option<(usize, &'static str)>,
}

/// A price list as it is read: it holds a record, and a price for each machine that is known.
#[derive(Debug)]
pub(super) struct List<'a> {
    records: Records,
    rows: Rows<'a>,
}

#[derive(Debug)]
struct Rows<'a> {
    region: &'a str,
    /// Machines that are known in this region, by name.
    known: &'a BTreeMap<&'a str, &'a Offer>,
    published: Option<Day>,
    columns: Option<Columns>,
    prices: BTreeMap<&'a str, Micros>,
}

/// A list that was read to its end.
#[derive(Debug)]
pub(super) struct Told<'a> {
    /// The day on which AWS published it.
    pub(super) published: Day,
    /// Prices of an hour of the machines that are known and have one.
    pub(super) prices: BTreeMap<&'a str, Micros>,
}

impl<'a> List<'a> {
    /// Reads prices of `known` machines in `region`.
    pub(super) fn new(region: &'a str, known: &'a BTreeMap<&'a str, &'a Offer>) -> Self {
        let rows = Rows { region, known, published: None, columns: None, prices: BTreeMap::new() };
        Self { records: Records::default(), rows }
    }

    /// Reads on.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let rows = &mut self.rows;
        Ok(self.records.take(piece, &mut |record| rows.add(record))?)
    }

    /// What it says, once all of it was read `today`.
    pub(super) fn finish(mut self, today: Day) -> Result<Told<'a>, NoList> {
        let rows = &mut self.rows;
        self.records.finish(&mut |record| rows.add(record))?;
        let Rows { known, published, columns, prices, .. } = self.rows;
        if columns.is_none() {
            return Err(NoList::Headless);
        }
        let published = published.ok_or(NoList::Undated)?;
        // A clock that is a day off is no other time.
        if published.days_until(today) > MAX_DAYS || today.days_until(published) > 1 {
            return Err(NoList::Stale(published));
        }
        if prices.len().saturating_mul(LEAST) < known.len() {
            return Err(NoList::Few { priced: prices.len(), known: known.len() });
        }
        Ok(Told { published, prices })
    }
}

impl Rows<'_> {
    fn add(&mut self, record: Record<'_>) -> Result<(), NoList> {
        let Some(columns) = &self.columns else { return self.add_head(record) };
        if record.len() != columns.count {
            let (fields, wanted) = (record.len(), columns.count);
            return Err(NoList::Ragged { number: record.number, fields, wanted });
        }
        let is = |(column, text): (usize, &str)| record.get(column) == Some(text.as_bytes());
        let is_wanted = columns.wanted.iter().all(|wanted| is(*wanted)) && is((columns.region, self.region));
        if !is_wanted || columns.not_wanted.is_some_and(is) {
            return Ok(());
        }
        let plan = record.get(columns.plan).and_then(|name| str::from_utf8(name).ok());
        let Some((plan, _)) = plan.and_then(|name| self.known.get_key_value(name)) else { return Ok(()) };
        let text = text(&record, columns.price);
        let Some(price) = rounded_up(&text) else {
            return Err(NoList::Price { number: record.number, text: short(&text) });
        };
        // Of two prices for one kind the dearer counts: none is shown too low. One of zero is left out, and counted, later.
        let dearest = self.prices.entry(*plan).or_insert(price);
        *dearest = price.max(*dearest);
        Ok(())
    }

    fn add_head(&mut self, record: Record<'_>) -> Result<(), NoList> {
        let (name, value) = (text(&record, 0), text(&record, 1));
        let is_right = match name.as_str() {
            "SKU" => {
                self.columns = Some(Columns::of(&record)?);
                true
            }
            "FormatVersion" => value.starts_with("v1."),
            "OfferCode" => value == "AmazonEC2",
            "Publication Date" => {
                self.published = Some(value.get(..10).unwrap_or(&value).parse()?);
                true
            }
            // The first line tells it from web pages and other files.
            _ => record.number > 1 && record.number <= MAX_LINES,
        };
        if is_right {
            return Ok(());
        }
        let name = if value.is_empty() { name } else { format!("{name},{value}") };
        Err(NoList::Head { number: record.number, name: short(&name) })
    }
}

impl Columns {
    fn of(names: &Record<'_>) -> Result<Self, NoList> {
        let at = |name: &str| {
            (0..names.len()).find(|column| {
                names.get(*column).is_some_and(|own| own.eq_ignore_ascii_case(name.as_bytes()))
            })
        };
        let mut missing = Vec::new();
        let mut of = |name: &'static str| {
            at(name).unwrap_or_else(|| {
                missing.push(name);
                0
            })
        };
        let (plan, region, price) = (of(PLAN), of(REGION), of(PRICE));
        let wanted = WANTED.map(|(name, text)| (of(name), text)).to_vec();
        if !missing.is_empty() {
            return Err(NoList::Columns(missing));
        }
        let (name, text) = NOT_WANTED;
        let not_wanted = at(name).map(|column| (column, text));
        Ok(Self { count: names.len(), plan, region, price, wanted, not_wanted })
    }
}

fn text(record: &Record<'_>, field: usize) -> String {
    String::from_utf8_lossy(record.get(field).unwrap_or_default()).into_owned()
}

/// A text of somebody else's for an error.
fn short(text: &str) -> String {
    text.chars().take(60).collect()
}
