//! The list in the format of September 2025, names of columns and all, from a stand-in that also sends what is none.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;

use super::*;
use crate::served::served_by;

/// 2026-11-21.
const NOW: Timestamp = Timestamp::from_millis(1_795_219_200_000);

const REGION: &str = "us-east-1";

const PATH: &str = "/offers/v1.0/aws/AmazonEC2/current/us-east-1/index.csv";

/// Lines about the file.
const LINES: &str = "\"FormatVersion\",\"v1.0\"\n\
    \"Disclaimer\",\"This pricing list is for informational purposes only. All prices are subject to the additional terms\"\n\
    \"Publication Date\",\"2026-11-18T22:53:08Z\"\n\"Version\",\"20261118225308\"\n\"OfferCode\",\"AmazonEC2\"\n";

/// Names of columns.
const NAMES: &[&str] = &[
    "SKU",
    "OfferTermCode",
    "RateCode",
    "TermType",
    "PriceDescription",
    "EffectiveDate",
    "StartingRange",
    "EndingRange",
    "Unit",
    "PricePerUnit",
    "Currency",
    "RelatedTo",
    "LeaseContractLength",
    "PurchaseOption",
    "OfferingClass",
    "Product Family",
    "serviceCode",
    "Location",
    "Location Type",
    "Instance Type",
    "Current Generation",
    "Instance Family",
    "vCPU",
    "Physical Processor",
    "Clock Speed",
    "Memory",
    "Storage",
    "Network Performance",
    "Processor Architecture",
    "Storage Media",
    "Volume Type",
    "Max Volume Size",
    "Max IOPS/volume",
    "Max IOPS Burst Performance",
    "Max throughput/volume",
    "Provisioned",
    "Tenancy",
    "EBS Optimized",
    "Operating System",
    "License Model",
    "Group",
    "Group Description",
    "Transfer Type",
    "From Location",
    "From Location Type",
    "To Location",
    "To Location Type",
    "usageType",
    "operation",
    "AvailabilityZone",
    "CapacityStatus",
    "ClassicNetworkingSupport",
    "Dedicated EBS Throughput",
    "ECU",
    "Elastic Graphics Type",
    "Enhanced Networking Supported",
    "From Region Code",
    "GPU",
    "GPU Memory",
    "Instance",
    "Instance Capacity - 10xlarge",
    "instanceSKU",
    "Intel AVX2 Available",
    "Intel AVX Available",
    "Intel Turbo Available",
    "MarketOption",
    "Normalization Size Factor",
    "Physical Cores",
    "Pre Installed S/W",
    "Processor Features",
    "Product Type",
    "Region Code",
    "Resource Type",
    "serviceName",
    "SnapshotArchiveFeeType",
    "To Region Code",
    "Volume API Name",
    "VPCNetworkingSupport",
];

/// A row of a machine on demand, but for what `change` says; fields without a text have no quotes, as AWS writes it.
fn row(plan: &str, price: &str, change: &[(&str, &str)]) -> String {
    let usual = [
        ("SKU", "2223B6PCG6QAUYY6"),
        ("OfferTermCode", "JRTCKXETXF"),
        ("TermType", "OnDemand"),
        ("PriceDescription", "$0.0816 per On Demand Linux m7g.large Instance Hour, \"\"Used\"\""),
        ("EffectiveDate", "2026-11-01"),
        ("StartingRange", "0"),
        ("EndingRange", "Inf"),
        ("Unit", "Hrs"),
        ("PricePerUnit", price),
        ("Currency", "USD"),
        ("Product Family", "Compute Instance"),
        ("serviceCode", "AmazonEC2"),
        ("Location", "US East (N. Virginia)"),
        ("Location Type", "AWS Region"),
        ("Instance Type", plan),
        ("Tenancy", "Shared"),
        ("Operating System", "Linux"),
        ("License Model", "No License required"),
        ("operation", "RunInstances"),
        ("CapacityStatus", "Used"),
        ("MarketOption", "OnDemand"),
        ("Pre Installed S/W", "NA"),
        ("Region Code", REGION),
    ];
    let field = |name: &&str| {
        let of =
            |pairs: &[(&str, &str)]| pairs.iter().find(|pair| pair.0 == *name).map(|pair| pair.1.to_owned());
        of(change).or_else(|| of(&usual)).map(|text| format!("\"{text}\"")).unwrap_or_default()
    };
    NAMES.iter().map(field).collect::<Vec<_>>().join(",") + "\n"
}

fn header() -> String {
    let names: Vec<_> = NAMES.iter().map(|name| format!("\"{name}\"")).collect();
    names.join(",") + "\n"
}

/// The machines of the built-in list.
fn known() -> Vec<Offer> {
    let all = Catalogue::embedded().unwrap();
    let here = |offer: &&Offer| &*offer.provider == "aws" && &*offer.region == REGION;
    all.offers().iter().filter(here).cloned().collect()
}

