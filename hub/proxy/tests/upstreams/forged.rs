//! What a client says under a name of ours never reaches a service, in no spelling and from no place.

use crate::case::{Bench, Case};
use crate::forged_table::{FIELDS, WHOLE};
use crate::upstream::Kind;

async fn nothing_is_forged(kind: Kind) {
    let Some(mut bench) = Bench::new(kind).await else { return };
    let mut number = 0;
    for (name, fields, outcome) in FIELDS {
        let bytes = [b"POST /{n} HTTP/1.1\r\n{auth}Content-Length: 4\r\n", *fields, b"\r\nabcd"].concat();
        number += 1;
        bench.play(number, &Case { name, bytes: &bytes, outcome: *outcome }).await;
    }
    for case in WHOLE {
        number += 1;
        bench.play(number, case).await;
    }
    bench.finish("forged headers");
}

#[test]
fn the_table_is_as_long_as_promised() {
    assert!(FIELDS.len() + WHOLE.len() >= 60, "{}", FIELDS.len() + WHOLE.len());
}

#[tokio::test]
async fn nothing_is_forged_towards_nginx() {
    nothing_is_forged(Kind::Nginx).await;
}

#[tokio::test]
async fn nothing_is_forged_towards_node() {
    nothing_is_forged(Kind::Node).await;
}

#[tokio::test]
async fn nothing_is_forged_towards_python() {
    nothing_is_forged(Kind::Python).await;
}

#[tokio::test]
async fn nothing_is_forged_towards_hyper() {
    nothing_is_forged(Kind::Hyper).await;
}
