//! What a CONNECT asks for: a port of the workload at whose address the connection arrived, and
//! nothing else.
//!
//! Headers are not looked at: nobody vouches for them. Who asks is known by TLS, from where by TCP.

use std::net::{IpAddr, SocketAddr};

use http::{Method, Request, StatusCode};

use super::PORT;
use crate::types::Reason;

/// Why a CONNECT is not carried out. The statuses are ztunnel's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0} is not CONNECT")]
    Method(Method),
    #[error("no authority")]
    NoAuthority,
    #[error("{0:?} is not ADDRESS:PORT")]
    Malformed(String),
    #[error("{0} is not the address that was dialled")]
    OtherAddress(IpAddr),
    /// ztunnel takes names for what comes from another network's gateway, which there is none of.
    #[error("{0:?} is a name")]
    Name(String),
    #[error("port {0} is the proxy's own")]
    OwnPort(u16),
}

impl Refusal {
    /// What the caller is answered.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Method(_) | Self::NoAuthority | Self::Malformed(_) | Self::OtherAddress(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Name(_) | Self::OwnPort(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// In one word.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Method(_) => Reason::NotConnect,
            Self::NoAuthority | Self::Malformed(_) => Reason::Malformed,
            Self::OtherAddress(_) => Reason::OtherAddress,
            Self::Name(_) => Reason::Name,
            Self::OwnPort(_) => Reason::OwnPort,
        }
    }
}

/// Where `request` wants to be connected, having come to `dialled`. `is_own` tells the proxy's own
/// ports in the pod's namespace.
pub(super) fn destination<B>(
    request: &Request<B>,
    dialled: IpAddr,
    is_own: impl Fn(u16) -> bool,
) -> Result<SocketAddr, Refusal> {
    if request.method() != Method::CONNECT {
        return Err(Refusal::Method(request.method().clone()));
    }
    let authority = request.uri().authority().ok_or(Refusal::NoAuthority)?;
    let text = authority.as_str();
    let asked: SocketAddr = match text.parse() {
        Ok(asked) => asked,
        Err(_) => return Err(not_an_address(text)),
    };
    // As it is written: `::ffff:10.0.0.1` is not 10.0.0.1, and a scope is nobody's.
    let plain = match asked {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(asked) => asked.scope_id() == 0,
    };
    if asked.ip() != dialled || !plain {
        return Err(Refusal::OtherAddress(asked.ip()));
    }
    match asked.port() {
        port if port == 0 || port == PORT || is_own(port) => Err(Refusal::OwnPort(port)),
        _ => Ok(asked),
    }
}

fn not_an_address(text: &str) -> Refusal {
    let is_name = |host: &str| {
        let mut bytes = host.bytes();
        !host.is_empty()
            && host.parse::<IpAddr>().is_err()
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
    };
    match text.rsplit_once(':') {
        Some((host, port)) if is_name(host) && port.parse::<u16>().is_ok() => {
            Refusal::Name(text.to_owned())
        }
        _ => Refusal::Malformed(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;

    #[test]
    fn a_connect_reaches_the_address_that_was_dialled_and_no_other() {
        let v4 = "10.77.0.2";
        let v6 = "fd00::2";
        for (dialled, authority, status) in [
            (v4, "10.77.0.2:9001", 200),
            (v4, "10.77.0.2:65535", 200),
            (v4, "10.77.0.2:15001", 200),
            (v6, "[fd00::2]:9001", 200),
            (v6, "[fd00:0:0::2]:9001", 200),
            // Another's, the loopback, a Service's, any.
            (v4, "10.77.0.3:9001", 400),
            (v4, "127.0.0.1:9001", 400),
            (v4, "10.96.0.10:80", 400),
            (v4, "0.0.0.0:9001", 400),
            (v4, "[::1]:9001", 400),
            (v4, "[::ffff:10.77.0.2]:9001", 400),
            (v6, "[fd00::3]:9001", 400),
            // No port, or none that there is.
            (v4, "10.77.0.2", 400),
            (v4, "10.77.0.2:", 400),
            (v4, "10.77.0.2:65536", 400),
            (v4, "10.77.0.2:99999999999", 400),
            (v4, "app.default.svc.cluster.local", 400),
            (v4, "user@10.77.0.2:9001", 400),
            // Names, and the proxy's own ports.
            (v4, "app.default.svc.cluster.local:80", 503),
            (v4, "localhost:9001", 503),
            (v4, "10.77.0.2:0", 503),
            (v4, "10.77.0.2:15008", 503),
            (v4, "10.77.0.2:15100", 503),
        ] {
            let uri: Uri = authority.parse().expect(authority);
            let request = Request::connect(uri).body(()).expect("a request");
            let dialled = dialled.parse().expect("an address");
            let found = destination(&request, dialled, |port| port == 15100);
            let found_status = found
                .as_ref()
                .map_or_else(Refusal::status, |_| StatusCode::OK);
            assert_eq!(found_status.as_u16(), status, "{authority}: {found:?}");
        }
        let dialled = v4.parse().expect("an address");
        let request = Request::get("http://10.77.0.2:9001/").body(()).unwrap();
        let refusal = destination(&request, dialled, |_| false).unwrap_err();
        assert_eq!(refusal, Refusal::Method(Method::GET));
        assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        let refusal = destination(&request, dialled, |_| false).unwrap_err();
        assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
    }
}
