//! Which rows are asked for: the query of the admin interface, the flags of `aquifer config`.

use std::fmt::Write as _;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Conditions that all must hold; none takes everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// `namespace/name`, or a name in the namespace `default`.
    pub pod: Option<String>,
    /// A service's full name, or its first parts (`web`, `web.shop`).
    pub host: Option<String>,
    /// A port of a service; for listeners their own.
    pub port: Option<u16>,
    /// A subset.
    pub subset: Option<String>,
}

impl Filter {
    /// Reads `pod=shop/web&host=web&port=80&subset=v1`.
    ///
    /// # Errors
    /// One line that names the parameter.
    pub fn from_query(query: Option<&str>) -> Result<Self, String> {
        let mut filter = Self::default();
        let pairs = query.unwrap_or_default().split('&');
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| format!("the parameter {name} is not text"))?
                .into_owned();
            match name {
                "pod" => filter.pod = Some(value),
                "host" => filter.host = Some(value),
                "subset" => filter.subset = Some(value),
                "port" => {
                    let port = value.parse();
                    filter.port = Some(port.map_err(|_| format!("{value:?} is not a port"))?);
                }
                name => {
                    return Err(format!(
                        "unknown parameter {name:?}; known are pod, host, port and subset"
                    ));
                }
            }
        }
        Ok(filter)
    }

    /// The query, with its `?`; empty where nothing is asked.
    pub fn to_query(&self) -> String {
        let port = self.port.map(|port| port.to_string());
        let mut query = String::new();
        for (name, value) in [
            ("pod", &self.pod),
            ("host", &self.host),
            ("port", &port),
            ("subset", &self.subset),
        ] {
            if let Some(value) = value {
                let separator = if query.is_empty() { '?' } else { '&' };
                let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
                // Writing to a String does not fail.
                let _ = write!(query, "{separator}{name}={value}");
            }
        }
        query
    }

    /// The pod's namespace.
    pub(super) fn namespace(&self) -> Option<&str> {
        let pod = self.pod.as_deref()?;
        Some(
            pod.split_once('/')
                .map_or("default", |(namespace, _)| namespace),
        )
    }

    pub(super) fn without_pod(&self) -> Self {
        Self {
            pod: None,
            ..self.clone()
        }
    }

    pub(super) fn wants_pod(&self, pod: Option<&str>) -> bool {
        let Some(wanted) = self.pod.as_deref() else {
            return true;
        };
        let Some((namespace, name)) = pod.and_then(|pod| pod.split_once('/')) else {
            return false;
        };
        match wanted.split_once('/') {
            Some(wanted) => wanted == (namespace, name),
            None => namespace == "default" && name == wanted,
        }
    }

    pub(super) fn wants_host(&self, host: &str) -> bool {
        self.host.as_deref().is_none_or(|wanted| {
            host.strip_prefix(wanted)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    pub(super) fn wants_port(&self, port: u16) -> bool {
        self.port.is_none_or(|wanted| wanted == port)
    }

    pub(super) fn wants_subset(&self, subset: Option<&str>) -> bool {
        self.subset.is_none() || self.subset.as_deref() == subset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_go_there_and_back() {
        let filter = Filter {
            pod: Some("shop/web-1".into()),
            host: Some("a&b=c d".into()),
            port: Some(80),
            subset: Some("é".into()),
        };
        let query = filter.to_query();
        assert_eq!(Filter::from_query(query.strip_prefix('?')), Ok(filter));
        assert_eq!(Filter::default().to_query(), "");
        assert_eq!(Filter::from_query(None), Ok(Filter::default()));
        for (query, message) in [
            ("port=x", "\"x\" is not a port"),
            ("port=", "\"\" is not a port"),
            (
                "a=b",
                "unknown parameter \"a\"; known are pod, host, port and subset",
            ),
            ("host=%ff", "the parameter host is not text"),
        ] {
            assert_eq!(
                Filter::from_query(Some(query)),
                Err(message.to_owned()),
                "{query}"
            );
        }
    }

    #[test]
    fn hosts_and_pods_are_found_by_parts() {
        for (host, expected) in [
            ("web", true),
            ("web.shop", true),
            ("we", false),
            ("shop", false),
            ("web.shop.svc.cluster.local", true),
        ] {
            let filter = Filter {
                host: Some(host.into()),
                ..Filter::default()
            };
            assert_eq!(
                filter.wants_host("web.shop.svc.cluster.local"),
                expected,
                "{host}"
            );
        }
        for (wanted, pod, expected) in [
            ("shop/a", Some("shop/a"), true),
            ("shop/a", Some("shop/b"), false),
            ("a", Some("default/a"), true),
            ("a", Some("shop/a"), false),
            ("a", None, false),
        ] {
            let filter = Filter {
                pod: Some(wanted.into()),
                ..Filter::default()
            };
            assert_eq!(filter.wants_pod(pod), expected, "{wanted} {pod:?}");
        }
    }
}
