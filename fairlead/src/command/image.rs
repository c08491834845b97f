//! `fairlead image`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use lab::image::catalog::{self, Sources};
use lab::image::debian::PackageCache;
use lab::image::import::{self, Runtime};

use crate::cli::{Image, ImageBuild, ImageLoad};

pub(crate) fn run(command: Image) -> anyhow::Result<ExitCode> {
    match command {
        Image::Load(load) => run_load(&load),
        Image::Build(build) => run_build(build),
    }
}

fn run_load(load: &ImageLoad) -> anyhow::Result<ExitCode> {
    let runtime = Runtime::at(&load.container_runtime);
    for archive in &load.archives {
        for reference in import::load(&runtime, archive)? {
            println!("{reference}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_build(build: ImageBuild) -> anyhow::Result<ExitCode> {
    let here = program_directory()?;
    let output = build.output.unwrap_or_else(|| here.join("images"));
    let programs = match build.programs {
        Some(directory) => vec![directory],
        // A debug build of this program uses the programs of the release build.
        None => vec![here.clone(), here.join("../release")],
    };
    let sources = Sources {
        programs,
        packages: PackageCache::new(build.packages),
    };
    let all = || catalog::NAMES.map(str::to_owned).to_vec();
    let names = if build.names.is_empty() {
        all()
    } else {
        build.names
    };
    for name in names {
        let path = catalog::build(&name, &sources, &output)?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Where this program lies.
pub(crate) fn program_directory() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    Ok(program.parent().unwrap_or(Path::new("/")).to_owned())
}
