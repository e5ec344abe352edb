//! The kernel side as a whole proxy drives it: what its programs say, and how often one connection
//! meets them.

use anyhow::{Context, Result};
use aquifer_tests::{
    PATIENCE, Pod, Proxy, World,
    client::Http,
    echo::Echo,
    world::{self, APP, APP6, HTTP, TCP},
};

/// What the log calls the kernel programs.
const PROGRAMS: &str = "aquifer::kernel::program";

/// One request from each side, so that every program has something to say.
async fn traffic(world: &World, outside: &Pod) -> Result<()> {
    for (from, to) in [
        (&world.client, world::at(HTTP)),
        (outside, world.server.at(8080)),
    ] {
        let reply = Http::connect(from, to).await?.get("app", "/").await?;
        assert_eq!(reply.status, 200, "{} to {to}", from.name);
    }
    Ok(())
}

#[tokio::test]
async fn the_kernel_programs_lines_are_logged_on_request() -> Result<()> {
    let world = World::with(&["--kernel-log", "debug"], |all| all).await?;
    let _echo = Echo::start(&world.server, 8080, "v1")?;
    let outside = world.lab.pod("outside")?;
    let mark = world.proxy.child.stderr.mark();
    traffic(&world, &outside).await?;
    // A line of each program that has one, with the values that it saw.
    for said in [
        "captured a connection of ",
        "filed the origin of source port ",
        "gave a connection to port 8080 of ",
    ] {
        let wanted =
            |line: &str| line.contains("DEBUG") && line.contains(PROGRAMS) && line.contains(said);
        world
            .proxy
            .child
            .stderr
            .wait_for(mark, PATIENCE, wanted)
            .with_context(|| format!("waiting for {said:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn the_kernel_programs_are_silent_otherwise() -> Result<()> {
    for arguments in [&[][..], &["--kernel-log", "info"], &["--log", "trace"]] {
        let arguments = [arguments, &["--drain", "1"]].concat();
        let world = World::with(&arguments, |all| all).await?;
        let _echo = Echo::start(&world.server, 8080, "v1")?;
        let outside = world.lab.pod("outside")?;
        traffic(&world, &outside).await?;
        // Whatever was said is there when the proxy has ended.
        world.proxy.child.stop(PATIENCE)?;
        let complete = world.proxy.child.stderr.wait_for(0, PATIENCE, |_| false);
        let told = format!("{:#}", complete.unwrap_err());
        assert!(told.starts_with("the output ended"), "{told}");
        let said = told.lines().find(|line| line.contains(PROGRAMS));
        assert_eq!(said, None, "{arguments:?}");
    }
    Ok(())
}

/// How often a connection was taken over so far: by the kernel and by the proxy, outbound and
/// inbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    captured: [u64; 2],
    accepted: [u64; 2],
}

impl Taken {
    async fn read(proxy: &Proxy) -> Result<Self> {
        let metrics = proxy.metrics().await?;
        let captured = |way: &str| -> Result<u64> {
            let of = |family| proxy.counted(&format!("captured_{way}_{family}"));
            Ok(of("v4")? + of("v6")?)
        };
        let accepted = |way: &str| -> Result<u64> {
            let name = format!("aquifer_downstream_cx_{way}_total ");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
            Ok(line.with_context(|| format!("no {name}"))?.parse()?)
        };
        Ok(Self {
            captured: [captured("outbound")?, captured("inbound")?],
            accepted: [accepted("outbound")?, accepted("inbound")?],
        })
    }

    fn since(self, before: Self) -> Self {
        let minus = |[a, b]: [u64; 2], [c, d]: [u64; 2]| [a - c, b - d];
        Self {
            captured: minus(self.captured, before.captured),
            accepted: minus(self.accepted, before.accepted),
        }
    }
}

/// A dial of the proxy's that came back to the proxy would go round for ever: each connection is
/// taken over once a direction at most, and the pod's own dials to itself not at all. (Ports that
/// declare nothing are left out: while their first bytes are awaited, one more dial may be made.)
#[tokio::test]
async fn a_connection_is_accepted_once_a_direction() -> Result<()> {
    let world = World::new().await?;
    let _echoes = [8080, TCP]
        .map(|port| Echo::start(&world.server, port, "v1"))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let outside = world.lab.pod("outside")?;
    let (client, server) = (&world.client, &world.server);
    let service = |port| [(APP, port).into(), (APP6, port).into()];
    let address = |port| [server.at(port), server.at6(port)];
    for (what, from, targets, [outbound, inbound]) in [
        ("a pod to its own address", server, address(8080), [0, 0]),
        (
            "a pod to itself by its service",
            server,
            service(HTTP),
            [1, 0],
        ),
        ("the same, opaque", server, service(TCP), [1, 0]),
        ("a stranger to a pod", &outside, address(8080), [0, 1]),
        ("a pod to a service", client, service(HTTP), [1, 1]),
        ("the same, opaque", client, service(TCP), [1, 1]),
    ] {
        for to in targets {
            let before = Taken::read(&world.proxy).await?;
            let mut http = Http::connect(from, to).await?;
            let reply = http
                .get("app", "/")
                .await
                .with_context(|| format!("{what}, {to}"))?;
            assert_eq!(reply.status, 200, "{what}, {to}");
            let taken = Taken::read(&world.proxy).await?.since(before);
            let expected = Taken {
                captured: [outbound, inbound],
                accepted: [outbound, inbound],
            };
            assert_eq!(taken, expected, "{what}, {to}");
        }
    }
    Ok(())
}
