//! The inputs that every corpus begins with: what the exchange tests of the core do, in the language of the targets.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of test functions")]

use std::path::Path;

type Seed = (&'static str, Vec<u8>);

#[test]
#[ignore = "writes into corpus/; run it after a target reads its inputs in another way"]
fn seeds_are_written() {
    let targets = [
        ("decap", decap()),
        ("filter", filter()),
        ("split", split()),
        ("merge", merge()),
        ("frame", frame()),
        ("request", request()),
        ("chunks", chunks()),
        ("headers", headers()),
        ("answers", answers()),
        ("fields", fields()),
        ("tokens", tokens()),
    ];
    for (target, seeds) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in seeds {
            std::fs::write(folder.join(format!("seed-{name}")), bytes).unwrap();
        }
    }
}

/// Spoke A sends the hub a packet, whose datagram is then the newest genuine one.
const SEND: [u8; 4] = [7, 1, 0, 10];
const DELIVER: [u8; 2] = [3, 15];
/// A hand-over to the hub from a stranger's address; a forgery follows.
const BY_STRANGER: [u8; 3] = [0, 0, 70];
/// The same from spoke A's.
const BY_A: [u8; 3] = [0, 0, 1];

fn decap() -> Vec<Seed> {
    let first = [
        ("replay", [&SEND[..], &BY_A, &[2, 0], &BY_A, &[2, 0], &BY_STRANGER, &[2, 0]].concat()),
        ("stolen", [&SEND[..], &BY_STRANGER, &[2, 0], &DELIVER, &SEND, &DELIVER].concat()),
        ("flipped", [&SEND[..], &BY_STRANGER, &[4, 0, 0, 20, 3], &DELIVER].concat()),
        (
            "cut",
            [&SEND[..], &BY_A, &[5, 0, 0, 40], &BY_A, &[6, 0, 3, 1, 2, 3], &BY_A, &[7, 0, 20, 9]].concat(),
        ),
        ("index", [&SEND[..], &BY_A, &[8, 0, 4, 0, 0, 0, 0], &BY_A, &[8, 0, 1, 1, 0, 0, 0]].concat()),
        ("counter", [&SEND[..], &BY_A, &[9, 0, 0x20, 0], &BY_A, &[9, 0, 0x1f, 0xff]].concat()),
        ("text", [&BY_STRANGER[..], &[0, 14], b"GET / HTTP/1.1"].concat()),
        (
            "first-mac",
            [&BY_STRANGER[..], &[131, 0, 0], &[1; 8], &BY_STRANGER, &[131, 1, 0], &[2; 8]].concat(),
        ),
        ("cookie", [&[0, 2, 70, 1, 2, 0][..], &[3; 8], &DELIVER].concat()),
    ];
    let run = [2, 0, 1, 3, 0xff, 0xff, 2, 3, 2, 2, 2, 1, 2, 0];
    let odd_run = [2, 0, 70, 3, 0, 33, 2, 3, 2, 2, 131, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    let second = [
        ("run", [&SEND.repeat(4)[..], &run, &DELIVER].concat()),
        ("odd-run", [&SEND.repeat(4)[..], &odd_run, &DELIVER].concat()),
        ("roam", [&[11, 0, 5][..], &SEND, &DELIVER, &[7, 0, 1, 30], &DELIVER].concat()),
        (
            "between-spokes",
            [&[7, 1, 2, 30][..], &DELIVER, &DELIVER, &[7, 2, 1, 30], &DELIVER, &DELIVER].concat(),
        ),
        ("rekey", [&SEND[..], &[9, 255, 9, 255, 9, 255], &[7, 1, 0, 220, 9, 255, 9, 255, 9, 255]].concat()),
        ("away", [&SEND[..], &[10, 255].repeat(9), &[9, 20]].concat()),
        ("reordered", [&SEND.repeat(3)[..], &[12, 0, 12, 2, 6, 3], &DELIVER, &[6, 2], &DELIVER].concat()),
        ("flood", [&[13, 70, 255, 13, 130, 255, 12, 0][..], &DELIVER, &DELIVER].concat()),
        ("rejoin", [&SEND[..], &[15, 0], &DELIVER, &BY_A, &[2, 30], &[9, 30, 14, 1, 9, 30]].concat()),
        ("lost", [&SEND.repeat(8)[..], &[5, 7, 10, 30, 5, 7], &[9, 9]].concat()),
    ];
    [&first[..], &second[..]].concat()
}

/// Echoes are answered; no prefixes but one address each; spoke 0 may send UDP to ports 0 to 5 of spoke 1.
const UDP_GRANTED: [u8; 9] = [1, 0, 1, 1, 2, 1, 2, 0, 5];
const ANYTHING_GRANTED: [u8; 7] = [1, 0, 1, 200, 200, 1, 0];

/// A run of one packet from a spoke, whose address ends in two more than its number, to an address in 10.7.0.0/16.
fn one(sender: u8, to: u8, protocol: u8, hops: u8, body: &[u8]) -> Vec<u8> {
    [&[0, sender, 0, 0, 2, sender + 2, to, protocol, hops], body].concat()
}

fn filter() -> Vec<Seed> {
    let any = [&ANYTHING_GRANTED[..], &[0, 0]].concat();
    let with = |set_up: &[u8], runs: &[Vec<u8>]| [set_up, &runs.concat()].concat();
    let udp = |sender, to, ports: [u8; 2]| one(sender, to, 1, 0, &[20, ports[0], ports[1]]);
    let tcp = |sender, to, flags| one(sender, to, 0, 0, &[20, 1, 2, flags]);
    let echo = |sender, to, kind| one(sender, to, 2, 0, &[20, 3, 3, kind, 200]);
    let error = one(1, 2, 2, 0, &[0, 0, 0, 2, 1, 1, 1, 2, 20]);
    let nested = [1, 3, 1, 80, 16, 2, 80, 24, 0, 0, 8, 1, 200, 200, 1, 0, 0, 0];
    // Six packets of one flow, of which one has other ports, one another address, one no hop left.
    let flow = [
        0, 0, 7, 5, 2, 2, 3, 1, 0, 60, 1, 2, 0, 0, 0, 0, 1, 23, 4, 0, 0, 1, 19, 4, 0, 0, 1, 8, 1, 0, 0, 0, 0,
    ];
    let large = one(0, 3, 1, 0, &[255, 1, 2]);
    let probe = one(0, 1, 2, 0, &[20, 3, 3, 0, 85]);
    let beat = one(1, 1, 2, 0, &[20, 3, 3, 0, 95, 5, 20]);
    let own = vec![6, 2, 1, 2, 1, 0, 20, 1, 2];
    let v6 = [0, 0, 0, 0, 2, 114, 115, 1, 0, 20, 1, 2, 0, 1, 0, 0, 2, 115, 114, 1, 0, 20, 2, 1];
    vec![
        ("udp", with(&UDP_GRANTED, &[udp(0, 3, [1, 2]), udp(1, 2, [2, 1]), udp(1, 2, [3, 1])])),
        ("udp-late", with(&UDP_GRANTED, &[udp(0, 3, [1, 2]), vec![7, 239, 7, 2], udp(1, 2, [2, 1])])),
        ("udp-local", with(&UDP_GRANTED, &[udp(0, 1, [1, 2]), udp(2, 1, [2, 1])])),
        ("udp-ungranted", with(&[0, 0, 0], &[udp(0, 3, [1, 2]), udp(0, 2, [1, 2])])),
        ("v6", with(&UDP_GRANTED, &[v6.to_vec()])),
        ("tcp", with(&[1, 0, 1, 1, 2, 1, 1, 0, 5], &[tcp(0, 3, 2), tcp(1, 2, 0x12), tcp(1, 2, 2)])),
        ("echo", with(&any, &[echo(0, 3, 0), echo(1, 2, 1), echo(0, 1, 0), echo(0, 1, 1)])),
        ("error", with(&UDP_GRANTED, &[udp(0, 3, [1, 2]), error])),
        ("nested", with(&nested, &[udp(0, 3, [1, 2]), udp(1, 0, [1, 2]), vec![9, 9], udp(2, 0, [1, 2])])),
        ("flow", with(&any, &[flow.to_vec()])),
        ("policy", with(&any, &[udp(0, 3, [1, 2]), vec![8, 0], udp(0, 3, [1, 2]), udp(1, 2, [2, 1])])),
        ("large", with(&any, &[beat.clone(), large.clone(), large])),
        ("own-echoes", with(&any, &[probe, beat])),
        ("own-stack", with(&any, &[own])),
        ("hops", with(&any, &[one(0, 3, 1, 2, &[20, 1, 2]), one(0, 3, 1, 3, &[20, 1, 2])])),
        ("raw", with(&any, &[[&[0, 0, 0, 0, 255, 24][..], &[0x45; 24]].concat()])),
    ]
}

/// The four kinds of superpackets and two that are none, each behind its device header.
fn split() -> Vec<Seed> {
    let superpacket = |is_v4: bool, is_tcp: bool, kind: u8, size: u16| {
        let payload = 333u16;
        let transport: u16 = if is_tcp { 20 } else { 8 };
        let length = transport + payload;
        let mut packet = if is_v4 {
            let protocol = if is_tcp { 6 } else { 17 };
            let [high, low] = (20 + length).to_be_bytes();
            vec![0x45, 0, high, low, 0, 7, 0x40, 0, 64, protocol, 0, 0, 10, 7, 0, 1, 10, 7, 0, 2]
        } else {
            let [high, low] = length.to_be_bytes();
            [&[0x60, 0, 0, 0, high, low, if is_tcp { 6 } else { 17 }, 64][..], &[0xfd; 32]].concat()
        };
        let start = u16::try_from(packet.len()).unwrap();
        packet.extend([4, 0, 0, 80]);
        if is_tcp {
            packet.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x99, 1, 0, 0, 0, 0, 0]);
        } else {
            packet.extend(length.to_be_bytes());
            packet.extend([0, 0]);
        }
        packet.extend((0..payload).map(|at| at.to_le_bytes()[0]));
        let offset: u16 = if is_tcp { 16 } else { 6 };
        let numbers = [0, size, start, offset].map(u16::to_ne_bytes).concat();
        [&[1, kind][..], &numbers, &packet].concat()
    };
    vec![
        ("tcp4", superpacket(true, true, 1, 100)),
        ("tcp4-ecn", superpacket(true, true, 0x81, 111)),
        ("tcp6", superpacket(false, true, 4, 100)),
        ("udp4", superpacket(true, false, 5, 100)),
        ("udp6", superpacket(false, false, 5, 333)),
        ("plain-tcp4", superpacket(true, true, 0, 0)),
        ("plain-udp6", superpacket(false, false, 0, 0)),
    ]
}

