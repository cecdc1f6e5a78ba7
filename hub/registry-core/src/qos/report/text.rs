//! A report as text for people, as JSON and as CSV; each begins with a line that says what it is.

use std::fmt::Write;

use super::{Line, Report, ReportOf, Verdict};

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
            (self.of.kind(), self.of.name()),
            ("month", format!("{}{whole}", self.month)),
            ("hub", self.hub.clone()),
            ("made at", self.made_at.clone()),
            ("counted", format!("{} to {}", self.from, self.until)),
            ("objective", format!("{} %, {verdict}", self.objective)),
            ("availability", percent_text(self.total.availability)),
            ("known", percent_text(self.total.coverage)),
            ("up", seconds_text(self.total.up_ms)),
            ("down", seconds_text(self.total.down_ms)),
            ("came late", self.late_text()),
            ("unreached", seconds_text(self.total.unreached_ms)),
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
            "\n{:<12}{:>14}{:>12}{:>12}{:>12}{:>12}{:>10}{:>14}",
            "day", "availability", "up s", "down s", "late s", "unknown s", "cpu %", "memory MiB"
        );
        for day in &self.days {
            let line = &day.line;
            let _ = writeln!(
                out,
                "{:<12}{:>14}{:>12}{:>12}{:>12}{:>12}{:>10.2}{:>14}",
                day.day,
                percent_text(line.availability),
                seconds(line.up_ms),
                seconds(line.down_ms),
                seconds(line.late_up_ms.saturating_add(line.late_down_ms)),
                seconds(line.unknown_ms),
                line.cpu_percent,
                line.memory_bytes >> 20,
            );
        }
        out.push_str(
            "\nLate is time that the hub did not see and that agents measured and said later; it counts as they measured it.\n\
             Unknown is time in which the hub did not run or could not say, and nobody measured; it counts neither as up nor as down.\n",
        );
        out.push_str(match &self.of {
            ReportOf::Service(_) => "Unreached is a part of down: its machine measured it healthy, and the hub could not reach it.\n",
            ReportOf::Node(..) => "Unreached is time in which the machine ran and the hub could not reach it; it counts as up.\n",
            ReportOf::Tunnel(..) => "A tunnel is measured by the hub alone.\n",
        });
        out
    }

    /// How much came late, and how much of that was down.
    fn late_text(&self) -> String {
        let Line { late_up_ms, late_down_ms, .. } = self.total;
        let all = seconds_text(late_up_ms.saturating_add(late_down_ms));
        format!("{all}, of that down {}", seconds_text(late_down_ms))
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
        let mut out = format!(
            "span,{},objective,availability_percent,seen_percent,up_seconds,down_seconds,unknown_seconds,samples,\
             cpu_percent,cpu_most_percent,memory_bytes,memory_most_bytes,hub,made_at,from,until,late_up_seconds,\
             late_down_seconds,unreached_seconds,delay_micros,loss_percent\n",
            self.of.kind()
        );
        let name = csv_text(&self.of.name());
        let mut row = |span: &str, line: &Line| {
            let _ = writeln!(
                out,
                "{span},{},{},{},{},{},{},{},{},{:.2},{:.2},{},{},{},{},{},{},{},{},{},{},{:.2}",
                name,
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
                seconds(line.late_up_ms),
                seconds(line.late_down_ms),
                seconds(line.unreached_ms),
                line.delay_micros,
                line.loss_percent,
            );
        };
        row(&self.month.to_string(), &self.total);
        for day in &self.days {
            row(&day.day, &day.line);
        }
        out
    }
}

/// A field of CSV; names of machines are their operators'.
fn csv_text(text: &str) -> String {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    if is_plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
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
