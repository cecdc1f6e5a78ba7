//! The segment splitter and merger against a naive model.

mod bench;
mod bodies;
mod merge;
mod model;
mod split;
