//! The tables: who is compared with whom, and under which loads.

use super::{contender::Contender, load::Load};

/// One table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// HTTP, plain.
    Plain,
    /// TCP by HBONE, from one node to another.
    Hbone,
    /// HTTP over mutual TLS, from one node to another.
    Mutual,
}

impl Table {
    /// All of them, in their order.
    pub(super) const ALL: [Self; 3] = [Self::Plain, Self::Hbone, Self::Mutual];

    /// What stands above it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Plain => "HTTP, plain",
            Self::Hbone => "TCP by HBONE: two proxies on the one core, one at each end",
            Self::Mutual => "HTTP over mutual TLS: two proxies on the one core, one at each end",
        }
    }

    /// Its rows; the first is what the others are compared with.
    pub(super) fn contenders(self) -> &'static [Contender] {
        use Contender as C;
        match self {
            Self::Plain => &[
                C::Envoy,
                C::EnvoyMesh,
                C::Haproxy,
                C::Nginx,
                C::Aquifer,
                C::AquiferMesh,
                C::AquiferBoth,
            ],
            Self::Hbone => &[C::EnvoyHbone, C::Ztunnel, C::AquiferHbone],
            Self::Mutual => &[C::EnvoyMtls, C::AquiferMtls],
        }
    }

    /// Its columns.
    pub(super) fn loads(self) -> &'static [Load] {
        match self {
            Self::Plain => &[Load::Keepalive, Load::Fresh, Load::Large, Load::Http2],
            Self::Hbone => &[Load::Keepalive, Load::Fresh, Load::Bulk],
            Self::Mutual => &[Load::Keepalive, Load::Fresh, Load::Large],
        }
    }

    /// Whether the tail of the times is measured, which takes its time.
    pub(super) fn has_tail(self) -> bool {
        self == Self::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::{Contender, Table};

    #[test]
    fn every_contender_is_in_one_table() {
        let rows = Table::ALL.into_iter().flat_map(Table::contenders);
        assert_eq!(rows.copied().collect::<Vec<_>>(), Contender::ALL);
    }
}
