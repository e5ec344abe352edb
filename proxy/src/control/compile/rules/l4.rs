//! `tls` and `tcp` rules, before the port and the destinations' ports are known.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::condition::caller;
use super::{Origin, Target, is_for_mesh, weight};
use crate::api::virtual_service::{RouteDestination, VirtualServiceSpec};
use crate::mesh::L4Kind;
use crate::mesh::l4::ServerName;
use crate::policy::matcher::Caller;

/// One rule.
#[derive(Debug)]
pub struct L4Template {
    /// `tls` or `tcp`.
    pub kind: L4Kind,
    /// Which of `spec.tls` or `spec.tcp` it is.
    pub index: usize,
    /// Never empty: a TCP rule without any has one that takes everything.
    pub blocks: Vec<L4Block>,
    /// Never empty; their weights never all zero.
    pub targets: Vec<Target>,
}

/// One match block.
#[derive(Debug, Default)]
pub struct L4Block {
    /// `sniHosts`.
    pub server_names: Vec<ServerName>,
    /// `destinationSubnets`.
    pub subnets: Vec<IpNet>,
    /// The only port at which it counts.
    pub port: Option<u16>,
    /// `sourceLabels` and `sourceNamespace`.
    pub caller: Option<Arc<Caller>>,
}

/// The rules for mesh traffic.
pub(super) fn templates(spec: &VirtualServiceSpec, origin: &Origin<'_>) -> Vec<L4Template> {
    let port = |given: Option<u16>| given.filter(|port| *port != 0);
    let tls = spec.tls.iter().enumerate().map(|(index, rule)| {
        let blocks = rule.matches.iter();
        let blocks = blocks.filter(|block| is_for_mesh(&block.gateways, origin.for_mesh));
        let blocks = blocks.map(|block| L4Block {
            server_names: block
                .sni_hosts
                .iter()
                .map(|one| ServerName::new(one))
                .collect(),
            subnets: subnets(&block.destination_subnets),
            port: port(block.port),
            caller: caller(&block.source_labels, &block.source_namespace),
        });
        L4Template {
            kind: L4Kind::Tls,
            index,
            blocks: blocks.collect(),
            targets: targets(&rule.route, origin),
        }
    });
    let tcp = spec.tcp.iter().enumerate().map(|(index, rule)| {
        let blocks = rule.matches.iter();
        let blocks = blocks.filter(|block| is_for_mesh(&block.gateways, origin.for_mesh));
        let mut blocks: Vec<L4Block> = blocks
            .map(|block| L4Block {
                server_names: Vec::new(),
                subnets: subnets(&block.destination_subnets),
                port: port(block.port),
                caller: caller(&block.source_labels, &block.source_namespace),
            })
            .collect();
        if rule.matches.is_empty() && origin.for_mesh {
            blocks.push(L4Block::default());
        }
        L4Template {
            kind: L4Kind::Tcp,
            index,
            blocks,
            targets: targets(&rule.route, origin),
        }
    });
    tls.chain(tcp)
        .filter(|one| !one.blocks.is_empty() && !one.targets.is_empty())
        .collect()
}

/// Validation has refused what is neither a network nor an address.
fn subnets(given: &[String]) -> Vec<IpNet> {
    let network = |text: &String| {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse::<IpNet>().or_else(|_| address()).ok()
    };
    given
        .iter()
        .filter_map(network)
        .map(|net| net.trunc())
        .collect()
}

fn targets(route: &[RouteDestination], origin: &Origin<'_>) -> Vec<Target> {
    let targets = route.iter().enumerate();
    targets
        .filter_map(|(index, one)| {
            Some(Target {
                index,
                place: origin.place(one.destination.as_ref()?),
                weight: weight(one.weight, route.len())?,
                headers: None,
            })
        })
        .collect()
}
