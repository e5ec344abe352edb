//! Which blocks of a DestinationRule are in force for one port and subset: Istio's precedence.

use crate::api::destination_rule::{
    ConnectionPool, LoadBalancer, OutlierDetection, PortTrafficPolicy, ProxyProtocol, RetryBudget,
    Tls, TrafficPolicy, Tunnel,
};

/// The blocks in force.
#[derive(Clone, Copy, Default)]
pub(super) struct Blocks<'a> {
    pub(super) load_balancer: Option<&'a LoadBalancer>,
    pub(super) pool: Option<&'a ConnectionPool>,
    pub(super) outlier: Option<&'a OutlierDetection>,
    pub(super) budget: Option<&'a RetryBudget>,
    pub(super) tls: Option<&'a Tls>,
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    pub(super) tunnel: Option<&'a Tunnel>,
}

impl<'a> Blocks<'a> {
    /// Settings of a port stand in the place of the whole policy: what they lack is not inherited.
    fn of_port(port: &'a PortTrafficPolicy) -> Self {
        Self {
            load_balancer: port.load_balancer.as_ref(),
            pool: port.connection_pool.as_ref(),
            outlier: port.outlier_detection.as_ref(),
            budget: None,
            tls: port.tls.as_ref(),
            proxy_protocol: None,
            tunnel: None,
        }
    }
}

/// What a policy says of one port.
pub(super) fn port_of(policy: Option<&TrafficPolicy>, port: u16) -> Option<&PortTrafficPolicy> {
    let mut settings = policy?.port_level_settings.iter();
    settings.find(|one| one.port.as_ref().is_some_and(|one| one.number == port))
}

/// Those for `port` of a rule's policy and of a subset's own, where it has one.
pub(super) fn blocks<'a>(
    rule: Option<&'a TrafficPolicy>,
    subset: Option<&'a TrafficPolicy>,
    port: u16,
) -> Blocks<'a> {
    let mut blocks = match (port_of(rule, port), rule) {
        (Some(port), _) => Blocks::of_port(port),
        (None, Some(policy)) => Blocks {
            load_balancer: policy.load_balancer.as_ref(),
            pool: policy.connection_pool.as_ref(),
            outlier: policy.outlier_detection.as_ref(),
            budget: policy.retry_budget.as_ref(),
            tls: policy.tls.as_ref(),
            proxy_protocol: policy.proxy_protocol,
            tunnel: policy.tunnel.as_ref(),
        },
        (None, None) => Blocks::default(),
    };
    if let Some(subset) = subset {
        blocks = Blocks {
            load_balancer: subset.load_balancer.as_ref().or(blocks.load_balancer),
            pool: subset.connection_pool.as_ref().or(blocks.pool),
            outlier: subset.outlier_detection.as_ref().or(blocks.outlier),
            budget: subset.retry_budget.as_ref().or(blocks.budget),
            tls: subset.tls.as_ref().or(blocks.tls),
            proxy_protocol: subset.proxy_protocol.or(blocks.proxy_protocol),
            tunnel: subset.tunnel.as_ref().or(blocks.tunnel),
        };
    }
    if let Some(port) = port_of(subset, port) {
        blocks = Blocks {
            budget: blocks.budget,
            proxy_protocol: blocks.proxy_protocol,
            tunnel: blocks.tunnel,
            ..Blocks::of_port(port)
        };
    }
    blocks
}
