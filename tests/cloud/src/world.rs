//! What there is in a fake cloud, and what goes wrong in it.

use std::time::{Duration, Instant, SystemTime};

/// What a request is for, as far as faults tell requests apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A page of the list of machines.
    List,
    /// One machine is to be made.
    Create,
    /// One machine is to be removed.
    Delete,
    /// A machine is to be switched on or off.
    Switch,
    /// A page of what is sold.
    Offers,
    /// Anything else: one machine, firewalls, keys.
    Other,
}

/// How a cloud asks for a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Throttling {
    /// Seconds in `Retry-After`.
    Seconds(u64),
    /// A date in `Retry-After`, so many seconds ahead by the cloud's clock.
    Date(u64),
    /// Seconds since 1970 in `ratelimit-reset`, so many seconds ahead by the cloud's clock.
    Reset(u64),
    /// Not at all.
    Silent,
}

impl Throttling {
    /// The pause it asks for.
    #[must_use]
    pub const fn pause(self) -> Option<Duration> {
        match self {
            Self::Seconds(seconds) | Self::Date(seconds) | Self::Reset(seconds) => {
                Some(Duration::from_secs(seconds))
            }
            Self::Silent => None,
        }
    }
}

/// How a cloud says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Too many calls.
    Throttled(Throttling),
    /// The account may have no more.
    Quota,
    /// There is none left of it.
    Capacity,
    /// It is not sold.
    NotSold,
    /// The credentials are wrong.
    Unauthorized,
    /// The credentials do not allow it.
    Forbidden,
    /// The machine is at something else.
    Busy,
    /// 500, with all that was asked repeated in the body.
    Broken,
    /// 503 from something before the cloud.
    Unavailable,
}

/// A body that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nonsense {
    /// A page for people, with status 200.
    Html,
    /// The first half of the right body.
    Truncated,
    /// The right body with texts for numbers and numbers for texts.
    WrongTypes,
    /// Nothing.
    Empty,
    /// 20 MB.
    Huge,
}

impl Nonsense {
    /// Each of them.
    pub const ALL: [Self; 5] = [Self::Html, Self::Truncated, Self::WrongTypes, Self::Empty, Self::Huge];
}

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is refused, and not done.
    Refuse(Refusal),
    /// It is done, and the answer says that it was not.
    DoAndRefuse(Refusal),
    /// It is done, and the connection breaks.
    DoAndBreak,
    /// It is not done, and the connection breaks.
    Break,
    /// It is done twice and answered once.
    Twice,
    /// It is done, and the answer is nonsense.
    Say(Nonsense),
    /// It is done, and the answer waits so long.
    Slow(Duration),
}

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// Booting.
    Starting,
    /// Running.
    On,
    /// Switched off.
    Off,
}

/// One machine of a fake cloud.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its number.
    pub id: u64,
    /// What it is called; not unique.
    pub name: String,
    /// Its tags, as the cloud writes them.
    pub tags: Vec<String>,
    /// Kind of machine.
    pub plan: String,
    /// Place.
    pub region: String,
    /// Whether it runs.
    pub power: Power,
    /// What it reads at its first boot.
    pub user_data: String,
    /// Volumes that are attached.
    pub volumes: Vec<String>,
    /// When it was made by the cloud's clock.
    pub created: SystemTime,
    /// When it was made, for how late lists are.
    pub made: Instant,
}

/// All there is, and how the cloud behaves on the whole.
#[derive(Debug)]
pub struct World {
    /// The machines, in the order they were made.
    pub machines: Vec<Machine>,
    /// Numbers of machines that were deleted.
    pub deleted: Vec<u64>,
    /// The token that is valid.
    pub token: String,
    /// How long a new machine stays out of lists.
    pub late: Duration,
    /// Most rows of a page, where that is less than the cloud's own limit.
    pub page_limit: usize,
    /// Most machines of the account.
    pub quota: usize,
    /// Seconds that the cloud's clock is ahead.
    pub skew: i64,
    /// Whether what is sold has prices that cannot be.
    pub has_absurd_prices: bool,
    /// Whether a machine is removed between the first and the second page of a list.
    pub shrinks_between_pages: bool,
    next_id: u64,
}

impl World {
    pub(crate) fn new(token: &str) -> Self {
        Self {
            machines: Vec::new(),
            deleted: Vec::new(),
            token: token.to_owned(),
            late: Duration::ZERO,
            page_limit: usize::MAX,
            quota: usize::MAX,
            skew: 0,
            has_absurd_prices: false,
            shrinks_between_pages: false,
            next_id: 1000,
        }
    }

    /// A number that nothing has.
    pub const fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The cloud's clock.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let skew = Duration::from_secs(self.skew.unsigned_abs());
        if self.skew < 0 { SystemTime::now() - skew } else { SystemTime::now() + skew }
    }

    /// Adds a machine that runs.
    pub fn add(&mut self, name: &str, tags: &[String], plan: &str, region: &str, user_data: &str) -> u64 {
        let id = self.take_id();
        let created = self.now();
        self.machines.push(Machine {
            id,
            name: name.to_owned(),
            tags: tags.to_vec(),
            plan: plan.to_owned(),
            region: region.to_owned(),
            power: Power::On,
            user_data: user_data.to_owned(),
            volumes: Vec::new(),
            created,
            made: Instant::now(),
        });
        id
    }

    /// Removes a machine; false where there is none.
    pub fn remove(&mut self, id: u64) -> bool {
        let before = self.machines.len();
        self.machines.retain(|machine| machine.id != id);
        self.deleted.push(id);
        self.machines.len() < before
    }

    /// A machine by its number.
    pub fn machine(&mut self, id: u64) -> Option<&mut Machine> {
        self.machines.iter_mut().find(|machine| machine.id == id)
    }

    /// The machines that lists show now.
    pub fn listed(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| machine.made.elapsed() >= self.late)
    }
}
