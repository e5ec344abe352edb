//! The cryptography in use, and the clock that rustls asks.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use crate::clock;

/// AWS-LC, with what this mesh offers, the best first.
///
/// - AES-GCM alone, as ztunnel: every machine that runs a cluster has it in hardware. 128 bits
///   before 256: a tenth less work a byte, and equally out of reach.
/// - ML-KEM with X25519 first: who records today can't read it with a quantum computer later. A peer
///   without it (ztunnel by default) takes X25519, whose share is sent along.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            ],
            kx_groups: vec![
                aws_lc_rs::kx_group::X25519MLKEM768,
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
                aws_lc_rs::kx_group::SECP384R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    });
    &PROVIDER
}

/// The same for servers outside the mesh, which may have no more than TLS 1.2: with every suite of
/// AWS-LC that has forward secrecy.
pub(super) fn outside() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            cipher_suites: aws_lc_rs::default_provider().cipher_suites,
            ..CryptoProvider::clone(provider())
        })
    });
    &PROVIDER
}

/// SHA-256.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

/// The proxy's own clock.
#[derive(Debug)]
pub(super) struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        unix(clock::wall())
    }
}

/// As rustls takes times; `None` before 1970.
pub(super) fn unix(time: std::time::SystemTime) -> Option<UnixTime> {
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(UnixTime::since_unix_epoch(since))
}
