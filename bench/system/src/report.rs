//! What was measured, as a table for people and as JSON for programs.

use blueprint_common_runtime::cli::{Output, Table, print_json, print_line};
use serde_json::{Value, json};

use crate::host::Host;
use crate::stats::Spread;

/// One measured number.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    spread: Spread,
    is_single: bool,
    at_most: Option<f64>,
    at_least: Option<f64>,
}

impl Figure {
    /// A number that was measured once; `name` is `STAGE.WHAT`.
    pub(crate) fn once(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            spread: Spread::of([value]),
            is_single: true,
            at_most: None,
            at_least: None,
        }
    }

    /// A number that was measured several times.
    pub(crate) fn of(name: impl Into<String>, unit: &'static str, spread: Spread) -> Self {
        Self { name: name.into(), unit, spread, is_single: false, at_most: None, at_least: None }
    }

    /// Promises that it is at most this; the median is what counts.
    #[must_use]
    pub(crate) const fn at_most(mut self, limit: f64) -> Self {
        self.at_most = Some(limit);
        self
    }

    /// Promises that it is at least this; the median is what counts.
    #[must_use]
    pub(crate) const fn at_least(mut self, limit: f64) -> Self {
        self.at_least = Some(limit);
        self
    }

    /// Whether it keeps its promise.
    pub(crate) fn is_kept(&self) -> bool {
        self.at_most.is_none_or(|limit| self.spread.median <= limit)
            && self.at_least.is_none_or(|limit| self.spread.median >= limit)
    }

    fn cells(&self) -> Vec<String> {
        let spread = match self.is_single {
            true => String::new(),
            false => format!("{} to {}", short(self.spread.min), short(self.spread.max)),
        };
        let missed = if self.is_kept() { "" } else { "  MISSED" };
        let limit = match (self.at_most, self.at_least) {
            (Some(limit), _) => format!("<= {}{missed}", short(limit)),
            (None, Some(limit)) => format!(">= {}{missed}", short(limit)),
            (None, None) => String::new(),
        };
        vec![self.name.clone(), short(self.spread.median), self.unit.to_owned(), spread, limit]
    }

    fn json(&self) -> Value {
        let mut value = json!({ "name": self.name, "unit": self.unit, "value": self.spread.median });
        if let Some(map) = value.as_object_mut() {
            if !self.is_single {
                map.insert("min".to_owned(), self.spread.min.into());
                map.insert("max".to_owned(), self.spread.max.into());
            }
            for (name, limit) in [("at_most", self.at_most), ("at_least", self.at_least)] {
                if let Some(limit) = limit {
                    map.insert(name.to_owned(), limit.into());
                    map.insert("ok".to_owned(), self.is_kept().into());
                }
            }
        }
        value
    }
}

/// Three significant digits or so.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Prints everything.
pub(crate) fn print(host: &Host, figures: &[Figure], output: Output) {
    match output {
        Output::Json => {
            let rows: Vec<_> = figures.iter().map(Figure::json).collect();
            let ok = figures.iter().all(Figure::is_kept);
            print_json(&json!({ "host": host.json(), "figures": rows, "ok": ok }));
        }
        Output::Table => {
            print_line(&host.line());
            print_line("");
            let mut table = Table::new(&["FIGURE", "VALUE", "UNIT", "MIN TO MAX", "LIMIT"]);
            figures.iter().for_each(|figure| table.push(figure.cells()));
            table.print();
        }
    }
}

/// Names of the figures beyond their limits.
pub(crate) fn exceeded(figures: &[Figure]) -> Vec<&str> {
    figures.iter().filter(|figure| !figure.is_kept()).map(|figure| figure.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_above_its_limit_is_named() {
        let figures = [
            Figure::once("agent.binary", "MB", 14.0).at_most(15.0),
            Figure::once("idle.hub_memory_per_agent", "KiB", 70.0).at_most(64.0),
            Figure::once("join.rate", "joins/s", 1.0),
        ];
        assert_eq!(exceeded(&figures), ["idle.hub_memory_per_agent"]);
        assert_eq!(figures[1].json()["ok"], Value::from(false));
        assert!(figures[1].cells()[4].contains("MISSED"));
        assert!(!Figure::once("handshake.responder_rate", "/s", 3.0).at_least(4.0).is_kept());
    }

    #[test]
    fn numbers_are_as_long_as_they_are_precise() {
        assert_eq!([short(0.0), short(0.1234), short(12.34), short(1234.4)], ["0", "0.123", "12.3", "1234"]);
    }
}
