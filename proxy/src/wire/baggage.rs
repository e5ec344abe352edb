//! What one end of HBONE tells the other about its workload, as ztunnel does: the header `baggage`
//! (W3C) with OpenTelemetry's names. For telemetry alone: nobody vouches for it.

use std::fmt::Write as _;

/// A workload; what is empty is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Baggage<'a> {
    /// The cluster that it runs in.
    pub cluster: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its pod's name.
    pub pod: &'a str,
    /// Its canonical name.
    pub service: &'a str,
    /// Its canonical revision.
    pub version: &'a str,
    /// Where it runs.
    pub region: &'a str,
    /// Where in the region.
    pub zone: &'a str,
}

impl Baggage<'_> {
    /// The header's value.
    pub fn header(&self) -> String {
        let mut text = String::new();
        for (key, value) in [
            ("k8s.cluster.name", self.cluster),
            ("k8s.namespace.name", self.namespace),
            ("k8s.pod.name", self.pod),
            ("service.name", self.service),
            ("service.version", self.version),
            ("cloud.region", self.region),
            ("cloud.availability_zone", self.zone),
        ] {
            if value.is_empty() {
                continue;
            }
            let comma = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{comma}{key}=");
            for byte in value.bytes() {
                match byte {
                    // What W3C Baggage, section 3.3.1.1, lets a value have.
                    b'!' | b'#'..=b'$' | b'&'..=b'+' | b'-'..=b':' | b'<'..=b'[' | b']'..=b'~' => {
                        text.push(char::from(byte));
                    }
                    _ => {
                        let _ = write!(text, "%{byte:02X}");
                    }
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_written_and_nothing_breaks_out() {
        let known = Baggage {
            cluster: "Kubernetes",
            namespace: "default",
            pod: "web-1",
            service: "web, a\"b\\c;d=é%",
            region: "r",
            ..Baggage::default()
        };
        assert_eq!(
            known.header(),
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.pod.name=web-1,\
             service.name=web%2C%20a%22b%5Cc%3Bd=%C3%A9%25,cloud.region=r"
        );
        assert_eq!(Baggage::default().header(), "");
    }
}
