//! Whether the peer of a connection is still there: it is asked every 10 s, and has 20 s to answer
//! (ztunnel's times).

use std::future::{pending, poll_fn};
use std::time::Duration;

use h2::{Ping, PingPong};

const INTERVAL: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(20);

/// Resolves when the peer has not answered in time. `None` of `pings`: somebody else asks.
pub(super) async fn silent(pings: Option<PingPong>) {
    let Some(mut pings) = pings else {
        return pending().await;
    };
    loop {
        tokio::time::sleep(INTERVAL).await;
        // An error means that the connection has ended, which its driver is told.
        if pings.send_ping(Ping::opaque()).is_err() {
            return pending().await;
        }
        let answer = poll_fn(|cx| pings.poll_pong(cx));
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return pending().await,
            Err(_) => return,
        }
    }
}
