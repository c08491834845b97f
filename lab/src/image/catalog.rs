//! The images that the demonstration and the tests use.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::PT_INTERP;
use object::read::elf::{ElfFile64, ProgramHeader};

use super::archive::{Image, Layer, Node, RunConfig};
use super::debian::{PackageCache, PackageError};

/// The sandbox image of every node in the lab.
pub const PAUSE: &str = "docker.io/fairlead/pause:1";

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("unknown image {name:?}: one of {}", NAMES.join(", "))]
    Unknown { name: String },
    #[error(
        "no statically linked program {name:?} is in {}; build it with `make programs`",
        list(searched)
    )]
    Program {
        name: String,
        searched: Vec<PathBuf>,
    },
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("busybox does not list its commands: {detail}")]
    Busybox { detail: String },
}

fn list(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// The images that [`build`] knows, in the order of their size.
pub const NAMES: [&str; 4] = ["pause", "testserver", "busybox", "nginx"];

/// Where the parts of images come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Directories that may hold the static programs.
    pub programs: Vec<PathBuf>,
    pub packages: PackageCache,
}

impl Sources {
    /// The first program of that name that runs where there is nothing but itself: a build of the
    /// whole workspace leaves dynamically linked ones of the same names.
    fn program(&self, name: &str) -> Result<Vec<u8>, BuildError> {
        for directory in &self.programs {
            let path = directory.join(name);
            match std::fs::read(&path) {
                Ok(content) if is_static(&content) => return Ok(content),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(BuildError::File { path, source }),
            }
        }
        Err(BuildError::Program {
            name: name.to_owned(),
            searched: self.programs.clone(),
        })
    }
}

/// Whether an ELF program names no interpreter, which an image of one file does not have.
fn is_static(program: &[u8]) -> bool {
    let Ok(file) = ElfFile64::<Endianness>::parse(program) else {
        return false;
    };
    let endian = file.endian();
    file.elf_program_headers()
        .iter()
        .all(|header| header.p_type(endian) != PT_INTERP)
}

/// Builds one image and writes it to `DIRECTORY/NAME.tar`.
pub fn build(name: &str, sources: &Sources, directory: &Path) -> Result<PathBuf, BuildError> {
    let image = match name {
        "pause" => pause(sources)?,
        "testserver" => testserver(sources)?,
        "busybox" => busybox(sources)?,
        "nginx" => nginx(sources)?,
        other => {
            return Err(BuildError::Unknown {
                name: other.to_owned(),
            });
        }
    };
    let path = directory.join(format!("{name}.tar"));
    let unfinished = directory.join(format!(".{name}.tar.{}", std::process::id()));
    write(&image, directory, &unfinished, &path).map_err(|source| BuildError::File {
        path: path.clone(),
        source,
    })?;
    Ok(path)
}

/// A reader never sees half an archive.
fn write(image: &Image, directory: &Path, unfinished: &Path, path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    image.write(BufWriter::new(File::create(unfinished)?))?;
    std::fs::rename(unfinished, path)
}

