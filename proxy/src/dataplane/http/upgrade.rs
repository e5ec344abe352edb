//! A connection that changed its protocol (101): from here on bytes go both ways untouched.

use std::rc::Rc;

use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::Downstream;
use crate::dataplane::outcome::Exchange;
use crate::dataplane::worker;
use crate::types::ResponseFlags;

/// One read's worth, each way.
const BUFFER: usize = 16 * 1024;

/// Relays between the two sides once both have changed over; the exchange ends with it.
pub(super) fn relay(
    downstream: &Rc<Downstream>,
    client: OnUpgrade,
    response: &mut Response<Incoming>,
    mut exchange: Box<Exchange>,
) {
    let upstream = hyper::upgrade::on(response);
    worker::spawn(&downstream.worker, &downstream.pod, async move {
        let (Ok(client), Ok(upstream)) = (client.await, upstream.await) else {
            exchange.abandon(ResponseFlags::DOWNSTREAM_CLOSED);
            return;
        };
        let mut client: TokioIo<Upgraded> = TokioIo::new(client);
        let mut upstream: TokioIo<Upgraded> = TokioIo::new(upstream);
        let moved =
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER);
        match moved.await {
            Ok((_, sent)) => {
                exchange.sent = sent;
                exchange.complete();
            }
            // Which side failed can't be told; the other is closed with it.
            Err(_) => exchange.abandon(ResponseFlags::UPSTREAM_CLOSED),
        }
    });
}
