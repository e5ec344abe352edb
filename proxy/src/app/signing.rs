//! Who signs this node's certificates, as the settings say, and where they are kept.

use std::sync::Arc;

use anyhow::Context as _;

use crate::control::certificates::{Anchors, Authority, Driver, Istio, Own, istio};
use crate::settings;
use crate::tls::{Bundle, Secrets, Trust};

/// Certificates, and what fetches them.
pub(super) struct Signing {
    /// Empty, and it stays so, where there is no authority.
    pub(super) secrets: Secrets,
    /// `None` without `--ca`: then no key is made and no cryptography is set up.
    pub(super) driver: Option<Driver>,
}

impl Signing {
    pub(super) fn new(settings: &settings::Certificates) -> anyhow::Result<Self> {
        let Some(ca) = &settings.ca else {
            let nobody = Trust::nobody(Arc::clone(&settings.trust_domain));
            return Ok(Self {
                secrets: Secrets::new(nobody),
                driver: None,
            });
        };
        let anchors = anchors(settings)?;
        let secrets = Secrets::new(anchors.trust(&[])?);
        let authority = authority(ca, settings)?;
        Ok(Self {
            driver: Some(Driver::new(authority, anchors, secrets.clone())),
            secrets,
        })
    }
}

/// Who is trusted whatever the authority says.
fn anchors(settings: &settings::Certificates) -> anyhow::Result<Anchors> {
    let roots = settings.roots.iter().map(|one| {
        let file = Bundle::open(&one.file).context("--trust-roots")?;
        Ok((Arc::clone(&one.domain), file))
    });
    Ok(Anchors {
        domain: Arc::clone(&settings.trust_domain),
        aliases: settings.aliases.clone(),
        roots: roots.collect::<anyhow::Result<_>>()?,
    })
}

fn authority(
    ca: &settings::Ca,
    settings: &settings::Certificates,
) -> anyhow::Result<Arc<dyn Authority>> {
    match ca {
        settings::Ca::Own => {
            let own = Own::open(
                &settings.ca_dir,
                &settings.trust_domain,
                settings.certificate_life,
            );
            Ok(Arc::new(own.context("--ca-dir")?))
        }
        settings::Ca::Istio(address) => {
            let istio = Istio::new(istio::Settings {
                address: address.clone(),
                name: settings.ca_name.clone(),
                token: settings.ca_token.clone(),
                roots: settings.ca_roots.clone(),
                cluster: settings.cluster_id.clone(),
                life: settings.certificate_life,
            });
            Ok(Arc::new(istio.context("--ca")?))
        }
    }
}
