//! Settings of `aquifer ca`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::certificates::{host_name, life, trust_domain};
use super::seconds;

/// Settings of the certificate authority.
#[derive(Clone, Debug, clap::Args)]
pub struct Authority {
    /// Folder of Kubernetes manifests (YAML or JSON), watched for changes: a node gets certificates
    /// for the service accounts of pods whose `spec.nodeName` it is. May be given more than once.
    #[arg(
        long,
        value_name = "DIR",
        env = "AQUIFER_CONFIG",
        value_delimiter = ':',
        required = true
    )]
    pub config: Vec<PathBuf>,
    /// File that says which node has which token (YAML): under `nodes` a list of `node`, `sha256` of
    /// the token, and, where wanted, `expires` and `namespaces`. Read again when it changes.
    #[arg(long, value_name = "FILE", env = "AQUIFER_CA_NODES")]
    pub nodes: PathBuf,
    /// Address where it is asked.
    #[arg(
        long,
        value_name = "ADDR",
        env = "AQUIFER_CA_LISTEN",
        default_value = "0.0.0.0:15012"
    )]
    pub listen: SocketAddr,
    /// Name or IP address by which node proxies know it, for its own certificate. May be given more
    /// than once; this host's name where absent.
    #[arg(
        long = "name",
        value_name = "NAME",
        env = "AQUIFER_CA_NAMES",
        value_delimiter = ',',
        value_parser = host_name
    )]
    pub names: Vec<String>,
    /// Folder of the root: ca-cert.pem and ca-key.pem, made where it has neither; root-cert.pem with
    /// all roots while they are being replaced. Read again when it changes.
    #[arg(
        long,
        value_name = "DIR",
        env = "AQUIFER_CA_DIR",
        default_value = "/var/lib/aquifer/ca"
    )]
    pub ca_dir: PathBuf,
    /// Trust domain of the identities that it signs.
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "AQUIFER_TRUST_DOMAIN",
        default_value = "cluster.local",
        value_parser = trust_domain
    )]
    pub trust_domain: Arc<str>,
    /// How long certificates hold at most, and where nothing else is asked for, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "AQUIFER_CERTIFICATE_LIFE",
        default_value = "86400",
        value_parser = life
    )]
    pub certificate_life: Duration,
    /// How long the intermediate holds that signs them, in seconds. It is replaced at about half of
    /// that, so that anything above twice --certificate-life cuts no certificate short.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "AQUIFER_INTERMEDIATE_LIFE",
        default_value = "2592000",
        value_parser = life
    )]
    pub intermediate_life: Duration,
    /// Address of the metrics for Prometheus (`/metrics`) and of the readiness probe
    /// (`/healthz/ready`).
    #[arg(
        long,
        value_name = "ADDR",
        env = "AQUIFER_METRICS",
        default_value = "0.0.0.0:15014"
    )]
    pub metrics: SocketAddr,
    /// Level of its log, which goes to standard error: `info`, `debug`, or by module.
    #[arg(
        long,
        value_name = "LEVEL",
        env = "AQUIFER_LOG",
        default_value = "info"
    )]
    pub log: String,
    /// How long calls may go on after a request to stop, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "AQUIFER_DRAIN",
        default_value = "5",
        value_parser = seconds
    )]
    pub drain: Duration,
}
