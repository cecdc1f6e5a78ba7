//! A price list that is far longer than what may be held of it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::net::TcpListener;

use blueprint_common_types::Timestamp;
use blueprint_hub_price_sources::Aws;
use blueprint_hub_provider_kit::HttpClient;
use blueprint_hub_provision_core::catalogue::{Catalogue, Offer, PriceSource};

/// Bytes of rows that nobody wants.
const LONG: usize = 64 << 20;

/// Most bytes that the process may grow by meanwhile; the built-in list alone takes some.
const GROWTH: u64 = 24 << 20;

const NAMES: &str = "\"SKU\",\"TermType\",\"Unit\",\"PricePerUnit\",\"Currency\",\"Location Type\",\"Instance Type\",\"Tenancy\",\
                     \"Operating System\",\"operation\",\"CapacityStatus\",\"Pre Installed S/W\",\"Region Code\"\n";

fn row(plan: &str, price: &str, term: &str) -> String {
    format!(
        "\"S\",\"{term}\",\"Hrs\",\"{price}\",\"USD\",\"AWS Region\",\"{plan}\",\"Shared\",\"Linux\",\"RunInstances\",\"Used\",\
         \"NA\",\"us-east-1\"\n"
    )
}

/// Most bytes that this process ever had in memory.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_long_list_is_read_and_not_held() {
    let catalogue = Catalogue::embedded().unwrap();
    let here = |offer: &&Offer| &*offer.provider == "aws" && &*offer.region == "us-east-1";
    let plans: Vec<String> =
        catalogue.offers().iter().filter(here).map(|offer| offer.plan.to_string()).collect();
    drop(catalogue);
    let (first, count) = (plans.first().unwrap().clone(), plans.len());

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).unwrap();
        let lines = "\"FormatVersion\",\"v1.0\"\n\"Publication Date\",\"2026-11-18T00:00:00Z\"\n\"OfferCode\",\"AmazonEC2\"\n";
        let wanted: String = plans.iter().map(|plan| row(plan, "0.1234000000", "OnDemand")).collect();
        let other = row(&first, "0.0100000000", "Reserved");
        let times = LONG / other.len();
        let length = lines.len() + NAMES.len() + wanted.len() + other.len() * times;
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{lines}{NAMES}").unwrap();
        let many = other.repeat(100);
        for _ in 0..times / 100 {
            stream.write_all(many.as_bytes()).unwrap();
        }
        stream.write_all(other.repeat(times % 100).as_bytes()).unwrap();
        stream.write_all(wanted.as_bytes()).unwrap();
    };
    std::thread::Builder::new().name("stand-in".to_owned()).spawn(serve).unwrap();

    let aws = Aws::new(HttpClient::new(Aws::calls()).unwrap(), &endpoint, vec!["us-east-1".to_owned()]);
    let before = peak();
    let offers = aws.ask(Timestamp::from_millis(1_795_219_200_000)).await.unwrap();
    let grown = peak() - before;
    assert_eq!(offers.len(), count);
    assert!(grown < GROWTH, "{grown} bytes for a list of {LONG}");
}
