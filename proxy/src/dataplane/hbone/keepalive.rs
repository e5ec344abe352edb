//! Whether the peer of a connection is still there: it is asked every 10 s, and whenever somebody
//! doubts it, and has 20 s to answer (ztunnel's times).

use std::future::{pending, poll_fn};
use std::time::Duration;

use h2::{Ping, PingPong};

/// Between an answer and the next question.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// For an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Resolves when the peer has not answered in time. `None` of `pings`: somebody else asks. It is asked
/// after `interval`, or when `doubted` resolves; `heard` is told of each answer.
pub(super) async fn silent<D: Future<Output = ()>>(
    pings: Option<PingPong>,
    (interval, patience): (Duration, Duration),
    doubted: impl Fn() -> D,
    heard: impl Fn(),
) {
    let Some(mut pings) = pings else {
        return pending().await;
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = doubted() => {}
        }
        // An error means that the connection has ended, which its driver is told.
        if pings.send_ping(Ping::opaque()).is_err() {
            return pending().await;
        }
        let answer = poll_fn(|cx| pings.poll_pong(cx));
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(_)) => heard(),
            Ok(Err(_)) => return pending().await,
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use bytes::Bytes;
    use h2::{client, server};
    use tokio::sync::Notify;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    /// Runs it against a peer that reads, and so answers, or does not, until it has heard so many
    /// answers or has given up. Whether it gave up, and how many it heard.
    async fn asked(answers: bool, times: (Duration, Duration), doubt: bool) -> (bool, u32) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (client, server) = tokio::join!(
            client::Builder::new().handshake::<_, Bytes>(near),
            server::Builder::new().handshake::<_, Bytes>(far),
        );
        let (_send, mut connection) = client.expect("a client");
        let mut server = server.expect("a server");
        let pings = connection.ping_pong();
        let (heard, told, doubted) = (Cell::new(0), Notify::new(), Notify::new());
        if doubt {
            doubted.notify_one();
        }
        let wanted = if doubt { 1 } else { 3 };
        let hears = || {
            heard.set(heard.get() + 1);
            if heard.get() == wanted {
                told.notify_one();
            }
        };
        let gave_up = tokio::select! {
            () = silent(pings, times, || doubted.notified(), hears) => true,
            () = told.notified() => false,
            _ = connection => panic!("it has ended"),
            _ = async { server.accept().await }, if answers => panic!("no stream was opened"),
        };
        (gave_up, heard.get())
    }

    #[tokio::test]
    async fn a_peer_is_asked_in_time_and_given_up_when_it_does_not_answer() {
        for (name, answers, times, doubt, expected) in [
            ("one that answers", true, (SHORT, LONG), false, (false, 3)),
            ("one that does not", false, (SHORT, SHORT), false, (true, 0)),
            ("doubted, and there", true, (LONG, LONG), true, (false, 1)),
            ("doubted, and not", false, (LONG, SHORT), true, (true, 0)),
        ] {
            let begun = crate::clock::now();
            assert_eq!(asked(answers, times, doubt).await, expected, "{name}");
            if !doubt && !answers {
                assert!(begun.elapsed() >= times.0 + times.1, "{name}: too early");
            }
        }
    }
}
