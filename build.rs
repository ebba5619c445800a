//! Compiles `proto/` once: stubs for Rust, and the descriptor set that reflection serves. No protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

const FILES: &[&str] = &[
    "steadfast/common/v1/common.proto",
    "steadfast/registry/v1/registry.proto",
    "steadfast/registry/v1/refresh.proto",
    "steadfast/registry/v1/icon.proto",
    "steadfast/registry/v1/bundle.proto",
    "steadfast/schema/v1/schema.proto",
    "steadfast/watch/v1/watch.proto",
    "steadfast/watch/v1/nodes.proto",
    "steadfast/saga/v1/definition.proto",
    "steadfast/saga/v1/saga.proto",
    "steadfast/drift/v1/resource.proto",
    "steadfast/drift/v1/drift.proto",
    "steadfast/drift/v1/policy.proto",
    "steadfast/admin/v1/server.proto",
    "steadfast/admin/v1/schedule.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(FILES)?;
    // Encoded by the compiler itself: the Rust descriptor types drop custom options such as `required_role`.
    fs::write(
        out.join("descriptor_set.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".steadfast.watch.v1")
        .bytes(".steadfast.registry.v1")
        // In the order of their keys: the same answer is the same bytes, whichever process gives it.
        .btree_map(".steadfast.registry.v1")
        .btree_map(".steadfast.common.v1")
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
