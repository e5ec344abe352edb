//! `aquifer ca`: the certificate authority.

use crate::settings;

/// Run a certificate authority for the mesh's node proxies.
///
/// It speaks the protocol of Istio's (istio.v1.auth.IstioCertificateService), knows nodes by their
/// tokens, and signs the identities of pods on the node that asks, and no others. `aquifer run --ca
/// https://HOST:15012 --ca-token FILE --ca-roots FILE` asks it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: settings::Authority,
}

/// Runs `authority` until it is told to stop.
pub fn run(
    args: Args,
    authority: impl FnOnce(settings::Authority) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    super::run::log(&args.settings.log, None)?;
    authority(args.settings)
}
