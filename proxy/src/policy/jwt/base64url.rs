//! Base64 as tokens and keys are written (RFC 7515, section 2).

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Padding is neither wanted nor minded (Envoy).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of `text`.
pub(super) fn unescape(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}
