//! Compiles the protocol files without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/cri.proto",
        "proto/containerd_events.proto",
        "proto/health.proto",
        "proto/csi.proto",
        "proto/pluginregistration.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
