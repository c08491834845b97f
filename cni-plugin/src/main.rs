//! `fairlead-cni`: the plugin as runtimes execute it.

use std::io::{Read, Write};
use std::process::ExitCode;

use cni_plugin::Plugin;

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_none() {
        eprintln!(
            "fairlead-cni {} is a CNI plugin: a container runtime starts it.\n\
             It speaks versions {} of the specification.",
            env!("CARGO_PKG_VERSION"),
            cni_plugin::version::Version::supported().join(", ")
        );
    }
    let mut input = Vec::new();
    if let Err(error) = std::io::stdin().read_to_end(&mut input) {
        eprintln!("fairlead-cni: cannot read standard input: {error}");
    }
    let plugin = Plugin::named(std::env::args_os().next().as_deref());
    let answer = cni_plugin::answer(plugin, |name| std::env::var_os(name), &input);
    let mut stdout = std::io::stdout();
    if let Err(error) = stdout
        .write_all(&answer.output)
        .and_then(|()| stdout.flush())
    {
        eprintln!("fairlead-cni: cannot write the result: {error}");
        return ExitCode::FAILURE;
    }
    if let Some(deferred) = answer.deferred
        && let Err(error) = deferred.detach()
    {
        eprintln!("fairlead-cni: the interface is left to the next DEL or GC: {error}");
    }
    if answer.success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
