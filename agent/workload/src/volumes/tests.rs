use super::*;

const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 1 };

/// A user of workloads, who has nothing here.
const NEXT: u32 = 61_201;

/// The instance of a service in a slot, with a generation.
fn of(slot: u8, generation: u64) -> (Seat, u64) {
    (Seat { service: SERVICE, slot }, generation)
}

fn assigned(all: &[(Seat, u64)]) -> Assigned {
    all.iter()
        .map(|(seat, generation)| (*seat, Assignment { generation: *generation, ends: false }))
        .collect()
}

/// A node's folder of data with one volume; it belongs to whoever runs this test, which need not be root.
struct Place {
    folder: tempfile::TempDir,
    owner: u32,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("data/svc-7-1/volume-db");
        fs::create_dir_all(&volume).unwrap();
        let owner = fs::metadata(&volume).unwrap().uid();
        Self { folder, owner }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn volume(&self) -> Vec<PathBuf> {
        vec![self.data().join("svc-7-1/volume-db")]
    }

    fn text(&self) -> String {
        fs::read_to_string(self.folder.path().join(FILE)).unwrap_or_default()
    }
}

#[test]
fn a_volume_is_not_taken_away_from_another_version_that_runs() {
    let place = Place::new();
    let owner = place.owner;
    let uses = VolumeUses::default();
    let both = |slot| uses.claim(place.volume(), owner, of(slot, 3));
    let (first, second) = (both(0).unwrap(), both(1).unwrap());
    let next = || uses.claim(place.volume(), NEXT, of(0, 4));
    let error = next().unwrap_err().to_string();
    assert!(error.contains(&format!("runs as user {owner}")) && error.contains("recreate"), "{error}");
    uses.follow(&place.data(), &assigned(&[]));
    drop(first);
    assert!(next().is_err(), "the other one counts, also where it is not wanted any more");
    drop(second);
    let giving = next().unwrap();
    let again = uses.claim(place.volume(), NEXT, of(1, 5)).unwrap_err().to_string();
    assert!(again.contains("is being given"), "{again}");
    if owner != ROOT {
        assert!(uses.claim(place.volume(), owner, of(1, 5)).is_err(), "it is about to lose it");
    }
    assert!(uses.claim(place.volume(), ROOT, of(1, 5)).is_ok());
    drop(giving);
    uses.follow(&place.data(), &assigned(&[]));
    let root = uses.claim(place.volume(), ROOT, of(1, 6)).unwrap();
    assert!(next().is_err(), "root's is another's, too");
    assert!(uses.claim(place.volume(), owner, of(0, 4)).is_ok());
    drop(root);
    uses.follow(&place.data(), &assigned(&[]));
    assert!(next().is_ok());
    let uses = uses.0.lock();
    assert!(uses.running.is_empty() && uses.kept.len() == 1, "{uses:?}");
}

#[test]
fn who_used_a_volume_has_it_after_a_restart_of_the_agent_whoever_starts_first() {
    let place = Place::new();
    let (old, next) = (of(0, 3), of(1, 4));
    let wanted = assigned(&[old, next]);
    let open = || {
        let uses = VolumeUses::open(&place.data());
        uses.follow(&place.data(), &wanted);
        uses
    };
    // Whoever runs this has it; where that is root, somebody else it is given to does.
    let user = if place.owner == ROOT { 61_200 } else { place.owner };
    if place.owner == ROOT {
        std::os::unix::fs::chown(&place.volume()[0], Some(user), Some(user)).unwrap();
    }
    {
        let uses = open();
        drop(uses.claim(place.volume(), user, old).unwrap());
        // It rests between two starts.
        let refused = uses.claim(place.volume(), NEXT, next).unwrap_err().to_string();
        assert!(refused.contains(&format!("runs as user {user}")), "{refused}");
    }
    let uses = open();
    assert!(uses.claim(place.volume(), NEXT, next).is_err(), "the next agent knows");
    drop(uses.claim(place.volume(), user, old).unwrap());
    assert!(uses.claim(place.volume(), user, next).is_ok(), "as the same user they share it");
    // The old version is taken back.
    uses.follow(&place.data(), &assigned(&[next]));
    assert!(!place.text().contains("\"generation\":3"), "{}", place.text());
    drop(uses);
    let uses = VolumeUses::open(&place.data());
    uses.follow(&place.data(), &assigned(&[next]));
    assert!(uses.claim(place.volume(), NEXT, next).is_ok());
    // Nothing is left of what is not wanted.
    uses.follow(&place.data(), &assigned(&[]));
    assert_eq!(place.text(), "{\"version\":1,\"uses\":[]}");
}

#[test]
fn where_nothing_was_written_yet_the_owner_of_a_volume_has_it_for_the_oldest_version() {
    for text in [None, Some("damaged"), Some("{\"version\":2,\"uses\":[]}")] {
        let place = Place::new();
        if let Some(text) = text {
            fs::write(place.folder.path().join(FILE), text).unwrap();
        }
        let user = if place.owner == ROOT { 61_200 } else { place.owner };
        if place.owner == ROOT {
            std::os::unix::fs::chown(&place.volume()[0], Some(user), Some(user)).unwrap();
        }
        let (old, next) = (of(1, 3), of(0, 4));
        let uses = VolumeUses::open(&place.data());
        uses.follow(&place.data(), &assigned(&[old, next]));
        assert!(uses.claim(place.volume(), NEXT, next).is_err(), "{text:?}");
        assert!(uses.claim(place.volume(), user, old).is_ok(), "{text:?}");
        assert!(place.text().starts_with("{\"version\":1,\"uses\":[{\"blueprint\":7"), "{}", place.text());
        // One alone gets what is there, whoever had it before.
        uses.follow(&place.data(), &assigned(&[next]));
        assert!(uses.claim(place.volume(), NEXT, next).is_ok());
    }
}

#[test]
fn a_use_that_cannot_be_written_is_none() {
    let place = Place::new();
    let uses = VolumeUses::open(&place.data());
    // A folder in its place: root is not stopped by rights.
    fs::create_dir(place.folder.path().join("volumes.json.new")).unwrap();
    let user = place.owner;
    assert!(uses.claim(place.volume(), user, of(0, 3)).is_err());
    fs::remove_dir(place.folder.path().join("volumes.json.new")).unwrap();
    assert!(uses.claim(place.volume(), user, of(0, 3)).is_ok());
    assert!(place.text().contains("volume-db"), "{}", place.text());
}