/// What every root file system has: accounts, name resolution, a place for temporary files.
fn base() -> Layer {
    let mut layer = Layer::default();
    layer
        .file("etc/passwd", 0o644, *b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n")
        .file("etc/group", 0o644, *b"root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n")
        .file("etc/nsswitch.conf", 0o644, *b"passwd: files\ngroup: files\nhosts: files dns\n")
        .directory("root", 0o700)
        .directory("tmp", 0o1777)
        .directory("var/tmp", 0o1777);
    layer
}

fn pause(sources: &Sources) -> Result<Image, BuildError> {
    let mut layer = Layer::default();
    layer.file("pause", 0o755, sources.program("pause")?);
    let run = RunConfig {
        entrypoint: vec!["/pause".to_owned()],
        user: Some("65535:65535".to_owned()),
        ..RunConfig::default()
    };
    Ok(Image {
        references: vec![PAUSE.to_owned()],
        layer,
        run,
    })
}

fn testserver(sources: &Sources) -> Result<Image, BuildError> {
    let mut layer = base();
    layer.file("testserver", 0o755, sources.program("testserver")?);
    let run = RunConfig {
        entrypoint: vec!["/testserver".to_owned()],
        exposed_ports: ["8080/tcp", "8081/udp", "8082/tcp"]
            .map(str::to_owned)
            .to_vec(),
        ..RunConfig::default()
    };
    let references = [
        "docker.io/fairlead/testserver:1",
        "docker.io/fairlead/testserver:2",
    ];
    Ok(Image {
        references: references.map(str::to_owned).to_vec(),
        layer,
        run,
    })
}

fn busybox(sources: &Sources) -> Result<Image, BuildError> {
    let mut layer = base();
    add_busybox(sources, &mut layer)?;
    let run = RunConfig {
        command: vec!["sh".to_owned()],
        ..RunConfig::default()
    };
    Ok(Image {
        references: vec!["docker.io/library/busybox:latest".to_owned()],
        layer,
        run,
    })
}

/// The program and a link for each of its commands that nothing else in the layer provides.
fn add_busybox(sources: &Sources, layer: &mut Layer) -> Result<(), BuildError> {
    let root = temporary_directory()?;
    sources.packages.unpack(&["busybox-static"], root.path())?;
    let program = ["bin/busybox", "usr/bin/busybox"]
        .map(|path| root.path().join(path))
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| BuildError::Busybox {
            detail: "the package has no busybox".to_owned(),
        })?;
    let content = std::fs::read(&program).map_err(|source| BuildError::File {
        path: program.clone(),
        source,
    })?;
    layer.file("bin/busybox", 0o755, content);
    for command in busybox_commands(&program)? {
        if command != "bin/busybox" {
            layer.symlink(&command, "/bin/busybox");
        }
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "only busybox knows which commands it was built with"
)]
fn busybox_commands(program: &Path) -> Result<Vec<String>, BuildError> {
    let output = std::process::Command::new(program)
        .arg("--list-full")
        .output()
        .map_err(|error| BuildError::Busybox {
            detail: error.to_string(),
        })?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

const NGINX_CONF: &str = "\
user www-data;
worker_processes 1;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /var/log/nginx/access.log;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
";

const NGINX_SITE: &str = "\
server {
    listen 80;
    listen [::]:80;
    server_name localhost;
    location / {
        root /usr/share/nginx/html;
        index index.html index.htm;
    }
}
";

const NGINX_PAGE: &str = "\
<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body><h1>Welcome to nginx!</h1></body>
</html>
";

/// nginx laid out as its users know the image: sites in `/etc/nginx/conf.d`, pages in
/// `/usr/share/nginx/html`, logs on the container's standard streams, a shell for looking around.
fn nginx(sources: &Sources) -> Result<Image, BuildError> {
    let root = temporary_directory()?;
    let packages = sources.packages.with_libraries("nginx")?;
    let packages: Vec<&str> = packages
        .iter()
        .map(String::as_str)
        .chain(["nginx-common"])
        .collect();
    sources.packages.unpack(&packages, root.path())?;
    let mut layer = base();
    add_busybox(sources, &mut layer)?;
    layer
        .tree(root.path(), &wanted)
        .map_err(|source| BuildError::File {
            path: root.path().to_owned(),
            source,
        })?;
    layer
        .merge_usr()
        .file("etc/nginx/nginx.conf", 0o644, NGINX_CONF)
        .file("etc/nginx/conf.d/default.conf", 0o644, NGINX_SITE)
        .file("usr/share/nginx/html/index.html", 0o644, NGINX_PAGE)
        .symlink("var/log/nginx/access.log", "/dev/stdout")
        .symlink("var/log/nginx/error.log", "/dev/stderr")
        .directory("var/lib/nginx", 0o755)
        .directory("run", 0o755)
        .add(
            "var/run",
            Node::Symlink {
                target: "/run".to_owned(),
            },
        );
    let run = RunConfig {
        command: ["nginx", "-g", "daemon off;"].map(str::to_owned).to_vec(),
        exposed_ports: vec!["80/tcp".to_owned()],
        stop_signal: Some("SIGQUIT".to_owned()),
        ..RunConfig::default()
    };
    // Two tags, so that there is something to update to.
    let references = [
        "docker.io/library/nginx:latest",
        "docker.io/library/nginx:stable",
    ];
    Ok(Image {
        references: references.map(str::to_owned).to_vec(),
        layer,
        run,
    })
}

