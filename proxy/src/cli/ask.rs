//! Asks a running proxy, over its admin interface.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A proxy that is busy answers late, one that hangs never.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bound on an answer. Ten thousand services have routes of a few megabytes.
const MAX_ANSWER: usize = 256 << 20;

/// The JSON that the proxy at `admin` has for `path`.
///
/// # Errors
/// One line: nobody is there, or it does not answer, or it refuses.
pub(super) fn ask(admin: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        match timeout(PATIENCE, get(admin, path)).await {
            Ok(answer) => answer,
            Err(_) => bail!("the proxy at {admin} does not answer within {PATIENCE:?}"),
        }
    })
}

async fn get(admin: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let stream = TcpStream::connect(admin).await.map_err(|error| {
        anyhow::anyhow!(
            "no proxy answers at {admin} ({error}); start one with `aquifer run`, or say where it is with --admin"
        )
    })?;
    let not_ours = || format!("what answers at {admin} is not aquifer's admin interface");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .with_context(not_ours)?;
    // Its errors are the request's.
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(http::header::HOST, admin.to_string())
        .body(Empty::<Bytes>::new())
        .with_context(|| format!("ask for {path}"))?;
    let response = sender.send_request(request).await.with_context(not_ours)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    let body = body
        .map_err(|error| anyhow::anyhow!("the answer of {admin} broke off: {error}"))?
        .to_bytes();
    match status {
        StatusCode::OK => Ok(body),
        status => {
            let said = String::from_utf8_lossy(&body);
            let said = said.lines().next().unwrap_or_default();
            bail!("the proxy at {admin} answers {path} with {status}: {said}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// What a peer that sends `answer` to anything makes of a question.
    fn answered(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut question = [0; 1024];
            let read = stream.read(&mut question).expect("a question");
            stream.write_all(answer).expect("sent");
            String::from_utf8_lossy(&question[..read]).into_owned()
        });
        let result = ask(address, "/status");
        let question = peer.join().expect("the peer");
        assert!(
            question.starts_with("GET /status HTTP/1.1\r\n"),
            "{question}"
        );
        match result {
            Ok(body) => String::from_utf8_lossy(&body).into_owned(),
            Err(error) => error.to_string().replace(&address.to_string(), "ADDR"),
        }
    }

    #[test]
    fn answers_and_refusals() {
        for (answer, expected) in [
            (&b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"[..], "{}"),
            (
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nnope\n",
                "the proxy at ADDR answers /status with 404 Not Found: nope",
            ),
            (
                b"SSH-2.0-OpenSSH\r\n",
                "what answers at ADDR is not aquifer's admin interface",
            ),
        ] {
            assert_eq!(answered(answer), expected);
        }
    }

    #[test]
    fn nobody_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let error = ask(address, "/status").expect_err("nobody").to_string();
        assert!(
            error.starts_with(&format!(
                "no proxy answers at {address} (Connection refused"
            )),
            "{error}"
        );
        assert!(
            error.ends_with("or say where it is with --admin"),
            "{error}"
        );
    }
}
