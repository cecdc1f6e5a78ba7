//! Holds the generated code and lifts, for it alone, the lints that it does not meet.

/// Version 1 of the wire format.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::missing_errors_doc,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::as_conversions,
    clippy::too_many_lines,
    reason = "generated code"
)]
#[rustfmt::skip]
#[path = "gen/blueprint.v1.rs"]
pub mod v1;

/// The bridge between a blueprint and its manager, with the Blueprint Manager's names and numbers.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::missing_errors_doc,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::as_conversions,
    clippy::too_many_lines,
    reason = "generated code"
)]
#[rustfmt::skip]
#[path = "gen/blueprint_manager_bridge.rs"]
pub mod bridge;

/// Quality of service of blueprints, with the Blueprint SDK's names and numbers.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::missing_errors_doc,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::as_conversions,
    clippy::too_many_lines,
    reason = "generated code"
)]
#[rustfmt::skip]
#[path = "gen/qos.rs"]
pub mod qos;

/// What programs answer that give a hub machines of other clouds.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::missing_errors_doc,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::as_conversions,
    clippy::too_many_lines,
    reason = "generated code"
)]
#[rustfmt::skip]
#[path = "gen/blueprint.plugin.v1.rs"]
pub mod plugin;
