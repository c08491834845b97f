//! What the commands do: each wires library parts together and tells people how it goes.

mod bgp;
mod client;
mod image;
mod lab;
mod network;
mod node;
mod observed;
mod part;
mod policy;
mod process;
mod running;
mod server;
mod token;
mod trace;

use std::process::ExitCode;

use crate::cli::Command;

pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Lab(command) => lab::run(command),
        Command::LabPlace(place) => lab::start_place(&place),
        Command::LabInit(place) => lab::init(&place),
        Command::LabRegistry(options) => lab::serve_registry(options),
        Command::Join(options) => node::run(options),
        Command::Server(options) => server::run(options),
        Command::Apiserver(options) => server::run_apiserver(options),
        Command::Up(options) => node::up(options),
        Command::Token(command) => token::run(command),
        Command::Scheduler(options) => part::scheduler(&options),
        Command::Controllers(options) => part::controllers(&options),
        Command::Kubelet(options) => node::alone::run(options),
        Command::Proxy(options) => part::proxy(&options),
        Command::Bgp(options) => bgp::run(options),
        Command::Network(options) => network::run(options),
        Command::Vxlan(options) => network::vxlan(&options),
        Command::Doctor(options) => network::doctor(&options),
        Command::Dns(options) => part::dns(&options),
        Command::Policy(options) => policy::run(options),
        Command::Flows(options) => policy::flows(&options),
        Command::Trace(options) => trace::trace(&options),
        Command::Image(command) => image::run(command),
    }
}
