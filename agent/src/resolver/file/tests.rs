use super::*;

const HUB: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

fn file(text: &str) -> (tempfile::TempDir, ResolvConf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    fs::write(&path, text).unwrap();
    (folder, ResolvConf::new(path, "a1"))
}

async fn put(file: &ResolvConf, hub: Ipv4Addr) -> Result<(), ResolverError> {
    file.put(hub, |_| Ok(())).await
}

#[tokio::test]
async fn a_block_stands_first_and_leaves_the_file_as_it_was() {
    let before = "# mine\nnameserver 192.0.2.1\noptions timeout:1";
    let (_folder, file) = file(before);
    assert!(file.needs(HUB).unwrap());
    put(&file, HUB).await.unwrap();
    assert!(!file.needs(HUB).unwrap());
    let text = file.read().unwrap();
    assert_eq!(text.lines().nth(1), Some("nameserver 10.88.0.1"), "{text}");
    assert!(text.ends_with(before), "{text}");
    put(&file, HUB).await.unwrap();
    assert_eq!(file.read().unwrap(), text, "once is enough");
    put(&file, OTHER).await.unwrap();
    assert_eq!(file.read().unwrap().matches("10.").count(), 1, "a hub that moved is replaced");
    assert!(file.take_out().await.unwrap() && !file.take_out().await.unwrap());
    assert_eq!(file.read().unwrap(), before);
}

#[tokio::test]
async fn what_others_changed_meanwhile_stays_and_so_does_the_block_of_another_agent() {
    let (folder, ours) = file("nameserver 192.0.2.1\n");
    let other = ResolvConf::new(folder.path().join("resolv.conf"), "b2");
    put(&ours, HUB).await.unwrap();
    put(&other, OTHER).await.unwrap();
    let text = ours.read().unwrap() + "nameserver 192.0.2.2\n";
    fs::write(folder.path().join("resolv.conf"), text).unwrap();
    ours.take_out().await.unwrap();
    let left = ours.read().unwrap();
    assert!(
        left.contains("10.99.0.1") && left.contains("192.0.2.2") && !left.contains("10.88.0.1"),
        "{left}"
    );
    other.take_out().await.unwrap();
    assert_eq!(ours.read().unwrap(), "nameserver 192.0.2.1\nnameserver 192.0.2.2\n");
}

#[tokio::test]
async fn a_link_and_a_file_that_is_no_text_are_left_alone() {
    let (folder, file) = file("");
    fs::write(folder.path().join("resolv.conf"), [0xff, 0xfe]).unwrap();
    assert!(matches!(put(&file, HUB).await, Err(ResolverError::Strange { .. })));
    fs::remove_file(folder.path().join("resolv.conf")).unwrap();
    std::os::unix::fs::symlink("stub-resolv.conf", folder.path().join("resolv.conf")).unwrap();
    let error = put(&file, HUB).await.unwrap_err().to_string();
    assert!(error.contains("is a link to stub-resolv.conf") && error.contains("resolved"), "{error}");
}

#[tokio::test]
async fn whatever_the_file_is_the_block_goes_without_a_trace() {
    for text in
        ["", "\n", "\n\n", "a", "nameserver 192.0.2.1", "nameserver 10.88.0.1\n", "# end\r\nsearch a b\r\n"]
    {
        let (_folder, file) = file(text);
        put(&file, HUB).await.unwrap();
        file.take_out().await.unwrap();
        assert_eq!(file.read().unwrap(), text);
    }
}

#[tokio::test]
async fn what_is_kept_of_the_file_has_no_block_of_any_agent() {
    let before = "# mine\nnameserver 192.0.2.1\n";
    let (folder, ours) = file(before);
    let other = ResolvConf::new(folder.path().join("resolv.conf"), "b2");
    put(&other, OTHER).await.unwrap();
    let mut kept = String::new();
    let keep = |text: &str| {
        kept.push_str(text);
        Ok(())
    };
    ours.put(HUB, keep).await.unwrap();
    assert_eq!(kept, before);
    // What cannot be kept is not changed.
    ours.take_out().await.unwrap();
    let text = ours.read().unwrap();
    let refused = ours.put(HUB, |_| Err(ResolverError::NoDevice(HUB))).await;
    assert!(matches!(refused, Err(ResolverError::NoDevice(_))) && ours.read().unwrap() == text, "{text}");
}

#[tokio::test]
async fn agents_of_one_machine_do_not_move_before_each_other_without_end() {
    let (folder, ours) = file("nameserver 192.0.2.1\n");
    let other = ResolvConf::new(folder.path().join("resolv.conf"), "b2");
    put(&ours, HUB).await.unwrap();
    put(&other, OTHER).await.unwrap();
    assert!(!ours.needs(HUB).unwrap() && !other.needs(OTHER).unwrap());
    assert!(ours.needs(OTHER).unwrap(), "a hub that moved");
    let text = ours.read().unwrap();
    fs::write(folder.path().join("resolv.conf"), format!("nameserver 192.0.2.9\n{text}")).unwrap();
    assert!(ours.needs(HUB).unwrap() && other.needs(OTHER).unwrap(), "another server is first");
}

/// Without a lock one of two writers loses its block, or finds it again after it took it out.
#[test]
fn two_agents_that_write_at_once_keep_their_own_block_and_leave_nothing() {
    let before = "# mine\nnameserver 192.0.2.1\n";
    let (folder, ours) = file(before);
    let other = ResolvConf::new(folder.path().join("resolv.conf"), "b2");
    let write = |file: &ResolvConf, hub| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for round in 0..50 {
                put(file, hub).await.unwrap();
                assert!(!file.needs(hub).unwrap(), "round {round}: the other took our block out");
                assert!(file.take_out().await.unwrap(), "round {round}: our block was gone");
                assert!(file.needs(hub).unwrap(), "round {round}: the other brought our block back");
            }
        });
    };
    std::thread::scope(|scope| {
        let one = std::thread::Builder::new().spawn_scoped(scope, || write(&ours, HUB)).unwrap();
        write(&other, OTHER);
        one.join().unwrap();
    });
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["resolv.conf"]);
    assert_eq!(ours.read().unwrap(), before);
}
