//! The `varmint` command: models from weights, what is in them, what they need, make and are worth.

mod cli;

use std::process::ExitCode;

use clap::Parser;

/// Visual AutoRegressive image models for small devices: convert, inspect, plan, run, check.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: cli::Command,
}

fn main() -> ExitCode {
    // `varmint inspect .. | head` ends quietly.
    sigpipe::reset();
    match Args::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // The whole chain on one line: what was tried, then why it failed.
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
