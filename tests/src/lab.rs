//! A small network: pods, which are network namespaces, on one bridge, which lies in a namespace of
//! the lab's own. Nothing of it touches the host's interfaces, routes or rules.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::{Context, Result};

use crate::{netns::Netns, process, slot::Slot};

/// The network, and the namespace that is the node's.
#[derive(Debug)]
pub struct Lab {
    /// Where the bridge is and where the proxy runs, as the host network namespace is on a node.
    pub node: Netns,
    hosts: AtomicU8,
    // Last, so that names are free again only when all else is gone.
    slot: Slot,
}

/// One pod: a namespace with `eth0` on the lab's bridge.
#[derive(Debug)]
pub struct Pod {
    /// Its name, as the manifests have it.
    pub name: String,
    /// Its network namespace.
    pub netns: Netns,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Lab {
    /// Makes the bridge. Fails without root, and says so.
    pub fn new() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            anyhow::bail!("end-to-end tests make network namespaces: run them as root");
        }
        let slot = Slot::take()?;
        let node = Netns::create(&format!("{}node", slot.prefix()))?;
        // The first pod gets .2: .1 is the node's.
        let lab = Self {
            node,
            hosts: AtomicU8::new(2),
            slot,
        };
        let (v4, v6) = lab.address(1);
        lab.ip(
            &lab.node,
            &["link", "add", "br0", "type", "bridge", "forward_delay", "0"],
        )?;
        lab.ip(
            &lab.node,
            &["address", "add", &format!("{v4}/24"), "dev", "br0"],
        )?;
        lab.ip(
            &lab.node,
            &["address", "add", &format!("{v6}/64"), "dev", "br0", "nodad"],
        )?;
        lab.ip(&lab.node, &["link", "set", "br0", "up"])?;
        Ok(lab)
    }

    /// The slot that the lab's names and addresses come from.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Another node: where a second proxy runs. Pods of all nodes are on the one bridge.
    pub fn another_node(&self, name: &str) -> Result<Netns> {
        Netns::create(&format!("{}{name}", self.slot.prefix()))
    }

    /// Adds a pod. The name is at most 20 characters of what a Kubernetes name may have.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let host = self.hosts.fetch_add(1, Ordering::Relaxed);
        anyhow::ensure!(host < 250, "a lab has room for 248 pods");
        let (v4, v6) = self.address(host);
        let (gateway4, gateway6) = self.address(1);
        let netns = Netns::create(&format!("{}{name}", self.slot.prefix()))?;
        let port = format!("pod{host}");
        let peer = ["peer", "name", "eth0", "netns", netns.name()];
        self.ip(
            &self.node,
            &[&["link", "add", &port, "type", "veth"], &peer[..]].concat(),
        )?;
        self.ip(&self.node, &["link", "set", &port, "master", "br0", "up"])?;
        self.ip(
            &netns,
            &["address", "add", &format!("{v4}/24"), "dev", "eth0"],
        )?;
        // No duplicate address detection: the address is usable at once and nobody waits.
        self.ip(
            &netns,
            &[
                "address",
                "add",
                &format!("{v6}/64"),
                "dev",
                "eth0",
                "nodad",
            ],
        )?;
        self.ip(&netns, &["link", "set", "eth0", "up"])?;
        self.ip(
            &netns,
            &["route", "add", "default", "via", &gateway4.to_string()],
        )?;
        self.ip(
            &netns,
            &[
                "-6",
                "route",
                "add",
                "default",
                "via",
                &gateway6.to_string(),
            ],
        )?;
        Ok(Pod {
            name: name.into(),
            netns,
            v4,
            v6,
        })
    }

    /// The addresses of host number `host` in this lab's networks.
    fn address(&self, host: u8) -> (Ipv4Addr, Ipv6Addr) {
        let [high, low] = self.slot.number().to_be_bytes();
        let v4 = Ipv4Addr::new(198, 18 + high, low, host);
        let v6 = Ipv6Addr::new(0xfd18, self.slot.number(), 0, 0, 0, 0, 0, host.into());
        (v4, v6)
    }

    fn ip(&self, netns: &Netns, arguments: &[&str]) -> Result<()> {
        process::output("ip", &[&["-netns", netns.name()], arguments].concat())
            .map(|_| ())
            .with_context(|| format!("while building {}", netns.name()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Also what a test forgot to drop: pods kept in a leaked value, a proxy that hangs.
        self.slot.sweep();
    }
}

impl Pod {
    /// `port` at the pod's IPv4 address.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.v4), port)
    }

    /// `port` at the pod's IPv6 address.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.v6), port)
    }
}
