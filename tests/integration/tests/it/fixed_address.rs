//! `token create --address`: a machine with the overlay address that its operator chose.

use anyhow::Result;

use crate::fixture::{Agent, CALL, Hub, rows, text};

/// Exit codes of what was asked wrongly and of what somebody else has.
const USAGE: i32 = 2;
const CONFLICT: i32 = 5;

/// The exit code of `token create --address ADDRESS` and further options.
fn code(hub: &Hub<'_>, address: &str, options: &[&str]) -> Result<Option<i32>> {
    let arguments = [&["token", "create", "--address", address], options].concat();
    Ok(hub.command(&arguments)?.run(CALL)?.code)
}

/// Names and overlay addresses of all nodes.
fn nodes(hub: &Hub<'_>) -> Result<Vec<(String, String)>> {
    let answer = hub.json(&["node", "ls"])?;
    let node = |row| Ok((text(row, "/name")?.to_owned(), text(row, "/address_v4")?.to_owned()));
    rows(&answer, "/nodes")?.iter().map(node).collect()
}

#[test]
fn a_machine_has_the_address_of_its_token_and_nobody_else_gets_it() -> Result<()> {
    let mut hub = Hub::start(&["tunnel.overlay_v4=10.77.0.0/29"])?;
    let line = hub.join_line(&["--address", "10.77.0.3"])?;
    for outside in ["10.77.0.1", "10.77.0.7", "10.78.0.3"] {
        assert_eq!(code(&hub, outside, &[])?, Some(USAGE), "{outside}");
    }
    assert_eq!(code(&hub, "10.77.0.4", &["--uses", "2"])?, Some(USAGE), "two machines with one address");
    assert_eq!(code(&hub, "10.77.0.3", &[])?, Some(CONFLICT), "promised");

    hub.kill()?;
    hub.start_again()?;
    let _first = Agent::join(None, "first", &hub.join_line(&[])?)?;
    let _second = Agent::join(None, "second", &hub.join_line(&[])?)?;
    let _fixed = Agent::join(None, "fixed", &line)?;
    let mut found = nodes(&hub)?;
    found.sort();
    let expected = [("first", "10.77.0.2"), ("fixed", "10.77.0.3"), ("second", "10.77.0.4")];
    assert_eq!(found, expected.map(|(name, address)| (name.to_owned(), address.to_owned())));
    assert_eq!(code(&hub, "10.77.0.3", &[])?, Some(CONFLICT), "held");

    hub.json(&["node", "rm", "fixed"])?;
    let free = hub.json(&["token", "create", "--address", "10.77.0.3"])?;
    hub.json(&["token", "rm", text(&free, "/token/id")?])?;
    assert_eq!(code(&hub, "10.77.0.3", &[])?, Some(0), "a revoked token keeps nothing");
    Ok(())
}
