//! The demo's pods, their applications and the proxy, and how to look at them.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use aquifer_tests::{Config, Lab, Manifests, PATIENCE, Pod, Proxy, client::Http, process::Child};

use crate::{backend, setup};

/// Where the client dials: the cluster address of the service `reviews` in mesh.yaml.
pub(super) const REVIEWS: &str = "10.96.0.10:80";
const NAMESPACE: &str = "shop";
/// Service accounts of the pods in the mesh: `client` and `reviews`.
const ACCOUNTS: usize = 2;

/// All that stands. The order of the fields is the order in which they go.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) proxy: Proxy,
    pub(super) config: Config,
    applications: Vec<Child>,
    pub(super) client: Pod,
    pub(super) outsider: Pod,
    pub(super) serving: Vec<Pod>,
    binary: PathBuf,
    pub(super) lab: Lab,
}

impl Stage {
    /// Makes the pods, starts their applications and the proxy, and waits until it is ready.
    pub(super) async fn build(binary: PathBuf) -> Result<Self> {
        let lab = Lab::new()?;
        let client = lab.pod("client")?;
        let outsider = lab.pod("outsider")?;
        let names = ["reviews-v1-a", "reviews-v1-b", "reviews-v1-c", "reviews-v2"];
        let reviews = names
            .map(|name| lab.pod(name))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let mut applications = Vec::new();
        let mut manifests = Manifests::new()
            .pod_as(NAMESPACE, "client", &client, &[("app", "client")])
            .pod_in(
                NAMESPACE,
                &outsider,
                &[("app", "outsider"), ("aquifer.io/mesh", "disabled")],
                &[],
            );
        for pod in &reviews {
            let application = Child::start(Some(&pod.netns), super::application(&pod.name)?)?;
            application
                .stdout
                .wait_for(0, PATIENCE, |line| line == "listening")?;
            applications.push(application);
            let version = if pod.name.contains("v1") { "v1" } else { "v2" };
            manifests = manifests.pod_as(
                NAMESPACE,
                "reviews",
                pod,
                &[("app", "reviews"), ("version", version)],
            );
        }
        let config = Config::new(&Manifests::new().yaml(example("canary/mesh.yaml")?))?;
        config.put("pods.yaml", manifests.text())?;
        config.put("canary.yaml", example("canary/canary-90-10.yaml")?)?;
        let proxy = Proxy::on(&lab, &config).authority().ready().await?;
        proxy.certified(ACCOUNTS).await?;
        Ok(Self {
            proxy,
            config,
            applications,
            client,
            outsider,
            serving: reviews,
            binary,
            lab,
        })
    }

    /// Tells who is who.
    pub(super) fn introduce(&self) {
        let line = |pod: &Pod, what: &str| println!("    {:<14} {:<12} {what}", pod.name, pod.v4);
        line(&self.client, "in the mesh: dials reviews");
        for pod in &self.serving {
            line(pod, "in the mesh: serves reviews");
        }
        line(&self.outsider, "outside the mesh");
        println!("\n    {} applications run in them", self.applications.len());
    }

    /// A connection from the client pod to the service, captured on its way.
    pub(super) async fn connect(&self) -> Result<Http> {
        Http::connect(&self.client, REVIEWS.parse()?).await
    }

    /// Replaces the canary's weights and waits until the proxy routes by them.
    pub(super) async fn shift(&self) -> Result<()> {
        let half = example("canary/canary-50-50.yaml")?;
        self.proxy
            .after(|| self.config.put("canary.yaml", half))
            .await
    }

    /// A pod that is not in the mesh: it reaches a pod directly, and knows no cluster address.
    pub(super) async fn show_outsider(&self) -> Result<()> {
        let pod = self.serving.first().context("no pod")?;
        let reply = Http::connect(&self.outsider, pod.at(backend::PORT))
            .await?
            .get("x", "/")
            .await?;
        let seen = reply.seen()?;
        let peer: SocketAddr = seen.field("peer").parse().context("the peer's address")?;
        println!(
            "    outsider → {}: {} by {}",
            pod.at(backend::PORT),
            reply.status,
            seen.server()
        );
        println!(
            "    the application saw the caller's own address: {}",
            peer.ip()
        );
        anyhow::ensure!(
            peer.ip() == self.outsider.v4,
            "which is not {}",
            self.outsider.v4
        );
        let cluster = REVIEWS.parse()?;
        let dialled = self.outsider.netns.connect(cluster);
        let dialled = tokio::time::timeout(Duration::from_millis(500), dialled).await;
        let reached = matches!(dialled, Ok(Ok(_)));
        anyhow::ensure!(
            !reached,
            "the outsider reached a cluster address: it was captured"
        );
        println!("    outsider → {cluster}: nothing there, since nobody captures its sockets");
        Ok(())
    }

    /// Prints what a command of the binary says.
    pub(super) fn show_command(&self, arguments: &[&str]) -> Result<()> {
        let (status, out, err) = self.proxy.command(arguments)?;
        println!("{}{}", indent(&out), indent(&err));
        anyhow::ensure!(status.success(), "`aquifer {}` failed", arguments.join(" "));
        Ok(())
    }

    /// Prints the redirect maps, read from the BPF file system.
    pub(super) fn show_maps(&self) -> Result<()> {
        self.show_command(&["maps", "--bpffs", &self.proxy.bpffs().to_string_lossy()])
    }

    /// Prints commands to try.
    pub(super) fn suggest(&self) {
        let binary = self.binary.display();
        let node = format!("ip netns exec {}", self.lab.node.name());
        println!("  The node, with the proxy's admin address:");
        for command in ["status", "config routes", "config endpoints"] {
            println!("    {node} {binary} {command}");
        }
        println!("  The kernel's maps:");
        println!(
            "    {binary} maps --bpffs {} --watch",
            self.proxy.bpffs().display()
        );
        println!("  A request of the client pod, captured on its way:");
        println!(
            "    ip netns exec {} curl -s http://{REVIEWS}/",
            self.client.netns.name()
        );
        println!("  The configuration; edit a file and it is in force:");
        println!("    {}", self.config.path().display());
    }
}

/// A file of `deploy/examples`.
pub(super) fn example(file: &str) -> Result<String> {
    let path = setup::root().join("deploy/examples").join(file);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}
