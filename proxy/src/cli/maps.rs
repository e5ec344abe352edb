//! `aquifer maps`: what the kernel side holds, read from bpffs. Asks no proxy, needs none.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};

use crate::kernel::Pins;
use crate::kernel::report::Reader;

/// How often `--watch` looks again.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shows the maps that the kernel programs work by: enrolled pods, captured connections, listeners,
/// counters. Works without a running proxy; needs root.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which map [default: all]
    #[arg(value_enum)]
    map: Option<Which>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Print again every second, until interrupted
    #[arg(short, long)]
    watch: bool,
    /// Folder on a BPF file system in which the proxy pinned its maps
    #[arg(
        long,
        env = "AQUIFER_BPFFS",
        value_name = "DIR",
        default_value = "/sys/fs/bpf/aquifer"
    )]
    bpffs: PathBuf,
}

/// One of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// Enrolled pods: listeners, failure mode, what is not captured
    Pods,
    /// Captured connections that are open: source and original destination
    Redirects,
    /// The proxy's listeners in the pods, and whether they live
    Listeners,
    /// Counters of the kernel programs: captured, passed and dropped, by reason
    Stats,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Columns for people
    #[default]
    Table,
    /// JSON, with names that stay
    Json,
}

/// Prints the maps, once or again and again.
pub fn run(args: Args) -> anyhow::Result<()> {
    let pins = Pins::new(&args.bpffs);
    loop {
        // Opened anew each time: a proxy may have replaced the pins.
        let reader = Reader::open(&pins)?;
        let text = match args.output {
            Output::Json if args.watch => document(&reader, args.map).to_string(),
            Output::Json => serde_json::to_string_pretty(&document(&reader, args.map))?,
            Output::Table => tables(&reader, args.map),
        };
        if args.watch && args.output == Output::Table {
            // Clears the screen and goes to its upper left corner.
            print(&format!("\x1b[2J\x1b[H{text}"))?;
        } else {
            print(&text)?;
        }
        if !args.watch {
            return Ok(());
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Prints one text. A reader who has seen enough (`| head`) is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

fn document(reader: &Reader, map: Option<Which>) -> Value {
    let wanted = |which| map.is_none_or(|map| map == which);
    let mut document = json!({});
    if wanted(Which::Pods) {
        document["pods"] = json!(reader.pods());
    }
    if wanted(Which::Redirects) {
        document["redirects"] = json!(reader.redirects());
    }
    if wanted(Which::Listeners) {
        document["listeners"] = json!(reader.listeners());
    }
    if wanted(Which::Stats) {
        let stats = reader
            .stats()
            .into_iter()
            .map(|(name, count)| (name.to_owned(), json!(count)));
        document["stats"] = Value::Object(stats.collect());
    }
    document
}

fn tables(reader: &Reader, map: Option<Which>) -> String {
    let mut texts = Vec::new();
    for (which, title) in [
        (Which::Pods, "PODS (enrolled)"),
        (Which::Redirects, "REDIRECTS (open captured connections)"),
        (Which::Listeners, "LISTENERS (the proxy's, in each pod)"),
        (Which::Stats, "STATS (connections, by what became of them)"),
    ] {
        if map.is_some_and(|map| map != which) {
            continue;
        }
        let (table, empty) = match which {
            Which::Pods => pods(reader),
            Which::Redirects => redirects(reader),
            Which::Listeners => listeners(reader),
            Which::Stats => stats(reader),
        };
        let body = if empty {
            "  none".to_owned()
        } else {
            table.trim_fmt()
        };
        if map.is_some() {
            texts.push(body);
        } else {
            texts.push(format!("{title}\n{body}"));
        }
    }
    texts.join("\n\n")
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header.to_vec());
    table
}

fn list<T: ToString>(values: &[T]) -> String {
    match values {
        [] => "-".to_owned(),
        values => values
            .iter()
            .map(T::to_string)
            .collect::<Vec<_>>()
            .join(","),
    }
}

fn pods(reader: &Reader) -> (Table, bool) {
    let mut table = table(&[
        "POD",
        "COOKIE",
        "MODE",
        "SERVED",
        "OUTBOUND",
        "INBOUND",
        "ADDRESSES",
        "NOT CAPTURED",
    ]);
    let rows = reader.pods();
    for row in &rows {
        let excluded = [
            ("to ports ", list(&row.exclude_outbound_ports)),
            ("own ports ", list(&row.exclude_inbound_ports)),
            ("to ", list(&row.exclude_outbound_ranges)),
        ];
        let excluded: Vec<String> = excluded
            .iter()
            .filter(|(_, values)| values != "-")
            .map(|(what, values)| format!("{what}{values}"))
            .collect();
        table.add_row([
            row.pod.clone(),
            row.cookie.to_string(),
            match row.failure_mode {
                crate::mesh::FailureMode::Closed => "closed".to_owned(),
                crate::mesh::FailureMode::Open => "open".to_owned(),
            },
            if row.served { "yes" } else { "no" }.to_owned(),
            list(&row.outbound),
            list(&row.inbound),
            list(&row.addresses),
            if excluded.is_empty() {
                "-".to_owned()
            } else {
                excluded.join("; ")
            },
        ]);
    }
    (table, rows.is_empty())
}

fn redirects(reader: &Reader) -> (Table, bool) {
    let mut table = table(&["POD", "SOURCE", "ORIGINAL DESTINATION"]);
    let rows = reader.redirects();
    for row in &rows {
        table.add_row([
            row.pod.clone(),
            row.source.to_string(),
            row.destination.to_string(),
        ]);
    }
    (table, rows.is_empty())
}

fn listeners(reader: &Reader) -> (Table, bool) {
    let mut table = table(&["POD", "COOKIE", "DIRECTION", "FAMILY", "PORT", "LIVE"]);
    let rows = reader.listeners();
    for row in &rows {
        table.add_row([
            row.pod.clone(),
            row.cookie.to_string(),
            row.direction.to_owned(),
            row.family.to_owned(),
            row.port.to_string(),
            if row.live { "yes" } else { "no" }.to_owned(),
        ]);
    }
    (table, rows.is_empty())
}

fn stats(reader: &Reader) -> (Table, bool) {
    let mut table = table(&["COUNTER", "COUNT"]);
    for (name, count) in reader.stats() {
        table.add_row([name.to_owned(), count.to_string()]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    (table, false)
}
