//! `fairlead lab`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use comfy_table::{Table, presets};
use lab::registry::{self, Credentials, Listener};
use lab::runtime::Programs;
use lab::topology::IpFamily;
use lab::{LabStatus, Options, Settings};

use super::image::program_directory;
use super::running::{Components, block_on};
use crate::cli::{self, Lab, LabExec, LabPlace, LabRegistry, LabUp, Output};

pub(crate) fn run(command: Lab) -> anyhow::Result<ExitCode> {
    match command {
        Lab::Up(options) => up(options)?,
        Lab::Down(lab) => lab::down(&lab.name)?,
        Lab::List(list) => print_list(list.output)?,
        Lab::Exec(exec) => return run_exec(&exec),
        Lab::Load(load) => {
            for reference in lab::load(&load.name, &load.archive, &Programs::default())? {
                println!("{reference}");
            }
        }
        Lab::Stop(node) => lab::stop(&node.name, &node.node)?,
        Lab::Start(node) => lab::start(&node.name, &node.node, &std::env::current_exe()?)?,
        Lab::Cut(link) => lab::cut(&link.name, &link.from, &link.to)?,
        Lab::Heal(link) => lab::heal(&link.name, &link.from, &link.to)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(options: LabUp) -> anyhow::Result<()> {
    let fairlead = std::env::current_exe().context("cannot tell where this program lies")?;
    let images = match options.images {
        Some(images) => images,
        None => program_directory()?.join("images"),
    };
    let options = Options {
        name: options.name,
        nodes: options.nodes,
        family: match options.ip_family {
            cli::IpFamily::Ipv4 => IpFamily::Ipv4,
            cli::IpFamily::Ipv6 => IpFamily::Ipv6,
            cli::IpFamily::Dual => IpFamily::Dual,
        },
        settings: Settings {
            fairlead,
            runtime: Programs {
                directory: options.containerd,
            },
            network: cli::name(options.network),
            proxy: cli::name(options.proxy),
            server_arguments: options.server_arg,
        },
        images,
        keep_on_failure: options.keep,
        slow: options.slow,
    };
    let kubeconfig = lab::up(&options, &mut |elapsed: Duration, text: &str| {
        eprintln!("{:6.1} s  {text}", elapsed.as_secs_f32());
    })?;
    println!("KUBECONFIG={}", kubeconfig.display());
    Ok(())
}

fn print_list(output: Output) -> anyhow::Result<()> {
    let labs = lab::list();
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&labs)?),
        Output::Text if labs.is_empty() => println!("no labs; `fairlead lab up NAME` makes one"),
        Output::Text => println!("{}", table(&labs)),
    }
    Ok(())
}

fn table(labs: &[LabStatus]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["LAB", "NODE", "ROLE", "PID", "RESTARTS", "MEMORY"]);
    for lab in labs {
        for process in &lab.processes {
            table.add_row([
                lab.name.clone(),
                process.node.clone(),
                process.role.clone(),
                process.pid.to_string(),
                process.restarts.to_string(),
                format!("{:.1} MiB", process.memory_kib as f64 / 1024.0),
            ]);
        }
        let stopped = lab
            .nodes
            .iter()
            .filter(|node| !lab.processes.iter().any(|process| process.node == **node));
        for node in stopped {
            table.add_row([&lab.name, node, "stopped", "", "", ""]);
        }
    }
    table
}

/// The exit status is the command's; 128 and the signal's number when one ended it.
fn run_exec(exec: &LabExec) -> anyhow::Result<ExitCode> {
    use std::os::unix::process::ExitStatusExt;
    let status = lab::exec(&exec.name, &exec.node, &exec.command)?;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(ExitCode::from(u8::try_from(code.unwrap_or(1)).unwrap_or(1)))
}

pub(crate) fn start_place(place: &LabPlace) -> anyhow::Result<ExitCode> {
    let process = lab::place::start(&place.specification)?;
    println!("{}", serde_json::to_string(&process)?);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn init(place: &LabPlace) -> anyhow::Result<ExitCode> {
    lab::place::init(&place.specification)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn serve_registry(options: LabRegistry) -> anyhow::Result<ExitCode> {
    let any = std::net::IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED);
    let credentials = Credentials {
        user: registry::USER.to_owned(),
        password: registry::PASSWORD.to_owned(),
    };
    let listeners = vec![
        Listener {
            address: (any, registry::OPEN_PORT).into(),
            credentials: None,
        },
        Listener {
            address: (any, registry::PRIVATE_PORT).into(),
            credentials: Some(credentials),
        },
    ];
    block_on(async {
        let mut components = Components::new()?;
        let shutdown = components.shutdown();
        components.spawn(
            "registry",
            registry::run(options.directory, listeners, shutdown),
        );
        components.finish().await
    })
}
