//! What a pod's namespace needs so that the proxy can call its application under the caller's own
//! address: the replies to that address must come back here and not leave by eth0.
//!
//! A mark goes from the dial to the accepted end (`tcp_fwmark_accept`) and to resets
//! (`fwmark_reflect`); a rule sends what bears it to a table in which every address is local. No
//! iptables. Knows nothing of connections.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use aquifer_common::MARK_TRANSPARENT;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleMessage};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::Namespace;

/// `lo` is the first device of every network namespace.
const LOOPBACK_DEVICE: u32 = 1;
/// Before the rules of `main` (32766), behind that of `local` (0).
const PRIORITY: u32 = 1338;

/// Settings under /proc/sys/net that carry the mark along; the second is whether it is IPv6's.
const SETTINGS: [(&str, bool); 3] = [
    ("/proc/sys/net/ipv4/tcp_fwmark_accept", false),
    ("/proc/sys/net/ipv4/fwmark_reflect", false),
    ("/proc/sys/net/ipv6/fwmark_reflect", true),
];

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting could not be written.
    #[error("writing {path} in the pod's network namespace: {source}")]
    Setting {
        /// Which.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The namespace could not be entered, or has no netlink.
    #[error("reaching the pod's routing tables: {0}")]
    Reach(#[from] io::Error),
    /// The kernel refused a rule or a route.
    #[error("adding {what} in the pod's network namespace: {source}")]
    Refused {
        /// Which.
        what: &'static str,
        /// Why.
        source: Box<rtnetlink::Error>,
    },
}

/// Sets a namespace up. What is there already is left as it is. `v6` tells whether the namespace
/// has IPv6.
pub async fn lay(netns: &Namespace, v6: bool) -> Result<(), Error> {
    netns.run(|| {
        for (path, of_v6) in SETTINGS {
            if !of_v6 || v6 {
                fs::write(path, "1").map_err(|source| Error::Setting { path, source })?;
            }
        }
        Ok::<_, Error>(())
    })??;
    let tables = Tables::open(netns)?;
    for v6 in [false, true].into_iter().take(1 + usize::from(v6)) {
        let rules = tables.handle.rule();
        let mut add = rules.add();
        *add.message_mut() = rule(v6);
        unless_there("the rule", add.execute().await)?;
        let add = tables.handle.route().add(route(v6));
        unless_there("the route", add.execute().await)?;
    }
    Ok(())
}

/// Undoes [`lay`] as far as it can be: the settings go back to the kernel's default.
pub async fn lift(netns: &Namespace, v6: bool) -> Result<(), Error> {
    let tables = Tables::open(netns)?;
    for v6 in [false, true].into_iter().take(1 + usize::from(v6)) {
        // What is gone already is as good.
        let _ = tables.handle.rule().del(rule(v6)).execute().await;
        let _ = tables.handle.route().del(route(v6)).execute().await;
    }
    netns.run(|| {
        for (path, of_v6) in SETTINGS {
            if !of_v6 || v6 {
                fs::write(path, "0").map_err(|source| Error::Setting { path, source })?;
            }
        }
        Ok(())
    })?
}

/// A netlink socket in a namespace. It keeps the namespace alive until it is dropped.
struct Tables {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Tables {
    fn open(netns: &Namespace) -> io::Result<Self> {
        let (connection, handle, _) = netns.run(rtnetlink::new_connection)??;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn rule(v6: bool) -> RuleMessage {
    use rtnetlink::packet_route::AddressFamily;
    use rtnetlink::packet_route::rule::RuleAttribute;
    let mut rule = RuleMessage::default();
    rule.header.family = if v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::FwMark(MARK_TRANSPARENT),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Table(MARK_TRANSPARENT),
    ];
    rule
}

fn route(v6: bool) -> RouteMessage {
    macro_rules! default {
        ($family:ty) => {
            RouteMessageBuilder::<$family>::new()
                .destination_prefix(<$family>::UNSPECIFIED, 0)
                .kind(RouteType::Local)
                .scope(RouteScope::Host)
                .output_interface(LOOPBACK_DEVICE)
                .table_id(MARK_TRANSPARENT)
                .build()
        };
    }
    if v6 {
        default!(Ipv6Addr)
    } else {
        default!(Ipv4Addr)
    }
}

fn unless_there(what: &'static str, result: Result<(), rtnetlink::Error>) -> Result<(), Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(message))
            if message.raw_code() == -nix::libc::EEXIST =>
        {
            Ok(())
        }
        other => other.map_err(|source| Error::Refused {
            what,
            source: Box::new(source),
        }),
    }
}