/// Recipes for packets: flow, size, oddity and its place.
fn merge() -> Vec<Seed> {
    let flows = |flows: &[u8], odd: u8| -> Vec<u8> {
        (0..24u8)
            .zip(flows.iter().cycle())
            .flat_map(|(at, flow)| [*flow, 100, if at == 9 { odd } else { 0 }, at])
            .collect()
    };
    let raw = [255, 6, 0, 0, 0x45, 0, 0, 6, 1, 2];
    vec![
        ("one-tcp4", [&[0, 24][..], &flows(&[0], 0)].concat()),
        ("one-udp6", [&[0, 24][..], &flows(&[3], 0)].concat()),
        ("many", [&[0, 24][..], &flows(&[0, 1, 2, 3, 4, 5, 6, 7], 0)].concat()),
        ("pushed", [&[0, 24][..], &flows(&[0, 4], 1)].concat()),
        ("damaged", [&[0, 24][..], &flows(&[0, 2], 2)].concat()),
        ("bad-sum", [&[0, 24][..], &flows(&[1, 3], 3)].concat()),
        (
            "short",
            [&[0, 5, 0, 100, 0, 0, 0, 190, 0, 0, 0, 100, 0, 0, 0, 240, 0, 0, 0, 100, 0, 0][..]].concat(),
        ),
        ("limits", [&[0x5c, 24][..], &flows(&[0, 2], 0)].concat()),
        ("raw", [&[0, 4, 0, 100, 0, 0][..], &raw, &[0, 100, 0, 0]].concat()),
    ]
}

