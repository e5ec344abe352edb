//! The `aquifer` program: hands its arguments to the subcommand and turns the outcome into an exit
//! status.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Gives memory back that was needed once (the kernel's type information at the start), and costs a
/// request less than the C library's own.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    aquifer::cli::main(aquifer::app::run, aquifer::app::authority::run)
}
