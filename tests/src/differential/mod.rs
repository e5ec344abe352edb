//! The differential suite: the same policy in aquifer and in Envoy, the same requests to both, the same
//! scripted upstreams behind them; and what differs.
//!
//! | module | what |
//! | --- | --- |
//! | [`scenario`], [`table`] | a line of the tables; the tables |
//! | [`script`], [`upstream`], [`book`] | what upstreams do; they; what they saw |
//! | [`secure`] | upstreams that speak TLS |
//! | [`request`], [`client`] | what is asked; asking it |
//! | [`istiod`], [`envoy`] | Istio's resources as Envoy's configuration; Envoy |
//! | [`play`] | a scenario's Service, and what aquifer reads of it |
//! | [`stage`] | the lab with all of that, and one run of a scenario |
//! | [`log`], [`observe`] | what was seen on one side |
//! | [`expect`], [`compare`], [`listed`] | whether Envoy does what was meant; what differs; whether that is known |

use std::net::Ipv4Addr;

pub mod book;
pub mod client;
pub mod compare;
pub mod envoy;
pub mod expect;
pub mod istiod;
pub mod listed;
pub mod log;
pub mod observe;
pub mod play;
pub mod request;
pub mod scenario;
pub mod script;
pub mod secure;
pub mod stage;
pub mod suite;
pub mod table;
pub mod upstream;

/// The network that the Services' addresses are of.
pub const SERVICES: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 97, 0, 0), 16);

/// The network of Services whose addresses are a pod's own: what is not balanced arrives there.
pub const DIALLED: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 98, 0, 0), 16);

/// The localities of the pods that have one, as `region/zone`.
pub const LOCALITIES: [&str; 4] = ["r1/z1", "r1/z2", "r2/z1", "r3/z1"];

/// The locality of the clients.
pub const CLIENT_LOCALITY: &str = "r1/z1";

/// The port of a Service.
pub fn port(kind: scenario::Port, endpoints: scenario::Endpoints) -> u16 {
    if kind != scenario::Port::Tcp && endpoints.are_dialled() {
        return 8080;
    }
    match kind {
        scenario::Port::Http | scenario::Port::Http2 => 80,
        scenario::Port::Tcp => 9000,
        scenario::Port::Tls => 9443,
    }
}
