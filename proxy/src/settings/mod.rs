//! Flags and environment, parsed once at the very top.

mod authority;
mod certificates;
mod tokens;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::dataplane::SameNode;
use crate::kernel::log::Level;
use crate::telemetry::access_log::Format;

pub use authority::Authority;
pub use certificates::{Ca, Certificates};
pub use tokens::Tokens;

/// Where the maps and links of a proxy are pinned.
#[derive(Clone, Debug, clap::Args)]
pub struct Bpffs {
    /// Folder on a bpffs where this proxy's maps and links are pinned. Two proxies on one machine
    /// need two.
    #[arg(
        long,
        value_name = "DIR",
        env = "AQUIFER_BPFFS",
        default_value = "/sys/fs/bpf/aquifer"
    )]
    pub bpffs: PathBuf,
}

/// Where a running proxy answers questions.
#[derive(Clone, Debug, clap::Args)]
pub struct Admin {
    /// Address of the proxy's admin interface. It has no authentication: keep it on loopback.
    #[arg(long, value_name = "ADDR", env = "AQUIFER_ADMIN", default_value_t = default_admin())]
    pub admin: SocketAddr,
}

fn default_admin() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 15000).into()
}

/// Settings of the node proxy.
#[derive(Clone, Debug, clap::Args)]
pub struct Run {
    /// Folder of Kubernetes manifests (YAML or JSON), watched for changes. May be given more than
    /// once.
    #[arg(
        long,
        value_name = "DIR",
        env = "AQUIFER_CONFIG",
        value_delimiter = ':',
        required = true
    )]
    pub config: Vec<PathBuf>,
    /// Name of this node: enrolled pods whose `spec.nodeName` is this or absent are local.
    #[arg(long, value_name = "NAME", env = "AQUIFER_NODE", default_value_t = hostname())]
    pub node: String,
    /// What names of Services end with.
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "AQUIFER_CLUSTER_DOMAIN",
        default_value = "cluster.local"
    )]
    pub cluster_domain: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened into this command's help")]
    pub certificates: Certificates,
    /// Folder under which the files lie that the `tls` of DestinationRules may name. May be given more
    /// than once. Without it they may name any file that the proxy can read: whoever writes rules
    /// then speaks with every key on the node.
    #[arg(
        long,
        value_name = "DIR",
        env = "AQUIFER_TLS_FILES",
        value_delimiter = ':'
    )]
    pub tls_files: Vec<PathBuf>,
    /// Authorities (PEM) that are trusted where the `tls` of a DestinationRule names none, and that
    /// vouch for servers of tokens' keys (`jwksUri`); the system's where absent.
    #[arg(long, value_name = "FILE", env = "AQUIFER_TLS_ROOTS")]
    pub tls_roots: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened into this command's help")]
    pub tokens: Tokens,
    /// How enrolled pods of this node reach each other, with --ca: by HBONE as on another node, or
    /// inside the process, where nothing is encrypted and no NetworkPolicy sees it.
    #[arg(long, value_enum, env = "AQUIFER_SAME_NODE", default_value_t = SameNode::default())]
    pub same_node: SameNode,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened into this command's help")]
    pub admin: Admin,
    /// Address of the metrics for Prometheus.
    #[arg(
        long,
        value_name = "ADDR",
        env = "AQUIFER_METRICS",
        default_value = "0.0.0.0:15020"
    )]
    pub metrics: SocketAddr,
    /// Address of the readiness probe, `/healthz/ready`.
    #[arg(
        long,
        value_name = "ADDR",
        env = "AQUIFER_READINESS",
        default_value = "0.0.0.0:15021"
    )]
    pub readiness: SocketAddr,
    #[command(flatten)]
    #[allow(missing_docs, reason = "flattened into this command's help")]
    pub bpffs: Bpffs,
    /// Root of the cgroup2 tree; found in /proc/mounts where absent.
    #[arg(long, value_name = "DIR", env = "AQUIFER_CGROUP")]
    pub cgroup: Option<PathBuf>,
    /// Name of the process whose connections to local pods are never captured (health probes).
    #[arg(
        long,
        value_name = "NAME",
        env = "AQUIFER_PROBE_PROCESS",
        default_value = "kubelet"
    )]
    pub probe_process: String,
    /// Threads that carry traffic. Each costs up to four listening sockets a pod.
    #[arg(long, value_name = "N", env = "AQUIFER_WORKERS", default_value = "2")]
    pub workers: NonZeroUsize,
    /// Form of the access log, which goes to standard output.
    #[arg(long, value_enum, env = "AQUIFER_ACCESS_LOG", default_value_t = Format::Text)]
    pub access_log: Format,
    /// Level of the proxy's own log, which goes to standard error: `info`, `debug`, or by module
    /// as in `info,aquifer::control=debug`.
    #[arg(
        long,
        value_name = "LEVEL",
        env = "AQUIFER_LOG",
        default_value = "info"
    )]
    pub log: String,
    /// Level of the kernel programs' log lines, which are written to the proxy's own log.
    #[arg(long, value_enum, env = "AQUIFER_KERNEL_LOG", default_value_t = Level::Off)]
    pub kernel_log: Level,
    /// How long connections may go on after a request to stop, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "AQUIFER_DRAIN",
        default_value = "5",
        value_parser = seconds
    )]
    pub drain: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: u32 = text
        .parse()
        .map_err(|_| "a whole number of seconds is wanted".to_owned())?;
    Ok(Duration::from_secs(seconds.into()))
}

fn hostname() -> String {
    let name = crate::net::hostname();
    if name.is_empty() {
        "localhost".into()
    } else {
        name
    }
}
