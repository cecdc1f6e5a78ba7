//! Client, proxy and service agree where every request ends, or there is none.

use crate::case::Bench;
use crate::framing_table::{BODIES, HEADS, LENGTHS};
use crate::upstream::Kind;

async fn nothing_is_smuggled(kind: Kind) {
    let Some(mut bench) = Bench::new(kind).await else { return };
    for (number, case) in LENGTHS.iter().chain(BODIES).chain(HEADS).enumerate() {
        bench.play(number, case).await;
    }
    bench.finish("framing");
}

#[test]
fn the_table_is_as_long_as_promised() {
    assert!(LENGTHS.len() + BODIES.len() + HEADS.len() >= 60);
}

#[tokio::test]
async fn nothing_is_smuggled_to_nginx() {
    nothing_is_smuggled(Kind::Nginx).await;
}

#[tokio::test]
async fn nothing_is_smuggled_to_node() {
    nothing_is_smuggled(Kind::Node).await;
}

#[tokio::test]
async fn nothing_is_smuggled_to_python() {
    nothing_is_smuggled(Kind::Python).await;
}

#[tokio::test]
async fn nothing_is_smuggled_to_hyper() {
    nothing_is_smuggled(Kind::Hyper).await;
}
