//! Images without a registry.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Image archives
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Imports an image archive into this machine's runtime
    #[command(after_help = "Example:\n  fairlead image load nginx.tar")]
    Load(ImageLoad),
    /// Builds the project's images from Debian packages and static programs
    #[command(after_help = "Example:\n  fairlead image build --output images\n  \
                            fairlead image build nginx --output images")]
    Build(ImageBuild),
}

#[derive(Debug, Args)]
pub(crate) struct ImageLoad {
    /// A docker or OCI archive, as `docker save` writes it
    #[arg(required = true)]
    pub(crate) archives: Vec<PathBuf>,
    /// The socket of the container runtime
    #[arg(
        long,
        default_value = "/run/containerd/containerd.sock",
        value_name = "SOCKET"
    )]
    pub(crate) container_runtime: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ImageBuild {
    /// pause, testserver, busybox, nginx; all when not given
    pub(crate) names: Vec<String>,
    /// Where the archives go; `images` beside this program when not given
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Where the static programs are; beside this program when not given
    #[arg(long, value_name = "DIR")]
    pub(crate) programs: Option<PathBuf>,
    /// Where downloaded packages are kept
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/cache/fairlead/packages"
    )]
    pub(crate) packages: PathBuf,
}
