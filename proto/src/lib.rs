//! Wire messages and services between agent, hub and operator.
//!
//! The sources are `proto/blueprint/v1/*.proto` and the two protocols of the Blueprint SDK beside them; the code under `src/gen` is generated from them and
//! committed, so that no build needs a protobuf compiler. `UPDATE_GENERATED=1 cargo test -p blueprint-proto`
//! writes it anew; without the variable the same test fails where it is stale.

mod codec;
mod convert;
mod generated;

pub use codec::SmallCodec;
pub use convert::ConvertError;
pub use generated::plugin;
pub use generated::qos;
pub use generated::v1;
// The generated code of `v1` finds it under the package's name.
pub use generated::bridge as blueprint_manager_bridge;

/// Encoded descriptors of every message and service, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptors.bin");
