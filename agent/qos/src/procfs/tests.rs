//! Tests of the parsers on texts, and of the reader on the `/proc` of this machine.

use super::*;

#[test]
fn idle_and_disk_waits_are_not_busy() {
    let text = "cpu  10 20 30 400 50 6 7 8 90 100\ncpu0 1 1 1 1\n";
    assert_eq!(parse_cpu_times(text), Some(CpuTimes { busy: 81, total: 531 }));
}

#[test]
fn memory_in_use_leaves_out_what_is_available() {
    let text = "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\n";
    assert_eq!(parse_memory(text), Some(Memory { used: 600 * 1024, total: 1000 * 1024 }));
}

#[test]
fn loopback_is_no_network() {
    let text = "Inter-|   Receive |  Transmit\n face |bytes packets\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n\
                \x20 eth0: 100 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\nwlan0:20 1 0 0 0 0 0 0 3 1 0 0 0 0 0 0\n";
    assert_eq!(parse_network(text), Some((120, 10)));
}

#[test]
fn a_process_may_have_any_name() {
    let text = "4711 (a ) S 1) R 1 4711 4711 0 -1 4194560 100 0 0 0 25 17 3 4 20 0 1 0 123456 2500000 321 18446744073709551615";
    let expected = ProcessStat { ticks: 42, waited: 7, started: 123_456, resident_pages: 321 };
    assert_eq!(parse_process(text), Some(expected));
}

#[test]
fn damaged_files_are_refused_and_never_panic() {
    for text in
        ["", "\n\n\n", "cpu ", "cpu  x", "MemTotal:", "a\nb\nc:\n", "1 (x", "1 (x) R", ")", "é:é\né:é\né:é"]
    {
        let _ = (parse_cpu_times(text), parse_memory(text), parse_network(text), parse_process(text));
        assert!(find_listeners(&listeners(text), "127.0.0.1:80".parse().unwrap()).is_empty());
        assert_eq!(parse_hex_ip(text), None);
    }
    assert_eq!(parse_cpu_times("cpu  18446744073709551615 1 1 1"), None);
    assert_eq!(parse_hex_ip("éééé"), None);
}

#[test]
fn the_very_address_goes_before_the_wildcard_and_only_listeners_count() {
    let line = |local: &str, state: &str, inode: u32| {
        format!(
            "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0\n"
        )
    };
    let any = "00000000:1F90";
    let loopback = format!("{:08X}:1F90", u32::from_ne_bytes([127, 0, 0, 1]));
    let table = format!(
        "header\n{}{}{}{}{}",
        line(&loopback, "01", 1),
        line(any, "0A", 2),
        line(&loopback, "0A", 3),
        line("00000000:1F91", "0A", 4),
        line(any, "0A", 5)
    );
    let find = |address: &str| find_listeners(&listeners(&table), address.parse().unwrap());
    assert_eq!(find("127.0.0.1:8080"), [3]);
    assert_eq!(find("127.0.0.2:8080"), [2, 5], "they share the port");
    assert_eq!(find("127.0.0.1:8081"), [4]);
    assert!(find("127.0.0.1:8082").is_empty());
}

#[test]
fn our_own_listener_is_found_and_is_ours() {
    let proc = ProcFs::new("/proc");
    for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
        let inodes = proc.listening_inodes(listener.local_addr().unwrap(), &mut SocketTables::default());
        assert_eq!(proc.socket_owners(&inodes), [std::process::id()]);
        drop(listener);
        assert!(!proc.holds_any(std::process::id(), &inodes));
    }
}
