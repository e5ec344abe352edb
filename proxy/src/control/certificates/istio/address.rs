//! The URL of an authority.

use std::str::FromStr;

use http::Uri;
use rustls::pki_types::ServerName;

/// istiod's port.
const PORT: u16 = 15012;

/// Where an authority is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name, or an IP address (IPv6 without brackets).
    pub host: String,
    /// 15012 where the text has none.
    pub port: u16,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "https://HOST:PORT is wanted".to_owned();
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if uri.scheme_str() != Some("https")
            || !matches!(uri.path(), "" | "/")
            || uri.query().is_some()
            || authority.as_str().contains('@')
        {
            return Err(wrong());
        }
        let host = authority.host();
        // Its own reading of the port takes one that is none for an absent one.
        let port = match authority.as_str().strip_prefix(host) {
            Some("") => PORT,
            rest => {
                let port = rest.and_then(|rest| rest.strip_prefix(':'));
                port.and_then(|port| port.parse().ok()).ok_or_else(wrong)?
            }
        };
        let host = host
            .strip_prefix('[')
            .map_or(host, |rest| rest.trim_end_matches(']'));
        ServerName::try_from(host).map_err(|_| wrong())?;
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}
