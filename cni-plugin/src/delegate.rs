//! Running other plugins: IPAM plugins, by the same protocol.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use crate::environment::Environment;
use crate::error::{Code, Error, ErrorObject};

/// Runs the plugin with our environment and the given configuration; returns its output.
pub fn run(
    plugin: &str,
    command: &str,
    environment: &Environment,
    input: &[u8],
) -> Result<Vec<u8>, Error> {
    let program = find(plugin, environment)?;
    let fail = |what: &str, error: std::io::Error| {
        Error::new(Code::Delegate, format!("{what} {}", program.display())).with_details(error)
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "the CNI protocol is to start programs"
    )]
    let mut child = std::process::Command::new(&program)
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| fail("cannot start", error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that ends before it has read everything says why on its output.
        let _ = stdin.write_all(input);
    }
    let output = child
        .wait_with_output()
        .map_err(|error| fail("cannot wait for", error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(
        match serde_json::from_slice::<ErrorObject>(&output.stdout) {
            Ok(error) => Error {
                code: error.code,
                message: format!("{plugin}: {}", error.msg),
                details: error.details,
            },
            Err(_) => {
                let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                Error::new(
                    Code::Delegate,
                    format!("{plugin} failed with {}", output.status),
                )
                .with_details(text)
            }
        },
    )
}

/// Where in `CNI_PATH` the plugin is.
pub fn find(plugin: &str, environment: &Environment) -> Result<PathBuf, Error> {
    environment
        .path
        .iter()
        .map(|directory| directory.join(plugin))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let places: Vec<_> = environment
                .path
                .iter()
                .map(|p| p.display().to_string())
                .collect();
            Error::new(
                Code::Delegate,
                format!("there is no plugin {plugin:?} in CNI_PATH"),
            )
            .with_details(places.join(":"))
        })
}
