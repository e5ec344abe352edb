//! `aquifer maps`: what the kernel side holds, read from bpffs. Asks no proxy, needs none.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::output::{Output, table};
use crate::kernel::Pins;
use crate::kernel::report::Reader;
use crate::mesh::FailureMode;

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

/// Prints the maps, once or again and again.
pub fn run(args: Args) -> anyhow::Result<()> {
    let pins = Pins::new(&args.bpffs);
    loop {
        // Opened anew each time: a proxy may have replaced the pins.
        let reader = Reader::open(&pins)?;
        let text = match args.output {
            Output::Json if args.watch => document(&reader, args.map).to_string(),
            Output::Json => serde_json::to_string_pretty(&document(&reader, args.map))?,
            Output::Yaml => format!(
                "---\n{}",
                serde_yaml::to_string(&document(&reader, args.map))?
            ),
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

/// Prints one text. That nobody reads on ends a `--watch`, so it is an error here, of which the
/// caller of all subcommands makes none.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.trim_end().as_bytes())?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
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
        let rows = match which {
            Which::Pods => pods(reader),
            Which::Redirects => redirects(reader),
            Which::Listeners => listeners(reader),
            Which::Stats => stats(reader),
        };
        let rows = rows.unwrap_or_else(|| "  none\n".to_owned());
        texts.push(if map.is_some() {
            rows
        } else {
            format!("{title}\n{rows}")
        });
    }
    texts.join("\n")
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

fn pods(reader: &Reader) -> Option<String> {
    let rows = reader.pods();
    let lines = rows.iter().map(|row| {
        let excluded: Vec<String> = [
            ("to ports ", list(&row.exclude_outbound_ports)),
            ("own ports ", list(&row.exclude_inbound_ports)),
            ("to ", list(&row.exclude_outbound_ranges)),
        ]
        .into_iter()
        .filter(|(_, values)| values != "-")
        .map(|(what, values)| format!("{what}{values}"))
        .collect();
        [
            row.pod.clone(),
            row.cookie.to_string(),
            match row.failure_mode {
                FailureMode::Closed => "closed".to_owned(),
                FailureMode::Open => "open".to_owned(),
            },
            yes(row.served),
            list(&row.outbound),
            list(&row.inbound),
            list(&row.addresses),
            if excluded.is_empty() {
                "-".to_owned()
            } else {
                excluded.join("; ")
            },
        ]
    });
    let header = [
        "POD",
        "COOKIE",
        "MODE",
        "SERVED",
        "OUTBOUND",
        "INBOUND",
        "ADDRESSES",
        "NOT CAPTURED",
    ];
    (!rows.is_empty()).then(|| table(header, lines))
}

fn redirects(reader: &Reader) -> Option<String> {
    let rows = reader.redirects();
    let lines = rows.iter().map(|row| {
        [
            row.pod.clone(),
            row.source.to_string(),
            row.destination.to_string(),
        ]
    });
    (!rows.is_empty()).then(|| table(["POD", "SOURCE", "ORIGINAL DESTINATION"], lines))
}

fn listeners(reader: &Reader) -> Option<String> {
    let rows = reader.listeners();
    let lines = rows.iter().map(|row| {
        [
            row.pod.clone(),
            row.cookie.to_string(),
            row.direction.to_owned(),
            row.family.to_owned(),
            row.port.to_string(),
            yes(row.live),
        ]
    });
    let header = ["POD", "COOKIE", "DIRECTION", "FAMILY", "PORT", "LIVE"];
    (!rows.is_empty()).then(|| table(header, lines))
}

fn stats(reader: &Reader) -> Option<String> {
    let lines = reader
        .stats()
        .into_iter()
        .map(|(name, count)| [name.to_owned(), count.to_string()]);
    Some(table(["COUNTER", "COUNT"], lines))
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}