/// A whole list: every machine that is known, at its known price, and then `more`.
fn list(more: &[String]) -> String {
    let price = |offer: &Offer| {
        format!("{}.{:06}0000", offer.on_demand.get() / 1_000_000, offer.on_demand.get() % 1_000_000)
    };
    let rows: String = known().iter().map(|offer| row(&offer.plan, &price(offer), &[])).collect();
    format!("{LINES}{}{rows}{}", header(), more.concat())
}

fn whole(stream: &mut TcpStream, body: &str) {
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

async fn ask(
    config: HttpConfig,
    answer: impl Fn(&mut TcpStream) + Send + 'static,
) -> Result<Vec<Offer>, ProviderError> {
    let endpoint = served_by(move |path, stream| {
        assert_eq!(path, PATH);
        answer(stream);
    });
    let http = HttpClient::new(config).unwrap();
    Aws::new(http, &endpoint, vec![REGION.to_owned()]).ask(NOW).await
}

async fn told(body: String) -> Result<Vec<Offer>, ProviderError> {
    ask(Aws::calls(), move |stream| whole(stream, &body)).await
}

#[tokio::test]
async fn of_all_rows_those_of_machines_on_demand_are_taken() {
    let plan = "m7g.large";
    let odd = |name: &'static str, text: &'static str| row(plan, "900.0000000000", &[(name, text)]);
    let more = [
        odd("TermType", "Reserved"),
        odd("Unit", "Quantity"),
        odd("Currency", "CNY"),
        odd("Location Type", "AWS Local Zone"),
        odd("Tenancy", "Dedicated"),
        odd("Tenancy", "Host"),
        odd("Operating System", "Windows"),
        odd("Operating System", "RHEL"),
        odd("operation", "RunInstances:0004"),
        odd("CapacityStatus", "UnusedCapacityReservation"),
        odd("CapacityStatus", "AllocatedCapacityReservation"),
        odd("Pre Installed S/W", "SQL Std"),
        odd("MarketOption", "CapacityBlock"),
        odd("Region Code", "us-east-2"),
        // Of two prices the dearer counts, in millionths that are never rounded down; a zero says nothing.
        row(plan, "0.0917000001", &[]),
        row(plan, "0.0000000000", &[]),
        row("m99.unheard", "0.1000000000", &[]),
    ];
    let offers = told(list(&more)).await.unwrap();
    assert_eq!(offers.len(), known().len());
    let plans: BTreeSet<_> = offers.iter().map(|offer| offer.plan.clone()).collect();
    assert_eq!(plans.len(), offers.len(), "each once");
    for before in known() {
        let offer = offers.iter().find(|offer| offer.plan == before.plan).unwrap();
        let price = if &*offer.plan == plan { 91_701 } else { before.on_demand.get() };
        assert_eq!(offer.on_demand.get(), price, "{}", offer.plan);
        let machine = |of: &Offer| (of.arch, of.vcpus, of.memory_mib, of.gpu.clone(), of.region.clone());
        assert_eq!(machine(offer), machine(&before));
        assert!(
            offer.kind == PriceKind::Live && offer.spot.is_none() && offer.as_of.to_string() == "2026-11-21"
        );
        assert_eq!(&*offer.source, "aws price list of 2026-11-18");
    }
}

#[tokio::test]
async fn what_has_no_price_is_left_out_and_a_price_of_nothing_is_told_as_that() {
    let body = list(&[]);
    let (gone, free) = ("\"m7g.large\"", "\"m7g.xlarge\"");
    let lines = body.lines().filter(|line| !line.contains(gone)).map(|line| {
        if line.contains(free) { row("m7g.xlarge", "0.0000000000", &[]) } else { format!("{line}\n") }
    });
    let offers = told(lines.collect()).await.unwrap();
    assert_eq!(offers.len(), known().len() - 1);
    let zero: Vec<_> = offers.iter().filter(|offer| offer.on_demand == Micros::ZERO).collect();
    assert!(zero.len() == 1 && &*zero[0].plan == "m7g.xlarge", "{zero:?}");
}

#[tokio::test]
async fn half_a_list_is_none() {
    for (head, word) in [
        ("Content-Length: {}\r\n", "broke off after"),
        ("Transfer-Encoding: chunked\r\n", "broke off after"),
        ("", "does not say where it ends"),
    ] {
        let error = ask(Aws::calls(), move |stream| {
            let body = list(&[]);
            let head = head.replace("{}", &body.len().to_string());
            // At the end of a row, where the half looks like a whole.
            let half = body.get(..body.len() / 2).and_then(|half| half.rsplit_once('\n')).unwrap().0;
            let _ = write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\n");
            let _ = if head.contains("chunked") {
                write!(stream, "{:x}\r\n{half}\n\r\n", half.len() + 1)
            } else {
                writeln!(stream, "{half}")
            };
        });
        let error = error.await.unwrap_err();
        assert!(error.line().contains(word), "{word}: {}", error.line());
    }
    // One that says it is whole: cut off in a row, behind one, before the names, in the middle of a field.
    let body = list(&[]);
    let cut = |at: usize| body.get(..at).unwrap().to_owned();
    let names = body.find("\"SKU\"").unwrap();
    for (half, word) in [
        (cut(body.len() - 20), "fields, and 78 were expected"),
        (cut(body.rfind("Used").unwrap()), "is cut off in record"),
        (cut(names), "no row with names of columns"),
        (String::new(), "no row with names of columns"),
        (cut(body.len() / 3).rsplit_once('\n').unwrap().0.to_owned(), "kinds of machines have a price"),
    ] {
        let error = told(half).await.unwrap_err();
        assert!(error.line().contains(word), "{word}: {}", error.line());
    }
}

#[tokio::test]
async fn a_list_that_does_not_end_is_given_up() {
    let small = || HttpConfig { max_body: 1 << 20, ..Aws::calls() };
    // Rows without end, in pieces; then one field without end.
    for (first, piece, word) in [
        (
            list(&[]).lines().take(6).map(|line| format!("{line}\n")).collect(),
            row("m7g.large", "0.1", &[]),
            "more than 1048576 bytes",
        ),
        (LINES.to_owned(), "\"".repeat(3), "more than 65536 bytes"),
    ] {
        let error = ask(small(), move |stream| {
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n",
                first.len()
            );
            while write!(stream, "{:x}\r\n{piece}\r\n", piece.len()).is_ok() {}
        });
        let error = error.await.unwrap_err();
        assert!(error.line().contains(word), "{word}: {}", error.line());
    }
    // What says at once that it is too long is not read at all.
    let error = ask(small(), |stream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n{LINES}");
        let mut byte = [0];
        let _ = std::io::Read::read(stream, &mut byte);
    });
    assert!(error.await.unwrap_err().line().contains("more than 1048576 bytes"));
    // And one that drips is given up in time.
    let soon = HttpConfig { answer_within: Duration::from_millis(300), ..Aws::calls() };
    let error = ask(soon, |stream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{LINES}");
        let mut byte = [0];
        let _ = std::io::Read::read(stream, &mut byte);
    });
    assert!(error.await.unwrap_err().line().contains("took more than 300ms"));
}

