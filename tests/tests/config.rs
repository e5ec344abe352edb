//! The configuration directory: changes take force soon, mistakes cost a message and nothing else.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use aquifer_tests::{
    Manifests, PATIENCE, World,
    client::Http,
    clock,
    echo::Echo,
    world::{HTTP, at},
};

const SECOND: &str = "10.96.0.30:80";

/// A second service with the same endpoint.
fn second() -> String {
    let address = SECOND
        .parse::<SocketAddr>()
        .map(|address| address.ip())
        .into_iter();
    let addresses: Vec<_> = address.collect();
    let selector = [("app", "server")];
    Manifests::new()
        .service("second", &addresses, &[("http", 80, 8080)], &selector)
        .text()
}

async fn works(world: &World) -> Result<()> {
    let reply = world.http().await?.get("app", "/").await?;
    ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
    Ok(())
}

/// A route that is seen: everything of `app` to a host that does not exist.
fn nowhere(more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata:\n  name: app\n  namespace: default\n\
         spec:\n  hosts: [app]\n  http:\n  - route:\n    - destination: {{host: nowhere}}\n{more}"
    )
}

#[tokio::test]
async fn a_change_is_in_force_within_a_second() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    works(&world).await?;
    // The quickest of a few: a machine that is busy elsewhere may delay one.
    let (mut put, mut removed) = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        let start = clock::now();
        world
            .proxy
            .after(|| world.config.put("more.yaml", nowhere("")))
            .await?;
        put = put.min(start.elapsed());
        assert_eq!(world.http().await?.get("app", "/").await?.status, 503);
        // And its removal.
        let start = clock::now();
        world
            .proxy
            .after(|| world.config.remove("more.yaml"))
            .await?;
        removed = removed.min(start.elapsed());
        works(&world).await?;
    }
    let second = Duration::from_secs(1);
    ensure!(put < second && removed < second, "{put:?}, {removed:?}");
    Ok(())
}

#[tokio::test]
async fn a_bad_file_costs_a_message_and_nothing_else() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let bomb = {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..40 {
            let alias = format!("*a{}", n - 1);
            text += &format!("a{n}: &a{n} [{}]\n", vec![alias; 10].join(", "));
        }
        text.into_bytes()
    };
    let good = nowhere("").into_bytes();
    for (name, content) in [
        ("half an object", good[..good.len() - 12].to_vec()),
        (
            "an open bracket",
            b"apiVersion: v1\nkind: [Service\n".to_vec(),
        ),
        (
            "not UTF-8",
            b"apiVersion: v1\nkind: \xff\xfe\x00Service\n".to_vec(),
        ),
        ("17 MiB of spaces", vec![b' '; 17 << 20]),
        (
            "50 MB of garbage",
            (0..50_000_000u64)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect(),
        ),
        ("a bomb of aliases", bomb),
        (
            "a deep nest",
            [vec![b'['; 100_000], vec![b']'; 100_000]].concat(),
        ),
        ("a deep nest of maps", "a: {".repeat(50_000).into_bytes()),
        ("no object at all", b"just a line of text\n".to_vec()),
    ] {
        let mark = world.proxy.child.stderr.mark();
        let start = clock::now();
        world.config.put("bad.yaml", &content)?;
        world
            .proxy
            .until("/status", |status| {
                status["problems"].to_string().contains("bad.yaml")
            })
            .await
            .map_err(|error| error.context(name))?;
        let took = start.elapsed();
        ensure!(took < Duration::from_secs(5), "{name}: told after {took:?}");
        works(&world).await.map_err(|error| error.context(name))?;
        world
            .proxy
            .child
            .stderr
            .wait_for(mark, PATIENCE, |line| line.contains("bad.yaml"))?;
        world.config.remove("bad.yaml")?;
        world
            .proxy
            .until("/status", |status| {
                !status["problems"].to_string().contains("bad.yaml")
            })
            .await
            .map_err(|error| error.context(name))?;
    }
    // An empty file says nothing, which is no mistake; neither is one with comments only.
    for content in ["", "# nothing yet\n---\n---\n"] {
        world.config.put("bad.yaml", content)?;
        works(&world).await?;
    }
    world
        .proxy
        .after(|| world.config.put("second.yaml", second()))
        .await?;
    let mut http = Http::connect(&world.client, SECOND.parse()?).await?;
    assert_eq!(
        http.get("second", "/").await?.status,
        200,
        "good files are still read"
    );
    Ok(())
}

