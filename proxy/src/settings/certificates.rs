//! Where certificates come from, and who is trusted.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::control::certificates::istio::Address;
use crate::types::identity::is_trust_domain;

/// Settings of identities and certificates.
#[derive(Clone, Debug, clap::Args)]
pub struct Certificates {
    /// Who signs certificates: `self` for the embedded authority, whose root lies in --ca-dir, or
    /// https://HOST:PORT for one that speaks Istio's protocol: istiod, `aquifer ca`. Without it there
    /// are none.
    #[arg(long, value_name = "self|URL", env = "AQUIFER_CA")]
    pub ca: Option<Ca>,
    /// File of the token that shows this node to an authority with a URL. Read anew each time.
    #[arg(
        long,
        value_name = "FILE",
        env = "AQUIFER_CA_TOKEN",
        default_value = "/var/run/secrets/tokens/istio-token",
        requires = "ca"
    )]
    pub ca_token: PathBuf,
    /// File of the roots (PEM) by which the certificate of an authority with a URL is checked. Read
    /// anew for each connection. A change makes the proxy ask for the mesh's roots, and what is taken
    /// out of it is trusted no more.
    #[arg(
        long,
        value_name = "FILE",
        env = "AQUIFER_CA_ROOTS",
        default_value = "/var/run/secrets/istio/root-cert.pem",
        requires = "ca"
    )]
    pub ca_roots: PathBuf,
    /// Name in the certificate of an authority with a URL, where that is not the URL's host.
    #[arg(
        long,
        value_name = "NAME",
        env = "AQUIFER_CA_NAME",
        requires = "ca",
        value_parser = host_name
    )]
    pub ca_name: Option<String>,
    /// Name of this cluster: an istiod with several is told it, and so are peers of HBONE, whom
    /// without it `Kubernetes` is told.
    #[arg(long, value_name = "NAME", env = "AQUIFER_CLUSTER_ID", requires = "ca")]
    pub cluster_id: Option<String>,
    /// Folder of the embedded authority: ca-cert.pem and ca-key.pem, made where it has neither;
    /// cert-chain.pem and root-cert.pem where that is not a root. Proxies of one mesh have the same.
    #[arg(
        long,
        value_name = "DIR",
        env = "AQUIFER_CA_DIR",
        default_value = "/var/lib/aquifer/ca",
        requires = "ca"
    )]
    pub ca_dir: PathBuf,
    /// How long certificates are to hold, in seconds; an authority with a URL may say otherwise. Each
    /// is renewed at about half of its life.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "AQUIFER_CERTIFICATE_LIFE",
        default_value = "86400",
        value_parser = life,
        requires = "ca"
    )]
    pub certificate_life: Duration,
    /// Trust domain of this mesh's identities, `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "AQUIFER_TRUST_DOMAIN",
        default_value = "cluster.local",
        value_parser = trust_domain
    )]
    pub trust_domain: Arc<str>,
    /// Another trust domain whose workloads are of this mesh. May be given more than once.
    #[arg(
        long = "trust-domain-alias",
        value_name = "DOMAIN",
        env = "AQUIFER_TRUST_DOMAIN_ALIASES",
        value_delimiter = ',',
        value_parser = trust_domain
    )]
    pub aliases: Vec<Arc<str>>,
    /// Further roots that vouch for a trust domain, as DOMAIN=FILE (PEM). May be given more than
    /// once, and are read again when they change. An alias without roots has those of the mesh's own
    /// trust domain.
    #[arg(
        long = "trust-roots",
        value_name = "DOMAIN=FILE",
        env = "AQUIFER_TRUST_ROOTS",
        value_delimiter = ',',
        requires = "ca"
    )]
    pub roots: Vec<Roots>,
}

/// The name that Istio gives to a cluster which has none.
const CLUSTER: &str = "Kubernetes";

impl Certificates {
    /// What peers are told of the cluster.
    pub fn cluster_name(&self) -> Arc<str> {
        self.cluster_id.as_deref().unwrap_or(CLUSTER).into()
    }
}

/// Who signs certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ca {
    /// The embedded authority.
    Own,
    /// One that speaks Istio's protocol.
    Istio(Address),
}

impl FromStr for Ca {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "self" => Ok(Self::Own),
            _ => match text.parse() {
                Ok(address) => Ok(Self::Istio(address)),
                Err(problem) => Err(format!("`self` or a URL: {problem}")),
            },
        }
    }
}

/// Roots of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// The trust domain.
    pub domain: Arc<str>,
    /// Where they are.
    pub file: PathBuf,
}

impl FromStr for Roots {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (domain, file) = text.split_once('=').ok_or("DOMAIN=FILE is wanted")?;
        Ok(Self {
            domain: trust_domain(domain)?,
            file: file.into(),
        })
    }
}

/// Istio writes `.` for `@`, which no identity may have.
pub(super) fn trust_domain(text: &str) -> Result<Arc<str>, String> {
    let domain = text.replace('@', ".");
    if !is_trust_domain(&domain) {
        return Err("a name such as `cluster.local` is wanted".to_owned());
    }
    Ok(domain.into())
}

pub(super) fn host_name(text: &str) -> Result<String, String> {
    match rustls::pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("a host name or an IP address is wanted".to_owned()),
    }
}

pub(super) fn life(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..) => Ok(Duration::from_secs(u32::into(seconds))),
        _ => Err("a whole number of seconds from 1 on is wanted".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        assert_eq!(trust_domain("a@b.example").as_deref(), Ok("a.b.example"));
        for wrong in ["", "a/b", "a b", "spiffe://a"] {
            assert!(trust_domain(wrong).is_err(), "{wrong}");
        }
        let roots: Roots = "old.example=/etc/old=1.pem".parse().unwrap();
        assert_eq!(roots.file, PathBuf::from("/etc/old=1.pem"));
        assert!("old.example".parse::<Roots>().is_err());
        for (text, host, port) in [
            (
                "https://istiod.istio-system.svc:15012",
                "istiod.istio-system.svc",
                15012,
            ),
            (
                "https://istiod.istio-system.svc",
                "istiod.istio-system.svc",
                15012,
            ),
            ("https://10.0.0.1:1/", "10.0.0.1", 1),
            ("https://[fd00::1]:15012", "fd00::1", 15012),
        ] {
            let address = Address {
                host: host.to_owned(),
                port,
            };
            assert_eq!(text.parse(), Ok(Ca::Istio(address)), "{text}");
        }
        assert_eq!("self".parse(), Ok(Ca::Own));
        for wrong in [
            "",
            "Self",
            "istiod:15012",
            "http://istiod:15012",
            "https://",
            "https://:15012",
            "https://istiod:",
            "https://istiod:99999",
            "https://istiod:15012/path",
            "https://istiod:15012?x",
            "https://user@istiod:15012",
            "https://is_ti/od",
        ] {
            assert!(wrong.parse::<Ca>().is_err(), "{wrong}");
        }
        assert_eq!(life("90"), Ok(Duration::from_secs(90)));
        for wrong in ["0", "-1", "1.5", "", "99999999999"] {
            assert!(life(wrong).is_err(), "{wrong}");
        }
    }
}
