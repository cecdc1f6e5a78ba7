//! A report as text for people, as JSON and as CSV; each begins with a line that says what it is.

use std::fmt::Write;

use super::{Line, Report, Verdict};

/// First line of the text.
const TITLE: &str = "blueprint-hub quality of service report 1";

impl Report {
    /// Text for people. Ends with a line feed.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{TITLE}\n\n");
        let verdict = match self.verdict {
            Verdict::Met => "met",
            Verdict::Missed => "missed",
            Verdict::NotSeen => "not seen",
        };
        let whole = if self.is_whole { "" } else { " (the month is not over)" };
        let facts = [
            ("service", self.service.clone()),
            ("month", format!("{}{whole}", self.month)),
            ("hub", self.hub.clone()),
            ("made at", self.made_at.clone()),
            ("counted", format!("{} to {}", self.from, self.until)),
            ("objective", format!("{} %, {verdict}", self.objective)),
            ("availability", percent_text(self.total.availability)),
            ("seen", percent_text(self.total.coverage)),
            ("up", seconds_text(self.total.up_ms)),
            ("down", seconds_text(self.total.down_ms)),
            ("unknown", seconds_text(self.total.unknown_ms)),
            ("may be down", seconds_text(self.budget.allowed_ms)),
            ("of that left", seconds_text(self.budget.left_ms)),
        ];
        for (name, value) in facts {
            // Writing to a text does not fail.
            let _ = writeln!(out, "{name:<14}{value}");
        }
        let _ = writeln!(
            out,
            "\n{:<12}{:>14}{:>12}{:>12}{:>12}{:>10}{:>14}",
            "day", "availability", "up s", "down s", "unknown s", "cpu %", "memory MiB"
        );
        for day in &self.days {
            let line = &day.line;
            let _ = writeln!(
                out,
                "{:<12}{:>14}{:>12}{:>12}{:>12}{:>10.2}{:>14}",
                day.day,
                percent_text(line.availability),
                seconds(line.up_ms),
                seconds(line.down_ms),
                seconds(line.unknown_ms),
                line.cpu_percent,
                line.memory_bytes >> 20,
            );
        }
        out.push_str("\nUnknown is time in which the hub did not run or could not say; it counts neither as up nor as down.\n");
        out
    }

    /// JSON on several lines, without the brace that ends it, so that a signature can follow as its last field.
    ///
    /// # Errors
    ///
    /// Does not fail for any report; the format's own error is passed on.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        Ok(format!("{{\n\"report\": {},\n", serde_json::to_string_pretty(self)?))
    }

    /// CSV with a row for the whole span and one for each day. Ends with a line feed.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut out = String::from(
            "span,service,objective,availability_percent,seen_percent,up_seconds,down_seconds,unknown_seconds,samples,\
             cpu_percent,cpu_most_percent,memory_bytes,memory_most_bytes,hub,made_at,from,until\n",
        );
        let mut row = |span: &str, line: &Line| {
            let _ = writeln!(
                out,
                "{span},{},{},{},{},{},{},{},{},{:.2},{:.2},{},{},{},{},{},{}",
                self.service,
                self.objective,
                share_text(line.availability),
                share_text(line.coverage),
                seconds(line.up_ms),
                seconds(line.down_ms),
                seconds(line.unknown_ms),
                line.samples,
                line.cpu_percent,
                line.cpu_most_percent,
                line.memory_bytes,
                line.memory_most_bytes,
                self.hub,
                self.made_at,
                self.from,
                self.until,
            );
        };
        row(&self.month.to_string(), &self.total);
        for day in &self.days {
            row(&day.day, &day.line);
        }
        out
    }
}

/// Milliseconds as seconds with three decimals.
fn seconds(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

/// Thousandths of a percent as percent; nothing where there is none.
fn share_text(share: Option<u64>) -> String {
    share.map(|share| format!("{}.{:03}", share / 1000, share % 1000)).unwrap_or_default()
}

/// Thousandths of a percent as people read them.
#[must_use]
pub fn percent_text(share: Option<u64>) -> String {
    match share {
        Some(_) => format!("{} %", share_text(share)),
        None => "not seen".to_owned(),
    }
}

/// Milliseconds as people read them, in whole seconds.
#[must_use]
pub fn seconds_text(millis: u64) -> String {
    let seconds = millis / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let mut out = String::new();
    for (number, unit) in [(days, "d"), (hours, "h"), (minutes, "min")] {
        if number > 0 {
            let _ = write!(out, "{number} {unit} ");
        }
    }
    let _ = write!(out, "{} s", seconds % 60);
    out
}