#[tokio::test]
async fn what_is_another_list_or_means_something_else_is_refused() {
    let body = list(&[]);
    let changed = |from: &str, to: &str| {
        assert!(body.contains(from), "{from}");
        body.replace(from, to)
    };
    for (body, word) in [
        (changed("\"Tenancy\"", "\"Tenure\""), "no column Tenancy"),
        (
            changed("\"PricePerUnit\"", "\"Price\"").replace("\"Region Code\"", "\"Region\""),
            "no column Region Code, PricePerUnit",
        ),
        (changed("\"AmazonEC2\"\n", "\"AmazonRDS\"\n"), "OfferCode,AmazonRDS"),
        (changed("\"v1.0\"", "\"v2.0\""), "FormatVersion,v2.0"),
        (changed("2026-11-18T", "2026-08-01T"), "published on 2026-08-01"),
        (changed("2026-11-18T", "2027-01-01T"), "published on 2027-01-01"),
        (changed("2026-11-18T", "18.11.2026 "), "does not say when"),
        (changed("\"Publication Date\"", "\"Date\""), "does not say when"),
        // A word of a column became another: nothing is wanted any more.
        (changed(",\"NA\",", ",\"None\","), "only 0 of"),
        (body.replace(&format!("\"{REGION}\""), "\"us-east-2\""), "only 0 of"),
        (list(&[row("m7g.large", "a lot", &[])]), "no number: \"a lot\""),
        (list(&["\"one\",\"two\"\n".to_owned()]), "has 2 fields, and 78 were expected"),
        ("<html><body>not found</body></html>".to_owned(), "record 1 is \"<html>"),
        ("{\"formatVersion\": \"v1.0\"}\n".to_owned(), "CSV"),
        ("\"a\"b\n".to_owned(), "CSV"),
    ] {
        let error = told(body).await.unwrap_err();
        assert!(matches!(error, ProviderError::Other { .. }), "{error:?}");
        assert!(error.line().contains(word), "{word}: {}", error.line());
    }
}

#[tokio::test]
async fn a_status_that_is_none_and_regions_that_nobody_knows_are_errors() {
    let error = ask(Aws::calls(), |stream| {
        let _ = write!(stream, "HTTP/1.1 403 Forbidden\r\nContent-Length: 12\r\n\r\nAccessDenied");
    });
    let error = error.await.unwrap_err();
    assert!(error.line().contains("status 403") && error.line().contains("AccessDenied"), "{}", error.line());
    // A refusal that does not end is not held, either.
    let error = ask(Aws::calls(), |stream| {
        let _ = write!(stream, "HTTP/1.1 500 No\r\n\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    assert!(error.await.unwrap_err().line().contains("65536"));

    let http = HttpClient::new(Aws::calls()).unwrap();
    let endpoint = served_by(|path, _| panic!("{path} is asked for"));
    for region in ["eu-north-1", "a/../b", ""] {
        let aws = Aws::new(http.clone(), &endpoint, vec![REGION.to_owned(), region.to_owned()]);
        let error = aws.ask(NOW).await.unwrap_err();
        assert!(
            matches!(error, ProviderError::Reject { .. }) && error.line().contains("us-west-2"),
            "{error}"
        );
    }
}
