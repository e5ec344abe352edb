//! Where a workload runs: region, zone and subzone, as Kubernetes' topology labels name them.

use std::fmt;
use std::sync::Arc;

/// A place, from coarse to fine. A part that is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// `topology.istio.io/subzone`.
    pub subzone: Arc<str>,
}

impl Locality {
    /// From `region/zone/subzone`, as Istio writes it; what follows a third `/` is ignored, and
    /// parts that are missing stay empty.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split('/').map(Arc::from);
        let mut next = || parts.next().unwrap_or_default();
        Self {
            region: next(),
            zone: next(),
            subzone: next(),
        }
    }

    /// From the pod label `istio-locality`, where `.` stands for `/` since a label's value may
    /// hold none. A value with a `/` is taken as it is (Istio's `GetLocalityLabel`).
    pub fn of_label(value: &str) -> Self {
        if value.contains('/') {
            Self::parse(value)
        } else {
            Self::parse(&value.replace('.', "/"))
        }
    }

    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.subzone.is_empty()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.region)?;
        if !self.zone.is_empty() || !self.subzone.is_empty() {
            write!(f, "/{}", self.zone)?;
        }
        if !self.subzone.is_empty() {
            write!(f, "/{}", self.subzone)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localities_are_read_and_written() {
        for (text, region, zone, subzone, written) in [
            ("", "", "", "", ""),
            ("r", "r", "", "", "r"),
            ("r/z", "r", "z", "", "r/z"),
            ("r/z/s", "r", "z", "s", "r/z/s"),
            ("r/z/s/more", "r", "z", "s", "r/z/s"),
            ("r//s", "r", "", "s", "r//s"),
            ("/z", "", "z", "", "/z"),
        ] {
            let locality = Locality::parse(text);
            let parts = (&*locality.region, &*locality.zone, &*locality.subzone);
            assert_eq!(parts, (region, zone, subzone), "{text}");
            assert_eq!(locality.to_string(), written, "{text}");
        }
    }

    #[test]
    fn a_label_has_dots_for_slashes() {
        for (value, expected) in [
            ("us-east.a.rack1", "us-east/a/rack1"),
            ("us-east/a.b", "us-east/a.b"),
            ("us-east", "us-east"),
        ] {
            assert_eq!(
                Locality::of_label(value),
                Locality::parse(expected),
                "{value}"
            );
        }
    }
}
