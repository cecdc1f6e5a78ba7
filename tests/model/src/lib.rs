//! Hub and agent cores on a simulated network against a naive model.
