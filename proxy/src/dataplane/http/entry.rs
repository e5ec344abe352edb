//! How a request comes in, outbound and at its destination alike: one unambiguous request with the
//! fields that rules and policies see. Knows neither.

use http::{HeaderValue, request};
use hyper::upgrade::OnUpgrade;

use super::canonical::Canonical;
use super::fields::Fields;
use super::headers;
use crate::dataplane::error::Error;
use crate::dataplane::outcome::Exchange;
use crate::dataplane::worker::Worker;

/// A request that is understood.
pub(super) struct Entered {
    pub(super) canonical: Canonical,
    /// The client's side of an upgrade that it asks for, and to what.
    pub(super) client: Option<(OnUpgrade, HeaderValue)>,
}

/// Reads a request's head, and notes in `exchange` who it is for and its identity.
pub(super) fn enter(
    worker: &Worker,
    exchange: &mut Exchange,
    mut parts: Box<request::Parts>,
    fields: Fields,
) -> Result<Entered, Error> {
    let client = parts.extensions.remove::<OnUpgrade>();
    let mut canonical = Canonical::new(parts, fields)?;
    // An extended CONNECT has become an upgrade.
    let fields = if client.is_some() {
        Fields::of(&canonical.parts.headers)
    } else {
        fields
    };
    let random = || u128::from(worker.draw()) << 64 | u128::from(worker.draw());
    let upgrade = headers::enter(&mut canonical.parts.headers, fields, random);
    if fields.has(Fields::FORWARDED_FOR) {
        exchange.forwarded = headers::forwarded(&mut canonical.parts.headers);
    }
    if let Some(requested) = &mut exchange.requested {
        requested.request_id = canonical.parts.headers.get(headers::REQUEST_ID).cloned();
    }
    Ok(Entered {
        canonical,
        client: client.zip(upgrade),
    })
}
