//! The committed code under `src/gen` is what the `.proto` files say.

use std::path::Path;
use std::{env, fs};

use prost::Message;

const SOURCES: [&str; 5] = [
    "blueprint/v1/agent.proto",
    "blueprint/v1/registry.proto",
    "blueprint/v1/launcher.proto",
    "blueprint_manager_bridge.proto",
    "qos.proto",
];

#[test]
fn the_committed_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(SOURCES, [root]).unwrap();
    fs::write(fresh.path().join("descriptors.bin"), descriptors.encode_to_vec()).unwrap();
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::SmallCodec")
        .btree_map(".qos")
        .emit_rerun_if_changed(false)
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .unwrap();

    // Plugins are served by others, so the hub's reflection does not tell of them.
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::SmallCodec")
        .emit_rerun_if_changed(false)
        .out_dir(fresh.path())
        .compile_fds(protox::compile(["blueprint/plugin/v1/provider.proto"], [root]).unwrap())
        .unwrap();

    let committed = root.join("src/gen");
    let update = env::var_os("UPDATE_GENERATED").is_some();
    for name in [
        "blueprint.v1.rs",
        "blueprint_manager_bridge.rs",
        "qos.rs",
        "descriptors.bin",
        "blueprint.plugin.v1.rs",
    ] {
        let fresh = fs::read(fresh.path().join(name)).unwrap();
        if update {
            fs::create_dir_all(&committed).unwrap();
            fs::write(committed.join(name), fresh).unwrap();
        } else {
            let found = fs::read(committed.join(name)).unwrap_or_default();
            assert!(found == fresh, "{name} is stale: run UPDATE_GENERATED=1 cargo test -p blueprint-proto");
        }
    }
}
