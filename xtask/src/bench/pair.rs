//! Pairs: a proxy at each end, both on the proxy's core, mutual TLS between them. Two processes, also
//! where one could be both ends: the ends of a connection are on two nodes.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::{Context, Result};
use aquifer_tests::{
    Proxy,
    netns::Netns,
    peer::{
        Envoy, HBONE, Ztunnel,
        envoy::{self, Certificate},
        ztunnel::{self, Log, Workload},
    },
    process,
};
use serde_json::Value;

use super::{
    contender::{self, LISTEN, Process},
    cores,
    field::Field,
};

/// The identity of both ends of the pairs of Envoys.
const IDENTITY: &str = "spiffe://cluster.local/ns/default/sa/default";

/// A root and one certificate, of the kind that the mesh's have: ECDSA on P-256.
#[derive(Debug)]
pub(super) struct Certificates {
    root: String,
    chain: String,
    key: String,
}

impl Certificates {
    /// Makes them in a folder.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        let openssl = |line: &str| {
            let mut command = Command::new("openssl");
            command.current_dir(folder).args(line.split(' '));
            process::finish(&mut command)
        };
        let names = format!("subjectAltName=critical,URI:{IDENTITY}\n");
        fs::write(folder.join("names"), names)?;
        let new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!(
            "req -x509 {new} -keyout root.key -out root.pem -days 2 -subj /O=cluster.local"
        ))?;
        openssl(&format!("req {new} -keyout own.key -out own.csr -subj /"))?;
        openssl(
            "x509 -req -in own.csr -CA root.pem -CAkey root.key -CAcreateserial -days 2 \
             -extfile names -out own.pem",
        )?;
        let read = |name| fs::read_to_string(folder.join(name));
        Ok(Self {
            root: read("root.pem")?,
            chain: read("own.pem")?,
            key: read("own.key")?,
        })
    }
}

fn envoys(
    field: &Field,
    near: impl Fn(&Value) -> Value + Send,
    far: impl Fn(&Value) -> Value + Send,
) -> Result<Vec<Process>> {
    let certificate = Certificate {
        chain: &field.certificates.chain,
        key: &field.certificates.key,
        roots: &field.certificates.root,
        peer: IDENTITY,
    };
    cores::on(cores::PROXY, || {
        let far = Envoy::start(&field.envoy, &field.server, certificate, far)?;
        let near = Envoy::start(&field.envoy, &field.client, certificate, near)?;
        Ok(vec![Process::Envoy(near), Process::Envoy(far)])
    })
}

/// Two Envoys that carry TCP by HBONE.
pub(super) fn envoy_hbone(field: &Field) -> Result<Vec<Process>> {
    let (listen, backend) = (listen(), field.backend_address);
    envoys(
        field,
        |tls| envoy::calling(listen, backend, tls),
        |tls| envoy::called(backend, tls),
    )
}

/// Two Envoys that carry HTTP over HTTP/2 and mutual TLS.
pub(super) fn envoy_mtls(field: &Field) -> Result<Vec<Process>> {
    let (listen, backend) = (listen(), field.backend_address);
    let between = SocketAddr::new(backend.ip(), HBONE);
    envoys(
        field,
        |tls| envoy::requesting(listen, between, tls),
        |tls| envoy::answering(between, backend, tls),
    )
}

fn listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], LISTEN))
}

/// Two node proxies, each with its pod.
pub(super) async fn aquifer(field: &Field) -> Result<Vec<Process>> {
    let far = Proxy::on(&field.lab, &field.nodes).node(&field.far);
    let far = contender::aquifer(field, far.authority()).await?;
    let near = Proxy::on(&field.lab, &field.nodes).authority();
    let near = contender::aquifer(field, near).await?;
    near.certified(1).await?;
    far.certified(1).await?;
    Ok(vec![Process::Aquifer(near), Process::Aquifer(far)])
}

/// Two ztunnels, each for its pod. The client's connections are redirected as its CNI plugin does it.
pub(super) async fn ztunnel(field: &Field) -> Result<Vec<Process>> {
    let binary = field.ztunnel.as_deref().context("ZTUNNEL_BIN names none")?;
    let [client, server] = [("client", &field.client), ("backend", &field.server)]
        .map(|(account, pod)| Workload { account, pod });
    let start = |workloads: [Workload<'_>; 2]| {
        cores::on(cores::PROXY, || {
            Ztunnel::dedicated(binary, &workloads, Log::None)
        })
    };
    let far = start([server, client])?;
    let near = start([client, server])?;
    far.ready().await?;
    near.ready().await?;
    let redirect = Redirect::begin(&field.client.netns, field.backend_address)?;
    Ok(vec![
        Process::Ztunnel {
            ztunnel: near,
            _redirect: Some(redirect),
        },
        Process::Ztunnel {
            ztunnel: far,
            _redirect: None,
        },
    ])
}

/// Connections out of a pod that end at ztunnel. Gone on drop, with the kernel's tracking of
/// connections, which others shall not pay for.
#[derive(Debug)]
pub(super) struct Redirect {
    netns: String,
}

impl Redirect {
    fn begin(netns: &Netns, to: SocketAddr) -> Result<Self> {
        let redirect = Self {
            netns: netns.name().to_owned(),
        };
        let (mark, outbound) = (ztunnel::MARK, ztunnel::OUTBOUND);
        redirect.nft("add table ip bench")?;
        redirect.nft("add chain ip bench out { type nat hook output priority -100; }")?;
        redirect.nft(&format!(
            "add rule ip bench out ip daddr {} tcp dport {} meta mark != {mark} redirect to :{outbound}",
            to.ip(),
            to.port(),
        ))?;
        Ok(redirect)
    }

    fn nft(&self, line: &str) -> Result<String> {
        process::output("ip", &["netns", "exec", &self.netns, "nft", line])
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        // Where this fails, the namespace goes at the end.
        let _ = self.nft("delete table ip bench");
    }
}
