//! Who calls: what somebody who listens between the pods gets to read, and who is let in.

use std::io;

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Pod,
    client::{Http, request, whole},
    netns::Netns,
    wire::Capture,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::stage::{REVIEWS, Stage, example};
use crate::backend;

/// The header that callers tell their secrets in.
const HEADER: &str = "password";

/// Requests of the client while somebody listens on the bridge between the pods; and one of a pod that
/// is not in the mesh, which shows that listening works.
pub(super) async fn show_wire(stage: &Stage, requests: usize) -> Result<()> {
    stage.show_command(&["config", "secrets"])?;
    let capture = Capture::of(&stage.lab.node)?;
    let mut http = stage.connect().await?;
    for _ in 0..requests {
        let status = told(&mut http, "open sesame").await?;
        ensure!(status == 200, "status {status}");
    }
    let mut http = Http::connect(&stage.outsider, serving(stage)?.at(backend::PORT)).await?;
    told(&mut http, "in plain sight").await?;
    let heard = capture.finish()?;
    let packets = |text: &str| heard.with(text.as_bytes());
    let (secret, plain) = (packets("open sesame"), packets("in plain sight"));
    println!(
        "    somebody who listens on the bridge between the pods: {} packets, {} bytes",
        heard.packets(),
        heard.bytes()
    );
    println!(
        "    {requests} requests of the client with `{HEADER}: open sesame`: to be read in {secret} packets"
    );
    println!(
        "    one of the outsider with `{HEADER}: in plain sight`: to be read in {plain} packets"
    );
    ensure!(secret == 0, "what the client said was on the wire");
    ensure!(plain > 0, "the listener heard nothing");
    Ok(())
}

async fn told(http: &mut Http, secret: &str) -> Result<u16> {
    let head = request("GET", "reviews", "/").header(HEADER, secret);
    Ok(http.exchange(head.body(whole(""))?).await?.status)
}

/// A policy, and what becomes of who asks while it is in force.
pub(super) async fn show_policy(stage: &Stage) -> Result<()> {
    const FILE: &str = "zero-trust.yaml";
    let text = example(FILE)?;
    let change = || stage.config.put(FILE, text);
    stage.proxy.after(change).await?;
    let neighbour = serving(stage)?;
    // By its address: the Service might lead the pod to itself, whom it may always ask.
    let next = stage.serving.get(1).context("no second pod")?;
    let (service, next) = (REVIEWS.parse()?, next.at(backend::PORT));
    for (caller, what, method, to, expected) in [
        (&stage.client, "account client", "GET", service, 200),
        (&stage.client, "account client", "POST", service, 403),
        (neighbour, "account reviews", "GET", next, 403),
    ] {
        let mut http = Http::connect(caller, to).await?;
        let asked = request(method, "reviews", "/").body(whole(""))?;
        let status = http.exchange(asked).await?.status;
        println!("    {:<13} {what:<16} {method:<5} {status}", caller.name);
        ensure!(status == expected, "where {expected} was expected");
    }
    for (name, what, from) in [
        ("outsider", "outside the mesh", &stage.outsider.netns),
        ("the node", "outside the mesh", &stage.lab.node),
    ] {
        let refused = plain(from, neighbour).await.err().map(|error| error.kind());
        println!("    {name:<13} {what:<16} GET   connection reset");
        ensure!(
            refused == Some(io::ErrorKind::ConnectionReset),
            "but it was: {refused:?}"
        );
    }
    stage.proxy.after(|| stage.config.remove(FILE)).await
}

/// The first byte of what `to` answers in plain text.
async fn plain(from: &Netns, to: &Pod) -> io::Result<u8> {
    let mut stream = from.connect(to.at(backend::PORT)).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n")
        .await?;
    stream.read_u8().await
}

fn serving(stage: &Stage) -> Result<&Pod> {
    stage.serving.first().context("no pod")
}