/// What an image of the packages' programs needs at run time.
fn wanted(path: &str) -> bool {
    const UNWANTED: [&str; 9] = [
        "usr/share/doc",
        "usr/share/man",
        "usr/share/lintian",
        "usr/share/locale",
        "usr/share/bug",
        "usr/lib/x86_64-linux-gnu/gconv",
        "usr/lib/x86_64-linux-gnu/audit",
        "etc/init.d",
        "etc/nginx/sites-enabled",
    ];
    let inside = |directory: &str| {
        path.strip_prefix(directory)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    !UNWANTED.iter().any(|directory| inside(directory))
        && !path.starts_with("lib/systemd")
        && !path.starts_with("usr/lib/systemd")
}

fn temporary_directory() -> Result<tempfile::TempDir, BuildError> {
    tempfile::tempdir().map_err(|source| BuildError::File {
        path: std::env::temp_dir(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(programs: &Path) -> Sources {
        Sources {
            programs: vec![programs.to_owned()],
            packages: PackageCache::new(programs.join("packages")),
        }
    }

    #[test]
    fn an_unknown_image_is_refused_with_the_names_that_exist() {
        let directory = tempfile::tempdir().unwrap();
        let error = build("nginz", &sources(directory.path()), directory.path()).unwrap_err();
        assert!(error.to_string().contains("pause, testserver"), "{error}");
    }

    #[test]
    fn a_missing_program_says_how_to_build_it() {
        let directory = tempfile::tempdir().unwrap();
        let error = build("pause", &sources(directory.path()), directory.path()).unwrap_err();
        assert!(error.to_string().contains("make programs"), "{error}");
    }

    /// An x86-64 program with segments of these types and nothing in them (elf.h).
    fn elf(segments: &[u32]) -> Vec<u8> {
        let mut program = b"\x7fELF\x02\x01\x01".to_vec();
        program.resize(16, 0);
        program.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        program.extend(0_u64.to_le_bytes());
        program.extend(64_u64.to_le_bytes());
        program.extend([0; 12]);
        program.extend([64, 0, 56, 0, segments.len() as u8, 0, 64, 0, 0, 0, 0, 0]);
        for kind in segments {
            program.extend(kind.to_le_bytes());
            program.extend([0; 52]);
        }
        program
    }

    #[test]
    fn a_program_that_needs_a_loader_is_passed_over_for_a_static_one() {
        let directory = tempfile::tempdir().unwrap();
        let [debug, release] = ["debug", "release"].map(|name| directory.path().join(name));
        for profile in [&debug, &release] {
            std::fs::create_dir(profile).unwrap();
        }
        std::fs::write(debug.join("pause"), elf(&[1, PT_INTERP])).unwrap();
        let both = Sources {
            programs: vec![debug, release.clone()],
            packages: PackageCache::new(directory.path().join("packages")),
        };
        assert!(matches!(
            both.program("pause"),
            Err(BuildError::Program { .. })
        ));
        std::fs::write(release.join("pause"), elf(&[1])).unwrap();
        assert_eq!(both.program("pause").unwrap(), elf(&[1]));
    }

    #[test]
    fn a_built_archive_stands_alone_in_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("pause"), elf(&[1])).unwrap();
        let images = directory.path().join("images");
        let path = build("pause", &sources(directory.path()), &images).unwrap();
        assert_eq!(path, images.join("pause.tar"));
        assert_eq!(std::fs::read_dir(&images).unwrap().count(), 1);
    }

    #[test]
    fn documentation_stays_out_of_images() {
        assert!(!wanted("usr/share/doc"));
        assert!(!wanted("usr/share/doc/nginx/README"));
        assert!(wanted("usr/share/documents"));
        assert!(wanted("usr/sbin/nginx"));
    }
}
