//! The load generator's command; see `bench::apiload`.

use bench::apiload::{Measured, Options, run};
use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let results = run(&options).await?;
    if options.output == "json" {
        for result in results {
            println!("{}", result.to_json());
        }
        return Ok(());
    }
    println!("{}", Measured::header());
    for result in results {
        println!("{}", result.to_text());
    }
    Ok(())
}
