//! Whole machines: `/v2/bare-metals`.

use http::Method;
use serde_json::{Value, json};

use super::{PER_PAGE, is_metal, name_of, says};
use crate::server::{Answer, Request};
use crate::world::{Machine, Power, World};

/// What is answered below `/v2/bare-metals`; orders are the account's.
pub(super) fn answer(world: &mut World, method: &Method, rest: &[&str], request: &Request) -> Answer {
    let shown = |machine: &Machine| json!({ "bare_metal": says::metal(machine) });
    match (method, rest) {
        (&Method::GET, []) => {
            let rows: Vec<Value> = world.listed().filter(|one| is_metal(one)).map(says::metal).collect();
            let page = says::page(request, "bare_metals", &rows, world.page_limit.min(PER_PAGE));
            if world.shrinks_between_pages && !rows.is_empty() {
                world.shrinks_between_pages = false;
                let first = world.machines.iter().find(|one| is_metal(one)).map(|machine| machine.id);
                first.map(|id| world.remove(id));
            }
            page
        }
        (&Method::GET, [id]) => match machine(world, id) {
            Some(machine) => Answer::json(200, &shown(machine)),
            None => says::not_found(),
        },
        (&Method::PATCH, [id]) => match machine(world, id) {
            Some(machine) => {
                machine.tags = says::tags(&request.json());
                Answer::json(202, &shown(machine))
            }
            None => says::not_found(),
        },
        (&Method::DELETE, [id]) => {
            let id = machine(world, id).map(|machine| machine.id);
            if id.is_some_and(|id| world.remove(id)) { Answer::empty(204) } else { says::not_found() }
        }
        (&Method::POST, [id, verb @ ("start" | "halt")]) => match machine(world, id) {
            Some(machine) => {
                machine.power = if *verb == "start" { Power::On } else { Power::Off };
                Answer::empty(204)
            }
            None => says::not_found(),
        },
        _ => says::not_found(),
    }
}

fn machine<'a>(world: &'a mut World, id: &str) -> Option<&'a mut Machine> {
    world.machines.iter_mut().find(|machine| is_metal(machine) && name_of(machine.id) == id)
}