/// Bytes of a batch, how the stream is cut, and the stream.
fn frame() -> Vec<Seed> {
    let three = [0, 3, 1, 2, 3, 0, 0, 0, 1, 9, 0, 2, 7, 7];
    vec![
        ("whole", [&[0xff, 0xff, 0][..], &three].concat()),
        ("bytes", [&[0xff, 0xff, 1, 0][..], &three].concat()),
        ("small-batch", [&[0, 3, 2, 5, 9][..], &three].concat()),
        ("no-room", [&[0, 2, 1, 0][..], &three].concat()),
        ("too-long", [&[0xff, 0xff, 0][..], &three, &[0x24, 0x21, 1]].concat()),
        ("longest", [&[0xff, 0xff, 3, 80, 9, 255, 0x24, 0x20][..], &[5; 9248], &[0, 1]].concat()),
        ("many", [&[8, 0, 2, 200, 3][..], &[0, 1, 4].repeat(1100)].concat()),
    ]
}

/// How the connection is cut, and its bytes; 1 stands for the lines that admit a request.
fn request() -> Vec<Seed> {
    let texts: [(&str, &[u8]); 20] = [
        ("get", b"GET / HTTP/1.1\r\n\x01\r\n"),
        ("two", b"GET /a HTTP/1.1\r\n\x01\r\nGET /b HTTP/1.1\r\n\x01\r\n"),
        ("length", b"POST /a HTTP/1.1\r\n\x01Content-Length: 4\r\n\r\nabcdGET /b HTTP/1.1\r\n\x01\r\n"),
        ("chunked", b"POST / HTTP/1.1\r\n\x01Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\nX-A: b\r\n\r\n"),
        ("both", b"POST / HTTP/1.1\r\n\x01Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"),
        ("lengths", b"POST / HTTP/1.1\r\n\x01Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd"),
        ("old", b"GET / HTTP/1.0\r\nHost: hub\r\nConnection: keep-alive\r\n\r\n"),
        ("absolute", b"GET http://hub/x/../y?z HTTP/1.1\r\n\x01\r\n"),
        ("authority", b"CONNECT hub:443 HTTP/1.1\r\n\x01\r\n"),
        ("star", b"OPTIONS * HTTP/1.1\r\n\x01\r\n"),
        ("upgrade", b"GET / HTTP/1.1\r\n\x01Connection: upgrade\r\nUpgrade: websocket\r\n\r\nGET / HTTP/1.1\r\n\x01\r\n"),
        ("expect", b"POST / HTTP/1.1\r\n\x01Expect: 100-continue\r\nContent-Length: 1\r\n\r\na"),
        ("forged", b"GET / HTTP/1.1\r\n\x01X_Tenant_Id: a\r\nConnection: x-tenant-id\r\nForwarded: for=a\r\n\r\n"),
        ("folded", b"GET / HTTP/1.1\r\n\x01X-A: b\r\n c\r\n\r\n"),
        ("feeds", b"GET / HTTP/1.1\nHost: hub\n\n"),
        ("dots", b"GET /a/./b/../c HTTP/1.1\r\n\x01\r\n"),
        ("escapes", b"GET /%61%2e%2E%2f%c0%ae?%00 HTTP/1.1\r\n\x01\r\n"),
        ("plus", b"POST / HTTP/1.1\r\n\x01Content-Length: +1\r\n\r\na"),
        ("encodings", b"POST / HTTP/1.1\r\n\x01Transfer-Encoding: xchunked, chunked\r\n\r\n0\r\n\r\n"),
        ("empty-lines", b"\r\n\r\nGET / HTTP/1.1\r\n\x01\r\n"),
    ];
    let cut = |(name, text): (&'static str, &[u8])| (name, [&[3, 2, 30, 7][..], text].concat());
    texts.into_iter().map(cut).collect()
}

/// How it is cut, and a chunked body with what follows.
fn chunks() -> Vec<Seed> {
    let texts: [(&str, &[u8]); 8] = [
        ("one", b"4\r\nabcd\r\n0\r\n\r\n"),
        ("many", b"1\r\na\r\n02\r\nbc\r\nA\r\n0123456789\r\n00\r\n\r\nGET / HTTP/1.1\r\n\x01\r\n"),
        ("trailers", b"0\r\nX-A: b\r\nx_tenant_id: c\r\n\r\nGET / HTTP/1.1\r\n\x01\r\n"),
        ("extension", b"4;a=b\r\nabcd\r\n0\r\n\r\n"),
        ("large", b"ffffffffffffffff\r\nabcd\r\n"),
        ("too-large", b"10000000000000000\r\nabcd\r\n"),
        ("no-end", b"4\r\nabcd0\r\n\r\n"),
        ("feeds", b"4\nabcd\n0\n\n"),
    ];
    let whole = texts.map(|(name, text)| (name, [&[0][..], text].concat()));
    let pieces = [("pieces", [&[4, 0, 1, 0, 5][..], texts[1].1].concat())];
    whole.into_iter().chain(pieces).collect()
}

/// Method, version and whether it is admitted; the target; names by number or as text, and values.
fn headers() -> Vec<Seed> {
    let field =
        |name: u8, value: &str| [&[name, u8::try_from(value.len()).unwrap()][..], value.as_bytes()].concat();
    let named = |name: &str, value: &str| {
        let lengths = [255, u8::try_from(value.len()).unwrap(), u8::try_from(name.len()).unwrap()];
        [&lengths[..], name.as_bytes(), value.as_bytes()].concat()
    };
    let head = |kind: u8, target: &str, fields: &[Vec<u8>]| {
        let length = u8::try_from(target.len()).unwrap();
        [&[kind, length][..], target.as_bytes(), &fields.concat()].concat()
    };
    let all: Vec<Vec<u8>> =
        (0..40).filter(|name| ![17, 19, 21].contains(name)).map(|name| field(name, "a")).collect();
    vec![
        ("plain", head(0, "/a?b", &[field(31, "a=b"), field(33, "c")])),
        ("all-names", head(0, "/", all.get(..20).unwrap())),
        ("all-other-names", head(0, "/", all.get(25..).unwrap())),
        ("connection", head(0, "/", &[field(22, "x-tenant-id, x-a"), field(33, "b")])),
        ("websocket", head(0, "/", &[field(22, "Upgrade"), field(26, "websocket")])),
        ("grpc", head(5, "/", &[field(30, "application/grpc"), field(24, "trailers")])),
        ("named", head(1, "/%2e%2e/x", &[named("X~Tenant~Id", "a"), named("x-scopes_", "b")])),
        ("strangers", head(16, "/", &[field(19, "Bearer bpa_"), field(21, "hub")])),
    ]
}

/// The method, how the answer is cut, and the answer.
fn answers() -> Vec<Seed> {
    let of = |kind: u8, cuts: &[u8], text: &str| {
        [&[kind, u8::try_from(cuts.len()).unwrap()][..], cuts, text.as_bytes()].concat()
    };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let many = "a: b\r\n".repeat(101);
    vec![
        ("sized", of(0, &[3, 9], "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")),
        ("empty", of(0, &[], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
        ("until-close", of(0, &[], "HTTP/1.0 200\r\nServer: a\r\n\r\nhello")),
        ("close", of(0, &[], "HTTP/1.1 200 OK\r\nConnection: a, Close\r\nContent-Length: 1\r\n\r\nx")),
        ("to-head", of(1, &[], "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")),
        ("no-content", of(0, &[], "HTTP/1.1 204 No Content\r\n\r\n")),
        ("interim", of(0, &[], "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")),
        ("upgrade", of(0, &[], "HTTP/1.1 101 \r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n")),
        (
            "chunks",
            of(
                0,
                &[0],
                &format!("{chunked}5\r\nhello\r\n00A;x=\"y\"  \r\n, world!!!\r\n0\r\nX-Sum: 7\r\n\r\nnext"),
            ),
        ),
        ("chunks-cut", of(0, &[40, 1], &format!("{chunked}ff\r\nhello"))),
        ("chunk-too-long", of(0, &[], &format!("{chunked}5\r\nhello!\r\n0\r\n\r\n"))),
        ("chunk-plus", of(0, &[], &format!("{chunked}+5\r\nhello\r\n0\r\n\r\n"))),
        ("long-size", of(0, &[255], &format!("{chunked}5;{}", "a".repeat(4200)))),
        ("trailer-bad", of(0, &[], &format!("{chunked}0\r\nX : 1\r\n\r\n"))),
        ("trailers-many", of(0, &[], &format!("{chunked}0\r\n{many}\r\n"))),
        ("fields-many", of(0, &[], &format!("HTTP/1.1 200 OK\r\n{many}\r\n"))),
        ("both", of(0, &[], "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")),
        ("two-lengths", of(0, &[], "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello")),
        ("old-chunked", of(0, &[], "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("bare-line-feed", of(0, &[], "HTTP/1.1 200 OK\nContent-Length: 0\n\n")),
        ("folded", of(0, &[], "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n")),
        ("no-status", of(0, &[], "HTTP/1.1 0200 OK\r\n\r\n")),
    ]
}

/// The kind, the headers of the key, and those of the client.
fn fields() -> Vec<Seed> {
    let field =
        |name: u8, value: &str| [&[name, u8::try_from(value.len()).unwrap()][..], value.as_bytes()].concat();
    let named = |name: &str, value: &str| {
        let lengths = [255, u8::try_from(name.len()).unwrap()];
        [&lengths[..], name.as_bytes(), &[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
    };
    let of = |bound: &[Vec<u8>], sent: &[Vec<u8>]| {
        [&[0, u8::try_from(bound.len()).unwrap()][..], &bound.concat(), &sent.concat()].concat()
    };
    let ours: Vec<Vec<u8>> = [12, 21, 22, 4, 34, 18, 8].iter().map(|name| field(*name, "evil")).collect();
    vec![
        ("plain", of(&[], &[field(32, "b"), named("x_plan", "c")])),
        (
            "bound",
            of(&[named("x-plan", "gold"), field(0, "acme"), field(3, "Acme")], &[named("X.Plan", "free")]),
        ),
        ("bound-of-ours", of(&ours, &[field(33, "a")])),
        ("bound-unfolded", of(&[named("x_plan", "gold"), named("X-Plan", "gold"), named("plan", "a")], &[])),
        ("bound-breaks", of(&[named("x-a\r\nx-b", "c"), named("x-c", "d\r\nx-e: f")], &[])),
        ("bound-not-ascii", of(&[named("x-plan", "g\u{f6}ld")], &[named("x-plan", "free")])),
        (
            "bound-customer",
            of(&[field(18, "u7"), field(39, "m"), named("x-tenant-plan", "p")], &[field(18, "me")]),
        ),
        ("connection", of(&[named("x-plan", "gold")], &[field(22, "x-plan, x-a"), field(33, "b")])),
        ("websocket", of(&[], &[field(22, "Upgrade"), field(26, "websocket")])),
        (
            "all-names",
            of(
                &[],
                &(0..40)
                    .filter(|name| ![17, 19, 21].contains(name))
                    .map(|name| field(name, "a"))
                    .collect::<Vec<_>>(),
            ),
        ),
    ]
}

/// The kind, and what it takes.
fn tokens() -> Vec<Seed> {
    let of = |kind: u8, rest: &[u8]| [&[kind][..], rest].concat();
    vec![
        ("bearer", of(0, b"bpa_0123456789abcdef_0123456789abcdef0123456789abcdef")),
        ("api-key", of(0, b"ak_Zm9vYmFyMTI.Zm9vYmFyMTJmb29iYXIxMmZvb2Jh")),
        ("sealed", of(1, &[0, 40, 0, 0, 80, 1])),
        ("sealed-end", of(1, &[1, 200, 3, b'A'])),
        ("sealed-text", of(2, b"v4.local.AAAA")),
        ("assertion", of(3, &[0, 30, 0])),
        ("assertion-inserted", of(3, &[0, 90, 2, b'.'])),
        ("ecdsa", of(4, &[&[0, 33, 2][..], &[0x11; 32], &[1; 64]].concat())),
        ("sr25519", of(4, &[&[1, 32][..], &[2; 32], &[1; 64]].concat())),
        ("bls", of(4, &[&[2, 64][..], &[3; 64], &[1; 32]].concat())),
        (
            "settings",
            of(5, br#"{"api_key_prefix":"a_","owners":[],"rules":[{"action":"deny","paths":["/a/*"]}]}"#),
        ),
        ("oauth", of(5, br#"{"oauth":{"allowed_issuers":["i"],"public_keys_pem":["x"]}}"#)),
        ("jwks", of(5, br#"{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"AA","y":"AA"}]}"#)),
        (
            "claims",
            of(
                5,
                br#"{"service_id":[42,0],"blueprint":7,"expires_at":1,"issued_at":0,"key_id":"k","jti":"j"}"#,
            ),
        ),
        ("bound", of(6, b"\x09\x04tenant-idAcme\x04\x04planGold")),
        ("hex", of(7, b"0xAbCd")),
    ]
}
