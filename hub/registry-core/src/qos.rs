//! Durable history of quality of service: rows of minutes and hours, objectives, and months of them.
//!
//! ```text
//!   samples of agents ---> Book ---(a batch)---> store: rows of minutes and hours ---> curves, Report
//!   what the hub sees ---> Sight --^
//! ```
//!
//! What an agent measured and what the hub saw are two things. A row counts samples by the minute in which they were
//! taken, whenever they come. It counts the time that the hub saw something up or down while it ran; the rest of the
//! time is what agents measured and said later, or unknown, and never up by itself.
//!
//! Invariants:
//! - a sample counts once, however often it comes;
//! - a minute has no more than 60 s of seen time, whatever the clock does;
//! - everything in memory has a bound, and what is left out is counted with a reason.

mod book;
mod clock;
mod curve;
mod desk;
mod month;
mod objective;
mod page;
mod report;
mod row;
mod sight;
mod store;

pub use book::{Batch, Book, LeftOut, MAX_MARKS};
pub use clock::{ClockDoubt, ClockWatch};
pub use curve::{CurvePoint, DEFAULT_POINTS, MAX_POINTS, thin};
pub use desk::{Curve, HistoryAsk, QosDesk, QosError, ServiceUse, Standing, StandingCode};
pub use month::{Month, ParseMonthError};
pub use objective::{Budget, Objective, ObjectiveOf, ObjectiveRecord, ParseObjectiveError};
pub use page::{MAX_ENTRIES, MAX_TEXT, entries};
pub use report::{Line, Report, ReportDay, ReportOf, Verdict, percent_text, seconds_text};
pub use row::{Last, Mark, Row, Seen, Step, Subject, hundredths, percent};
pub use sight::{Sight, State, runs};
pub use store::{Keep, PagePoint, Past, Pruned, QosRows, QosStore, Written};

#[cfg(test)]
mod tests;
