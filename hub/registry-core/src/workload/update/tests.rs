//! Updates on virtual time.
