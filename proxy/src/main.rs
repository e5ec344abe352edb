//! The `aquifer` program: hands its arguments to the subcommand and turns the outcome into an exit
//! status.

use std::process::ExitCode;

fn main() -> ExitCode {
    aquifer::cli::main(aquifer::app::run)
}