#[tokio::test]
async fn an_invalid_object_keeps_its_last_good_version() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    world
        .proxy
        .after(|| world.config.put("route.yaml", nowhere("")))
        .await?;
    assert_eq!(world.http().await?.get("app", "/").await?.status, 503);
    let bad = nowhere("    match: [{uri: {regex: '('}}]\n");
    world.config.put("route.yaml", bad)?;
    let status = world
        .proxy
        .until("/status", |status| {
            status["problems"].to_string().contains("uri.regex")
        })
        .await?;
    let problems = status["problems"].to_string();
    for part in [
        "VirtualService",
        "default",
        "spec.http[0].match[0].uri.regex",
        "\"line\":",
    ] {
        ensure!(problems.contains(part), "{part} is missing: {problems}");
    }
    assert_eq!(
        world.http().await?.get("app", "/").await?.status,
        503,
        "the good one holds"
    );
    // A neighbour in the same file is not held back by it.
    let both = format!(
        "{}---\n{}",
        nowhere("    match: [{uri: {regex: '('}}]\n"),
        second()
    );
    world
        .proxy
        .after(|| world.config.put("route.yaml", both))
        .await?;
    let mut http = Http::connect(&world.client, SECOND.parse()?).await?;
    assert_eq!(http.get("second", "/").await?.status, 200);
    assert_eq!(world.http().await?.get("app", "/").await?.status, 503);
    // Gone from its file, it is gone.
    world
        .proxy
        .after(|| world.config.put("route.yaml", second()))
        .await?;
    works(&world).await
}

#[tokio::test]
async fn a_file_that_cannot_be_read_keeps_what_it_held() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    // The file with the Service, the pods and the namespace itself.
    world.config.put("mesh.yaml", b"\xff\xff")?;
    world
        .proxy
        .until("/status", |status| {
            status["problems"].to_string().contains("mesh.yaml")
        })
        .await?;
    works(&world).await?;
    world.config.put("mesh.yaml", world.manifests.text())?;
    world
        .proxy
        .until("/status", |status| {
            !status["problems"].to_string().contains("mesh.yaml")
        })
        .await?;
    works(&world).await
}

#[tokio::test]
async fn an_object_given_twice_is_told_and_the_first_holds() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    world
        .proxy
        .after(|| world.config.put("a.yaml", nowhere("")))
        .await?;
    let other = nowhere("").replace("host: nowhere", "host: app");
    world.config.put("b.yaml", other)?;
    world
        .proxy
        .until("/status", |status| {
            status["problems"].to_string().contains("b.yaml")
        })
        .await?;
    assert_eq!(world.http().await?.get("app", "/").await?.status, 503);
    Ok(())
}

#[tokio::test]
async fn a_pod_that_joins_later_is_captured() -> Result<()> {
    let world = World::new().await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let late = world.lab.pod("late")?;
    // A connection from before its time goes on untouched.
    let mut early = Http::connect(&late, world.server.at(8080)).await?;
    assert_eq!(early.get("app", "/").await?.status, 200);
    let manifest = Manifests::new().pod(&late, &[("app", "late")]).text();
    world.config.put("late.yaml", manifest)?;
    world
        .proxy
        .until("/config/listeners", |listeners| {
            listeners.to_string().contains("late")
        })
        .await?;
    let reply = Http::connect(&late, at(HTTP))
        .await?
        .get("app", "/")
        .await?;
    assert_eq!(
        reply.seen()?.server(),
        "v1",
        "the cluster address works now"
    );
    assert_eq!(early.get("app", "/").await?.status, 200);
    Ok(())
}
