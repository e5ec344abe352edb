//! The harness itself, without a proxy: if these fail, nothing else here means anything.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use aquifer_tests::{
    Lab, Pod,
    client::{Http, request, whole},
    echo::Echo,
    process::Child,
    raw::{self, End, Server},
};
use tokio::io::AsyncWriteExt;

fn pair() -> Result<(Pod, Pod, Lab)> {
    let lab = Lab::new()?;
    Ok((lab.pod("client")?, lab.pod("server")?, lab))
}

#[tokio::test]
async fn pods_reach_each_other_over_both_families() -> Result<()> {
    let (client, server, _lab) = pair()?;
    let echo = Echo::start(&server, 8080, "v1")?;
    for (to, from) in [
        (server.at(8080), client.at(0)),
        (server.at6(8080), client.at6(0)),
    ] {
        let seen = Http::connect(&client, to)
            .await?
            .get("server", "/a?b=c")
            .await?
            .seen()?;
        assert_eq!((seen.server(), seen.field("target")), ("v1", "/a?b=c"));
        let peer: SocketAddr = seen.field("peer").parse()?;
        assert_eq!(peer.ip(), from.ip());
        assert_eq!(seen.field("local"), to.to_string());
    }
    assert_eq!((echo.connections(), echo.requests()), (2, 2));
    Ok(())
}

#[tokio::test]
async fn the_echo_speaks_http2_and_counts_bodies() -> Result<()> {
    let (client, server, _lab) = pair()?;
    let _echo = Echo::start(&server, 8080, "v1")?;
    let mut http = Http::connect2(&client, server.at(8080)).await?;
    let body = whole(vec![7; 100_000]);
    let reply = http
        .exchange(request("POST", "shop:80", "/x").body(body)?)
        .await?;
    let seen = reply.seen()?;
    assert_eq!(seen.field("version"), "HTTP/2.0");
    assert_eq!(
        (seen.field("host"), seen.body_bytes()),
        ("shop:80", 100_000)
    );
    Ok(())
}

#[tokio::test]
async fn a_raw_client_tells_fin_from_reset() -> Result<()> {
    let (client, server, _lab) = pair()?;
    let _server = Server::start(&server, 9000, |mut stream, number| async move {
        let _ = raw::read_until(&mut stream, b"\n").await;
        let _ = stream.write_all(b"bye").await;
        if number == 1 {
            let _ = raw::reset(stream);
        }
    })?;
    assert_eq!(
        raw::ask(&client, server.at(9000), b"1\n").await?,
        ("bye".into(), End::Closed)
    );
    let (_, end) = raw::ask(&client, server.at(9000), b"2\n").await?;
    assert_eq!(end, End::Reset);
    Ok(())
}

#[tokio::test]
async fn a_lab_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new()?;
    let pod = lab.pod("app")?;
    let path = PathBuf::from(pod.netns.path());
    let mut sleeper = std::process::Command::new("sleep");
    sleeper.arg("600");
    let child = Child::start(Some(&pod.netns), sleeper)?;
    let process = PathBuf::from(format!("/proc/{}", child.pid()));
    assert!(path.exists() && process.exists());
    // Neither the child nor the pod is dropped by its owner: the lab ends them.
    let child = std::mem::ManuallyDrop::new(child);
    let _pod = std::mem::ManuallyDrop::new(pod);
    drop(lab);
    child.wait(aquifer_tests::PATIENCE)?;
    assert!(!path.exists());
    Ok(())
}
