//! Files that are right, and what is said of those that are not.

use super::*;
use crate::key::tests::KEY;

fn host(name: &str, more: &str) -> String {
    format!(
        "[[host]]\nname = \"{name}\"\naddress = \"{name}.example.org\"\nhost_key = \"{KEY}\"\nidentity = \"/k/id\"\n\
         cpu = 8\nmemory_mib = 32000\ndisk_gb = 400\n{more}\n"
    )
}

fn toml(text: &str) -> Result<Inventory, Vec<String>> {
    Inventory::parse(text, Format::Toml)
}

#[test]
fn a_host_needs_little_and_is_an_offer_of_its_own() {
    let full = "port = 2222\nuser = \"ops\"\narch = \"arm64\"\ngpu = \"h100\"\ngpu_count = 2\ngpu_vram_mib = 81559\n\
                region = \"fra\"\nprice = \"0.25\"\nopen_ports = [443]\n";
    let inventory = toml(&(host("rack-1", "") + &host("rack-2", full))).unwrap();
    let [first, second] = ["rack-1", "rack-2"].map(|name| inventory.host(name).unwrap());
    assert_eq!((first.door.port, first.door.user.as_str(), first.region.as_str()), (22, "root", "own"));
    let (free, paid) = (first.offer(), second.offer());
    assert_eq!((free.on_demand, &*free.plan, free.vcpus), (Micros::ZERO, "rack-1", 8));
    assert_eq!((paid.on_demand, &*paid.region), (Micros::new(250_000), "fra"));
    assert_eq!((paid.arch, paid.gpu.map(|gpu| gpu.count())), (Arch::Arm64, Some(2)));
    assert_eq!(inventory.hosts().count(), 2);
}

#[test]
fn a_jump_host_is_named_and_found() {
    let jump = format!(
        "[[jump]]\nname = \"door\"\naddress = \"192.0.2.1\"\nhost_key = \"{KEY}\"\nidentity = \"/k/door\"\n"
    );
    let inventory = toml(&(jump + &host("rack-1", "jump = \"door\"\n"))).unwrap();
    let jump = inventory.host("rack-1").unwrap().jump.clone().unwrap();
    assert_eq!((jump.name.as_str(), jump.address.as_str()), ("door", "192.0.2.1"));
    let problems = toml(&host("rack-1", "jump = \"door\"\n")).unwrap_err();
    assert!(problems[0].contains("is no [[jump]]"), "{problems:?}");
}

#[test]
fn every_problem_is_told_with_its_line_and_what_was_expected() {
    let bad = |from: &str, to: &str| {
        let text = host("rack-1", "").replacen(from, to, 1);
        toml(&("\n\n".to_owned() + &text)).unwrap_err().join("; ")
    };
    for (from, to, said) in [
        ("rack-1.example.org", "-oProxyCommand=id", "is no host name"),
        ("rack-1.example.org", "root@rack-1", "without user"),
        ("rack-1.example.org", "a b", "is no host name"),
        (KEY, "ssh-ed25519 AAAA", "host_key is no key of a host"),
        (KEY, "SHA256:short", "host scan"),
        ("/k/id", "~/.ssh/id", "is no whole path"),
        ("/k/id", "/k/%h", "is no whole path"),
        ("/k/id", "/k/${HOME}", "is no whole path"),
        ("/k/id", "/k/a b", "is no whole path"),
        ("cpu = 8", "cpu = 0", "cpu 0 is outside 1 to 4096"),
        ("cpu = 8", "cpu = 8\nuser = \"-oX\"", "is no name to log in with"),
        ("cpu = 8", "cpu = 8\narch = \"riscv\"", "x86_64 or arm64"),
        ("cpu = 8", "cpu = 8\nprice = \"-1\"", "dollars an hour"),
        ("cpu = 8", "cpu = 8\ngpu = \"voodoo\"", "no kind that is known"),
        ("cpu = 8", "cpu = 8\nregion = \"Fra 1\"", "region"),
        ("cpu = 8", "cpu = 8\nport = 0", "port 0"),
        ("cpu = 8", "cpu = 8\nopen_ports = [0]", "open_ports"),
        ("\"rack-1\"", "\"Rack\"", "a name is 1 to 40"),
        ("cpu = 8\n", "", "missing field `cpu`"),
        ("cpu = 8", "cpus = 8", "unknown field `cpus`"),
    ] {
        let problem = bad(from, to);
        assert!(problem.contains(said) && problem.starts_with("line "), "{to}: {problem}");
    }
    assert!(bad("cpu = 8", "cpu = 0").starts_with("line 3: host \"rack-1\""));
    let two = host("rack-1", "price = \"x\"") + &host("rack-2", "arch = \"x\"");
    assert_eq!(toml(&two).unwrap_err().len(), 2);
}

#[test]
fn a_machine_is_one_host() {
    let twice = toml(&(host("rack-1", "") + &host("rack-1", "port = 23"))).unwrap_err();
    assert!(twice.iter().any(|problem| problem.contains("is there twice")), "{twice:?}");
    let same = host("rack-1", "") + &host("rack-2", "").replace("rack-2.example", "rack-1.example");
    assert!(toml(&same).unwrap_err()[0].contains("another one has its address"));
    let many: String = (0..=MAX_HOSTS).map(|number| host(&format!("h{number}"), "")).collect();
    assert!(toml(&many).unwrap_err()[0].contains("at most 128"));
}

#[test]
fn csv_says_the_same() {
    let text = format!(
        "# own machines\nname,address,host_key,identity,cpu,memory_mib,disk_gb,price,open_ports\n\
         rack-1,10.0.0.1,{KEY},/k/id,8,32000,400,,\nrack-2,10.0.0.2,{KEY},/k/id,4,16000,200,0.1,80 443\n"
    );
    let inventory = Inventory::parse(&text, Format::Csv).unwrap();
    assert_eq!(inventory.host("rack-2").unwrap().open_ports, [80, 443]);
    for (from, to, said) in [
        (",8,", ",eight,", "line 3: cpu \"eight\" is no whole number"),
        ("rack-1,", "", "line 3: has 8 values, and the first line names 9"),
        ("rack-1", "\"rack-1\"", "line 3: quotes"),
        ("10.0.0.1", "-l", "line 3: host \"rack-1\": address"),
        (",price,", ",prize,", "unknown field `prize`"),
    ] {
        let problems = Inventory::parse(&text.replacen(from, to, 1), Format::Csv).unwrap_err().join("; ");
        assert!(problems.contains(said), "{to}: {problems}");
    }
}

#[test]
fn keys_to_log_in_with_are_there_and_nobody_else_s() {
    let folder = tempfile::tempdir().unwrap();
    let (file, identity) = (folder.path().join("hosts.toml"), folder.path().join("id"));
    let error = Inventory::read(&file).unwrap_err().to_string();
    assert!(error.contains("hosts.toml") && error.contains("host scan"), "{error}");
    let text = host("rack-1", "").replace("/k/id", &identity.display().to_string());
    std::fs::write(&file, text).unwrap();
    assert!(Inventory::read(&file).unwrap_err().to_string().contains("cannot be read"));
    std::fs::write(&identity, "key").unwrap();
    std::fs::set_permissions(&identity, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(Inventory::read(&file).unwrap_err().to_string().contains("chmod 600"));
    std::fs::set_permissions(&identity, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(Inventory::read(&file).unwrap().hosts().count(), 1);
}
