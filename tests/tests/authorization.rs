//! Who may connect to a pod: PeerAuthentication and AuthorizationPolicy at plain-text connections,
//! as they come and while they are open.

use std::{io::ErrorKind, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Manifests, PATIENCE, Pod, SOON, World,
    clock::Deadline,
    raw::{self, End, Server},
    world::{AUTO, TCP},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// `KIND/NAME: SPEC` a line, in the namespace `default`.
fn policies(lines: &[&str]) -> String {
    let documents = lines.iter().map(|line| {
        let (head, spec) = line.split_once(": ").unwrap_or((line, "{}"));
        let (kind, name) = head.split_once('/').unwrap_or((head, "p"));
        let (namespace, name) = match name.strip_prefix("root-") {
            Some(name) => ("istio-system", name),
            None => ("default", name),
        };
        format!(
            "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        )
    });
    documents.collect::<Vec<_>>().join("---\n")
}

/// Whether bytes come back from `port` of the server, for `from`.
async fn reaches(world: &World, from: &Pod, port: u16, six: bool) -> Result<bool> {
    let to = if six {
        world.server.at6(port)
    } else {
        world.server.at(port)
    };
    let mut stream = match from.netns.connect(to).await {
        // The reset was faster than the client.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
        connected => connected?,
    };
    let _ = stream.write_all(b"hello").await;
    let _ = stream.shutdown().await;
    let (bytes, end) = raw::drain(&mut stream).await?;
    match (bytes.as_slice(), end) {
        (b"hello", End::Closed) => Ok(true),
        (b"", End::Reset) => Ok(false),
        other => anyhow::bail!("neither an answer nor a reset: {other:?}"),
    }
}

/// An open connection that has carried something.
async fn open(from: &Pod, to: SocketAddr) -> Result<TcpStream> {
    let mut stream = from.netns.connect(to).await?;
    say(&mut stream).await?;
    Ok(stream)
}

async fn say(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"hello").await?;
    raw::read_until(stream, b"hello").await?;
    Ok(())
}

/// The usual world with a pod outside the mesh, which is as good as any stranger.
async fn with_stranger() -> Result<(World, Pod)> {
    let world = World::new().await?;
    let stranger = world.lab.pod("stranger")?;
    Ok((world, stranger))
}

#[tokio::test]
async fn policies_decide_who_connects() -> Result<()> {
    let (world, stranger) = with_stranger().await?;
    let _server = Server::echo(&world.server, TCP)?;
    let _other = Server::echo(&world.server, 9001)?;
    let by_address = format!(
        "AuthorizationPolicy/p: {{selector: {{matchLabels: {{app: server}}}}, rules: [{{from: [{{source: {{ipBlocks: ['{}', '{}']}}}}]}}]}}",
        world.client.v4, world.client.v6
    );
    let deny_address = by_address.replace("rules:", "action: DENY, rules:");
    // What the client and the stranger get at one port, and the client at the other.
    for (lines, client, outsider, other) in [
        (vec![], true, true, true),
        (
            vec!["PeerAuthentication/p: {mtls: {mode: PERMISSIVE}}"],
            true,
            true,
            true,
        ),
        (
            vec!["PeerAuthentication/p: {mtls: {mode: STRICT}}"],
            false,
            false,
            false,
        ),
        (
            vec!["PeerAuthentication/root-p: {mtls: {mode: STRICT}}"],
            false,
            false,
            false,
        ),
        (
            vec![
                "PeerAuthentication/p: {selector: {matchLabels: {app: server}}, mtls: {mode: STRICT}, portLevelMtls: {9001: {mode: DISABLE}}}",
            ],
            false,
            false,
            true,
        ),
        (vec!["AuthorizationPolicy/p: {}"], false, false, false),
        (
            vec!["AuthorizationPolicy/p: {selector: {matchLabels: {app: client}}}"],
            true,
            true,
            true,
        ),
        (vec![by_address.as_str()], true, false, true),
        (vec![deny_address.as_str()], false, true, false),
        (
            vec![
                "AuthorizationPolicy/p: {action: DENY, rules: [{to: [{operation: {ports: ['9001']}}]}]}",
            ],
            true,
            true,
            false,
        ),
        // Plain text is nobody's.
        (
            vec!["AuthorizationPolicy/p: {rules: [{from: [{source: {namespaces: [default]}}]}]}"],
            false,
            false,
            false,
        ),
        (
            vec!["AuthorizationPolicy/p: {rules: [{from: [{source: {principals: ['*']}}]}]}"],
            false,
            false,
            false,
        ),
        (
            vec![
                "AuthorizationPolicy/p: {action: DENY, rules: [{from: [{source: {notPrincipals: ['*']}}], to: [{operation: {ports: ['9001']}}]}]}",
            ],
            true,
            true,
            false,
        ),
    ] {
        let text = policies(&lines);
        // The first line is the beginning, when there is no file.
        if !lines.is_empty() {
            world
                .proxy
                .after(|| world.config.put("policies.yaml", &text))
                .await?;
        }
        for six in [false, true] {
            let found = (
                reaches(&world, &world.client, TCP, six).await?,
                reaches(&world, &stranger, TCP, six).await?,
                reaches(&world, &world.client, 9001, six).await?,
            );
            ensure!(
                found == (client, outsider, other),
                "{text}IPv6 {six}: {found:?}\n{}",
                world.proxy.complaints()
            );
        }
    }
    Ok(())
}

/// Whether these first bytes come back from `port` of the server.
async fn echoes(world: &World, from: &Pod, port: u16, pieces: &[&[u8]]) -> Result<bool> {
    let mut stream = from.netns.connect(world.server.at(port)).await?;
    for piece in pieces {
        let _ = stream.write_all(piece).await;
        // One segment each.
        let _ = stream.flush().await;
        tokio::task::yield_now().await;
    }
    let _ = stream.shutdown().await;
    let (bytes, end) = raw::drain(&mut stream).await?;
    match (bytes == pieces.concat(), bytes.is_empty(), end) {
        (true, _, End::Closed) => Ok(true),
        (_, true, End::Reset) => Ok(false),
        _ => anyhow::bail!("neither an answer nor a reset: {bytes:?} {end:?}"),
    }
}

#[tokio::test]
async fn the_server_that_tls_asks_for_decides() -> Result<()> {
    let (world, stranger) = with_stranger().await?;
    let _servers = [
        Server::echo(&world.server, TCP)?,
        Server::echo(&world.server, AUTO)?,
    ];
    let set = async |spec: &str| {
        let text = policies(&[&format!("AuthorizationPolicy/p: {spec}")]);
        let put = || world.config.put("policies.yaml", &text);
        world.proxy.after(put).await
    };
    let [good, evil, loud, dotted] =
        ["good.test", "evil.test", "EVIL.Test", "evil.test."].map(raw::client_hello);
    let broken = [22, 3, 1, 0, 4, 2, 0, 0, 0];
    for (spec, expected) in [
        (
            "{rules: [{when: [{key: connection.sni, values: [good.test, '*.ok.test']}]}]}",
            [true, false, false, false, false, false],
        ),
        (
            "{action: DENY, rules: [{when: [{key: connection.sni, values: [evil.test]}]}]}",
            [true, false, false, false, true, false],
        ),
        (
            "{action: DENY, rules: [{when: [{key: connection.sni, notValues: [good.test]}]}]}",
            [true, false, false, false, false, false],
        ),
        // Beside what asks about requests: on the port that declares nothing both are looked for.
        (
            "{rules: [{when: [{key: connection.sni, values: [evil.test]}]}, {to: [{operation: {methods: [GET]}}]}]}",
            [false, true, true, false, false, false],
        ),
    ] {
        set(spec).await?;
        for port in [TCP, AUTO] {
            for (hello, expected) in [&good[..], &evil, &loud, &dotted, b"hello", &broken]
                .into_iter()
                .zip(expected)
            {
                let found = echoes(&world, &stranger, port, &[hello]).await?;
                ensure!(found == expected, "{spec} {port} {hello:?}: {found}");
            }
            let pieces: Vec<&[u8]> = good.chunks(9).collect();
            let found = echoes(&world, &stranger, port, &pieces).await?;
            ensure!(found == expected[0], "{spec} {port} in pieces: {found}");
        }
    }
    // What was seen is remembered for as long as the connection is open.
    set("{rules: [{when: [{key: connection.sni, values: ['*']}]}]}").await?;
    let open = async |hello: &[u8]| {
        let mut stream = stranger.netns.connect(world.server.at(TCP)).await?;
        stream.write_all(hello).await?;
        let mut back = vec![0; hello.len()];
        stream.read_exact(&mut back).await?;
        anyhow::Ok(stream)
    };
    let (mut kept, mut ended) = (open(&good).await?, open(&evil).await?);
    set("{rules: [{when: [{key: connection.sni, values: [good.test]}]}]}").await?;
    let deadline = Deadline::after(SOON);
    let (_, end) = raw::drain(&mut ended).await?;
    ensure!(!deadline.passed() && end == End::Reset, "{end:?}");
    say(&mut kept).await.context("its name is allowed")?;
    let logged = world.proxy.logged(0, |line| line.contains(" evil.test "))?;
    ensure!(logged.contains("rbac_access_denied"), "{logged}");
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_logged_and_counted() -> Result<()> {
    let (world, stranger) = with_stranger().await?;
    let _server = Server::echo(&world.server, TCP)?;
    for (line, details) in [
        (
            "AuthorizationPolicy/no: {action: DENY, rules: [{to: [{operation: {ports: ['1']}}]}, {}]}",
            "rbac_access_denied_matched_policy[ns[default]-policy[no]-rule[1]]",
        ),
        (
            "AuthorizationPolicy/none: {}",
            "rbac_access_denied_matched_policy[none]",
        ),
        (
            "PeerAuthentication/strict: {mtls: {mode: STRICT}}",
            "rbac_access_denied_matched_policy[ns[default]-peer_authentication[strict]-strict]",
        ),
    ] {
        let text = policies(&[line]);
        world
            .proxy
            .after(|| world.config.put("policies.yaml", &text))
            .await?;
        let mark = world.proxy.child.stdout.mark();
        let before = world.proxy.counter("rbac_denied").await?;
        ensure!(!reaches(&world, &stranger, TCP, false).await?, "{line}");
        let inbound = format!("inbound|{TCP}||");
        let logged = world.proxy.logged(mark, |one| one.contains(&inbound))?;
        let source = stranger.v4.to_string();
        ensure!(
            logged.contains(&format!(" 0 - - {details} \"-\" ")) && logged.contains(&source),
            "{logged}"
        );
        ensure!(
            world.proxy.counter("rbac_denied").await? == before + 1,
            "{line}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_open_connection_ends_when_it_is_no_longer_allowed() -> Result<()> {
    let (world, stranger) = with_stranger().await?;
    let _server = Server::echo(&world.server, TCP)?;
    let deny = |pod: &Pod| {
        policies(&[&format!(
            "AuthorizationPolicy/late: {{action: DENY, rules: [{{from: [{{source: {{ipBlocks: ['{}']}}}}]}}]}}",
            pod.v4
        )])
    };
    let mut denied = open(&stranger, world.server.at(TCP)).await?;
    let mut kept = open(&world.client, world.server.at(TCP)).await?;
    let mark = world.proxy.child.stdout.mark();
    world
        .proxy
        .after(|| world.config.put("policies.yaml", deny(&stranger)))
        .await?;
    let deadline = Deadline::after(SOON);
    let (bytes, end) = raw::drain(&mut denied).await?;
    ensure!(!deadline.passed(), "it took long");
    ensure!(bytes.is_empty() && end == End::Reset, "{end:?}");
    world.proxy.logged(mark, |line| {
        line.contains("rbac_access_denied_matched_policy[ns[default]-policy[late]-rule[0]]")
    })?;
    ensure!(world.proxy.counter("rbac_revoked").await? == 1);
    say(&mut kept).await.context("the other goes on")?;

    // Another policy of the same effect leaves it alone; STRICT does not.
    let text = deny(&stranger) + "---\n" + &policies(&["AuthorizationPolicy/all: {rules: [{}]}"]);
    world
        .proxy
        .after(|| world.config.put("policies.yaml", text))
        .await?;
    say(&mut kept).await.context("it is allowed by both")?;
    let text = policies(&["PeerAuthentication/root-p: {mtls: {mode: STRICT}}"]);
    world
        .proxy
        .after(|| world.config.put("policies.yaml", text))
        .await?;
    let deadline = Deadline::after(SOON);
    let (_, end) = raw::drain(&mut kept).await?;
    ensure!(!deadline.passed() && end == End::Reset, "{end:?}");
    // With the policy gone, everything is as before.
    world
        .proxy
        .after(|| world.config.remove("policies.yaml"))
        .await?;
    ensure!(reaches(&world, &stranger, TCP, false).await?);
    Ok(())
}

#[tokio::test]
async fn a_policy_on_trial_refuses_nobody_and_is_told() -> Result<()> {
    let log = ["--log", "info,aquifer::dataplane=debug"];
    let world = World::with(&log, |manifests| manifests).await?;
    let stranger = world.lab.pod("stranger")?;
    let _server = Server::echo(&world.server, TCP)?;
    let text = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: trial, annotations: {istio.io/dry-run: 'true'}}
spec: {action: DENY, rules: [{}]}
";
    world
        .proxy
        .after(|| world.config.put("policies.yaml", text))
        .await?;
    ensure!(reaches(&world, &stranger, TCP, false).await?);
    ensure!(world.proxy.counter("rbac_shadow_denied").await? == 1);
    ensure!(world.proxy.counter("rbac_denied").await? == 0);
    // Written by a thread of its own: not there yet, perhaps.
    let told = |line: &str| line.contains("a policy on trial would have denied");
    world.proxy.child.stderr.wait_for(0, PATIENCE, told)?;
    Ok(())
}

/// Whether it is allowed or not.
#[tokio::test]
async fn audited_connections_are_lines_of_the_log() -> Result<()> {
    let (world, stranger) = with_stranger().await?;
    let _servers = [
        Server::echo(&world.server, TCP)?,
        Server::echo(&world.server, 9001)?,
    ];
    let text = policies(&[
        "AuthorizationPolicy/marked: {action: AUDIT, rules: [{to: [{operation: {ports: ['1']}}]}, {from: [{source: {notNamespaces: [default]}}]}]}",
        "AuthorizationPolicy/no: {action: DENY, rules: [{to: [{operation: {ports: ['9001']}}]}]}",
        "AuthorizationPolicy/other: {action: AUDIT, selector: {matchLabels: {app: client}}, rules: [{}]}",
    ]);
    let put = || world.config.put("policies.yaml", &text);
    world.proxy.after(put).await?;
    for (port, allowed) in [(TCP, true), (9001, false)] {
        ensure!(reaches(&world, &stranger, port, false).await? == allowed);
        let destination = format!("destination={} ", world.server.at(port));
        let is = |line: &str| {
            line.contains("aquifer::audit")
                && line.contains("policy=AuthorizationPolicy default/marked rule=1")
                && line.contains(&destination)
        };
        world.proxy.child.stderr.wait_for(0, PATIENCE, is)?;
    }
    ensure!(world.proxy.counter("rbac_audited").await? == 2);
    Ok(())
}

#[tokio::test]
async fn what_is_in_force_is_shown() -> Result<()> {
    let world = World::with(&[], |manifests: Manifests| {
        manifests.yaml(policies(&[
            "PeerAuthentication/p: {selector: {matchLabels: {app: server}}, mtls: {mode: STRICT}, portLevelMtls: {9001: {mode: PERMISSIVE}}}",
            "AuthorizationPolicy/allow: {rules: [{to: [{operation: {methods: [GET]}}]}]}",
            "AuthorizationPolicy/root-deny: {action: DENY, rules: [{from: [{source: {notNamespaces: [a]}}]}]}",
            "AuthorizationPolicy/nobody: {selector: {matchLabels: {app: gone}}}",
        ]))
    })
    .await?;
    let rows = world
        .proxy
        .admin("/config/policies?pod=default/server")
        .await?;
    let expected: Value = serde_json::json!([{
        "pod": "default/server",
        "mtls": [
            {"port": 9001, "mode": "PERMISSIVE", "source": "PeerAuthentication default/p"},
            {"mode": "STRICT", "source": "PeerAuthentication default/p"},
        ],
        "policies": [
            {"source": "AuthorizationPolicy istio-system/deny", "action": "DENY", "rules": 1},
            {"source": "AuthorizationPolicy default/allow", "action": "ALLOW", "rules": 1, "asks_for_requests": true},
        ],
    }]);
    assert_eq!(rows, expected);
    let (status, table, errors) =
        world
            .proxy
            .command(&["config", "policies", "--pod", "default/server"])?;
    ensure!(status.success(), "{errors}");
    for part in [
        "9001: PERMISSIVE (PeerAuthentication default/p)",
        "STRICT (PeerAuthentication default/p)",
        "DENY AuthorizationPolicy istio-system/deny (1 rule)",
        "ALLOW AuthorizationPolicy default/allow (1 rule, about requests)",
    ] {
        ensure!(table.contains(part), "{part} is missing in\n{table}");
    }
    let status = world.proxy.admin("/status").await?;
    let problems = status["problems"].as_array().context("a list")?;
    let nobody = problems
        .iter()
        .find(|one| one["object"] == "AuthorizationPolicy default/nobody");
    let nobody = nobody.context("the policy without effect is not told")?;
    assert_eq!(nobody["severity"], "warning");
    ensure!(nobody["line"].is_u64(), "{nobody}");
    Ok(())
}
