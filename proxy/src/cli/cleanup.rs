//! `aquifer cleanup`: takes everything of one proxy out of the kernel.

use std::path::PathBuf;

use super::output::print;
use crate::kernel::Pins;

/// Removes every pinned map and program of a proxy: nothing is captured from then on, whatever the
/// failure mode. A proxy that still runs keeps its open connections and gets no new ones.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder on a BPF file system in which the proxy pinned its maps and programs
    #[arg(
        long,
        env = "AQUIFER_BPFFS",
        value_name = "DIR",
        default_value = "/sys/fs/bpf/aquifer"
    )]
    bpffs: PathBuf,
}

/// Removes the pins and says how many there were.
pub fn run(args: Args) -> anyhow::Result<()> {
    let pins = Pins::new(&args.bpffs);
    let path = args.bpffs.display();
    match pins.clear()? {
        0 => print(&format!("nothing was pinned under {path}\n"))?,
        removed => print(&format!("removed {removed} pins under {path}\n"))?,
    }
    Ok(())
}
