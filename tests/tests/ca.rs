//! Node proxies with certificates of one `aquifer ca`: renewed, across new intermediates and roots
//! and an authority that is away; and refused, for the reason that both sides tell.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aquifer::tls::Issuer;
use aquifer_tests::authority::{Authority, Files};
use aquifer_tests::{Config, Lab, Manifests, PATIENCE, Pod, Proxy, process};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The rows of one kind.
fn rows<'a>(answer: &'a Value, kind: &str) -> Vec<&'a Value> {
    let all = answer.as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter(|row| row["kind"] == kind).collect()
}

fn serial(answer: &Value) -> String {
    let all = rows(answer, "certificate");
    all.first()
        .map(|row| row["serial"].to_string())
        .unwrap_or_default()
}

fn active(answer: &Value) -> bool {
    let all = rows(answer, "certificate");
    !all.is_empty() && all.iter().all(|row| row["state"] == "active")
}

/// A pod of a node, as everyone is told of it.
fn pod(node: &str, account: &str, pod: &Pod) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "namespace": "default",
            "annotations": { "aquifer.io/netns": pod.netns.path() },
        },
        "spec": { "nodeName": node, "serviceAccountName": account },
        "status": {
            "phase": "Running",
            "podIP": pod.v4,
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

/// Two nodes, each with a pod; the authority runs on the first.
struct Two {
    labs: [Lab; 2],
    manifests: Manifests,
    /// Where each node finds the authority.
    addresses: [SocketAddr; 2],
    _pods: [Pod; 2],
}

impl Two {
    fn new() -> Result<Self> {
        let labs = [Lab::new()?, Lab::new()?];
        let [one, two] = labs.each_ref().map(|lab| lab.node.name());
        let ip = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            process::output("ip", &words)
        };
        ip(&format!(
            "-netns {one} link add peer type veth peer name peer netns {two}"
        ))?;
        for (node, host) in [(one, 1), (two, 2)] {
            ip(&format!(
                "-netns {node} address add 198.51.100.{host}/24 dev peer"
            ))?;
            ip(&format!("-netns {node} link set peer up"))?;
            ip(&format!("-netns {node} link set lo up"))?;
        }
        let pods = [labs[0].pod("a")?, labs[1].pod("b")?];
        let manifests = Manifests::new()
            .namespace("default", &[])
            .object(pod(one, "alpha", &pods[0]))
            .object(pod(two, "beta", &pods[1]));
        let address = SocketAddr::from(([198, 51, 100, 1], 15012));
        Ok(Self {
            manifests,
            addresses: [address; 2],
            _pods: pods,
            labs,
        })
    }

    fn files(&self) -> Result<Files> {
        let nodes = self.labs.each_ref().map(|lab| lab.node.name());
        Files::new(&self.manifests.text(), &nodes)
    }

    async fn proxy(
        &self,
        node: usize,
        files: &Files,
        config: &Config,
        more: &[&str],
    ) -> Result<Proxy> {
        let lab = &self.labs[node];
        let asked = files.arguments(lab.node.name(), self.addresses[node])?;
        let asked: Vec<_> = asked.iter().map(String::as_str).collect();
        let start = Proxy::on(lab, config).arguments(&asked).arguments(more);
        start.ready().await
    }
}

#[tokio::test]
async fn certificates_are_renewed_across_new_intermediates_and_roots() -> Result<()> {
    let two = Two::new()?;
    let files = two.files()?;
    let lives = ["--certificate-life", "6", "--intermediate-life", "12"];
    let authority = Authority::start(&two.labs[0].node, &files, &lives).await?;
    let config = Config::new(&two.manifests)?;
    let life = ["--certificate-life", "6"];
    let proxies = [
        two.proxy(0, &files, &config, &life).await?,
        two.proxy(1, &files, &config, &life).await?,
    ];
    let mut first = Vec::new();
    for (proxy, account) in proxies.iter().zip(["alpha", "beta"]) {
        let answer = proxy.until("/config/secrets", active).await?;
        let name = rows(&answer, "certificate")[0]["name"].to_string();
        ensure!(
            name.contains(&format!("/ns/default/sa/{account}")),
            "{name}"
        );
        ensure!(
            rows(&answer, "certificate").len() == 1,
            "its own pods' alone: {answer}"
        );
        ensure!(rows(&answer, "root").len() == 1, "{answer}");
        first.push(answer);
    }
    // The tokens stay in force where their file is gone, and that is told: once, though it is looked
    // for whenever somebody asks.
    let rows_of = std::fs::read_to_string(files.path("nodes.yaml"))?;
    std::fs::remove_file(files.path("nodes.yaml"))?;
    let expiry = |metrics: &str| {
        let name = "aquifer_ca_intermediate_expiry_timestamp_seconds ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::to_owned).context("no expiry")
    };
    let before = expiry(&authority.metrics().await?)?;
    for (proxy, first) in proxies.iter().zip(&first) {
        let serials = (serial(first), first);
        let renewed = |answer: &Value| active(answer) && serial(answer) != serials.0;
        let second = proxy.until("/config/secrets", renewed).await?;
        ensure!(rows(&second, "root") == rows(first, "root"), "{second}");
    }
    authority.child.stderr.wait_for(0, PATIENCE, |line| {
        line.contains("a new intermediate signs")
    })?;
    ensure!(expiry(&authority.metrics().await?)? != before);
    let complaints = authority.complaints();
    ensure!(
        complaints
            .matches("the tokens read before stay in force")
            .count()
            == 1,
        "{complaints}"
    );
    files.put("nodes.yaml", &rows_of)?;

    // Both roots, then the new one signs, then it is alone.
    let now = aquifer::clock::wall();
    let hour = Duration::from_secs(3600);
    let new = Issuer::root("cluster.local", now - hour, now + hour)?;
    let old = std::fs::read_to_string(files.path("ca/ca-cert.pem"))?;
    let both = old + &new.certificate_pem();
    files.put("roots.pem", &both)?;
    files.put("ca/root-cert.pem", &both)?;
    for proxy in &proxies {
        let knows = |answer: &Value| active(answer) && rows(answer, "root").len() == 2;
        proxy.until("/config/secrets", knows).await?;
    }
    files.put("ca/ca-key.pem", &new.key_pem())?;
    files.put("ca/ca-cert.pem", &new.certificate_pem())?;
    let mark = authority.child.stderr.mark();
    authority.child.stderr.wait_for(mark, PATIENCE, |line| {
        line.contains("a new intermediate signs")
    })?;
    // Every node has asked once more: what it shows is signed by the new root.
    for proxy in &proxies {
        let shown = serial(&proxy.admin("/config/secrets").await?);
        let renewed = |answer: &Value| active(answer) && serial(answer) != shown;
        proxy.until("/config/secrets", renewed).await?;
    }
    files.put("ca/root-cert.pem", &new.certificate_pem())?;
    files.put("roots.pem", &new.certificate_pem())?;
    for (proxy, first) in proxies.iter().zip(&first) {
        let alone = |answer: &Value| {
            let roots = rows(answer, "root");
            active(answer) && roots.len() == 1 && roots != rows(first, "root")
        };
        proxy.until("/config/secrets", alone).await?;
        // Nothing failed on the way, not once.
        let metrics = proxy.metrics().await?;
        let asked = "aquifer_certificate_requests_total{result=";
        let outcomes: Vec<_> = metrics
            .lines()
            .filter(|line| line.starts_with(asked))
            .collect();
        ensure!(
            outcomes.len() == 1 && outcomes[0].contains("success"),
            "{outcomes:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_authority_that_is_away_is_told_and_asked_again() -> Result<()> {
    let two = Two::new()?;
    let files = two.files()?;
    let start = || Authority::start(&two.labs[0].node, &files, &[]);
    let authority = start().await?;
    let config = Config::new(&two.manifests)?;
    let proxy = two
        .proxy(1, &files, &config, &["--certificate-life", "12"])
        .await?;
    let first = proxy.until("/config/secrets", active).await?;
    authority.child.signal(Signal::SIGTERM);
    let status = authority.child.wait(PATIENCE)?;
    ensure!(status.success(), "a clean end: {}", authority.complaints());
    let stale = proxy
        .until("/config/secrets", |answer| {
            let all = rows(answer, "certificate");
            all.iter().any(|row| row["state"] == "stale")
        })
        .await?;
    ensure!(
        serial(&stale) == serial(&first),
        "the old one is shown: {stale}"
    );
    let error = rows(&stale, "certificate")[0]["error"].to_string();
    ensure!(
        error.contains("can't be reached: 198.51.100.1:15012"),
        "{error}"
    );
    let metrics = proxy.metrics().await?;
    ensure!(
        metrics.contains("requests_total{result=\"unreachable\"}"),
        "{metrics}"
    );
    let _authority = start().await?;
    let back = |answer: &Value| active(answer) && serial(answer) != serial(&first);
    proxy.until("/config/secrets", back).await?;
    Ok(())
}

#[tokio::test]
async fn who_may_not_ask_is_told_why() -> Result<()> {
    let two = Two::new()?;
    let files = two.files()?;
    let [one, other] = two.labs.each_ref().map(|lab| lab.node.name());
    let rows_of = [
        files.row(other, &format!("token of {other}"), "")?,
        files.row(one, "another node's", "")?,
        files.row(other, "expired", ", expires: 2020-01-01T00:00:00Z")?,
        files.row(other, "narrow", ", namespaces: [kube-system]")?,
    ];
    files.nodes(&rows_of.concat())?;
    let authority = Authority::start(&two.labs[0].node, &files, &[]).await?;
    let config = Config::new(&two.manifests)?;
    let name = "spiffe://cluster.local/ns/default/sa/beta";
    let elsewhere = format!("no pod of {name} runs on {one}");
    let narrow = format!("{other} may not ask for {name}");
    let expired = format!("the token of {other} has expired");
    let right = format!("token of {other}");
    let foreign = ["--trust-domain", "other.test"];
    for (token, more, said, reason) in [
        ("wrong", &[][..], "the token is not known", "unknown_token"),
        ("expired", &[], &expired, "expired_token"),
        ("another node's", &[], &elsewhere, "not_on_node"),
        ("narrow", &[], &narrow, "namespace"),
        (
            &right,
            &foreign,
            "not of the trust domain cluster.local",
            "trust_domain",
        ),
    ] {
        files.put(&format!("token-{other}"), token)?;
        let proxy = two.proxy(1, &files, &config, more).await?;
        let status = proxy
            .until("/status", |answer| {
                let errors = answer["certificates"]["errors"].to_string();
                errors.contains("the authority refuses: ") && errors.contains(said)
            })
            .await?;
        ensure!(status["certificates"]["active"] == 0, "{status}");
        proxy.child.stderr.wait_for(0, PATIENCE, |line| {
            line.contains("it has no certificate") && line.contains(said)
        })?;
        let metrics = proxy.metrics().await?;
        ensure!(
            metrics.contains("requests_total{result=\"refused\"}"),
            "{metrics}"
        );
        let metrics = authority.metrics().await?;
        ensure!(
            metrics.contains(&format!("reason=\"{reason}\"")),
            "{reason}: {metrics}"
        );
        authority.child.stderr.wait_for(0, PATIENCE, |line| {
            line.contains("refused: ") && line.contains(said)
        })?;
        if token == "wrong" {
            // A token that becomes right is noticed without a restart of anyone.
            files.put(&format!("token-{other}"), &right)?;
            proxy.until("/config/secrets", active).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_authority_that_says_nothing_or_is_another_is_told() -> Result<()> {
    let two = Two::new()?;
    let files = two.files()?;
    let authority = Authority::start(&two.labs[0].node, &files, &[]).await?;
    let config = Config::new(&two.manifests)?;
    // Its backlog takes connections, and nobody ever reads from them.
    let silent = SocketAddr::from(([198, 51, 100, 1], 15013));
    let _silent = two.labs[0].node.listen(silent)?;
    let now = aquifer::clock::wall();
    let hour = Duration::from_secs(3600);
    let another = Issuer::root("cluster.local", now - hour, now + hour)?.certificate_pem();
    let right = std::fs::read_to_string(files.path("ca/ca-cert.pem"))?;
    for (port, roots, said) in [
        (15013, &right, "198.51.100.1:15013: not within 5s"),
        (15012, &another, "TLS: invalid peer certificate"),
        (15014, &right, "Connection refused"),
    ] {
        files.put("roots.pem", roots)?;
        let mut asked = two.addresses;
        asked[1].set_port(port);
        let lab = &two.labs[1];
        let arguments = files.arguments(lab.node.name(), asked[1])?;
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let proxy = Proxy::on(lab, &config)
            .arguments(&arguments)
            .ready()
            .await?;
        proxy
            .until("/status", |answer| {
                let errors = answer["certificates"]["errors"].to_string();
                errors.contains("the authority can't be reached: ") && errors.contains(said)
            })
            .await?;
        let metrics = proxy.metrics().await?;
        ensure!(
            metrics.contains("requests_total{result=\"unreachable\"}"),
            "{metrics}"
        );
        proxy
            .child
            .stderr
            .wait_for(0, PATIENCE, |line| line.contains(said))?;
    }
    let metrics = authority.metrics().await?;
    ensure!(
        !metrics.contains("aquifer_ca_requests_total{"),
        "no token was sent: {metrics}"
    );
    Ok(())
}

/// Answers each call in the place of an authority by these bytes, as of this kind, however often.
async fn answer(
    listener: tokio::net::TcpListener,
    config: Arc<rustls::ServerConfig>,
    kind: &'static str,
    body: &'static [u8],
) {
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let mut open = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        open.spawn(async move {
            let mut connection = h2::server::handshake(acceptor.accept(stream).await?).await?;
            while let Some(call) = connection.accept().await {
                let (_, mut respond) = call?;
                let head = http::Response::builder().header("content-type", kind);
                let mut send = respond.send_response(head.body(())?, false)?;
                send.send_data(bytes::Bytes::from_static(body), true)?;
            }
            anyhow::Ok(())
        });
    }
}

// Who answers goes on while the log is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_answers_nonsense_is_told_and_asked_again() -> Result<()> {
    let two = Two::new()?;
    let files = two.files()?;
    // It makes the root.
    let _authority = Authority::start(&two.labs[0].node, &files, &[]).await?;
    let config = Config::new(&two.manifests)?;
    let read = |name| std::fs::read_to_string(files.path(name));
    let root = Issuer::from_pem(&read("ca/ca-cert.pem")?, &read("ca/ca-key.pem")?, "")?;
    let (key, now) = (aquifer::tls::Key::generate()?, aquifer::clock::wall());
    let hour = Duration::from_secs(3600);
    let names = [aquifer_tests::authority::NAME.to_owned()];
    let chain = root.host(&key, &names, now - hour, now + hour)?;
    let server = aquifer::tls::service::server(chain, &key)?;
    for (port, kind, body, said) in [
        (15013, "text/html", &b"<html>"[..], "not gRPC"),
        (
            15014,
            "application/grpc",
            b"\0\0\0\0\x03\x0a\x05a",
            "its message can't be read",
        ),
    ] {
        let mut address = two.addresses[1];
        address.set_port(port);
        let listener = two.labs[0].node.listen(address)?;
        let answering = tokio::spawn(answer(listener, Arc::clone(&server), kind, body));
        let arguments = files.arguments(two.labs[1].node.name(), address)?;
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let start = Proxy::on(&two.labs[1], &config).arguments(&arguments);
        let proxy = start.ready().await?;
        proxy
            .until("/status", |answer| {
                let errors = answer["certificates"]["errors"].to_string();
                errors.contains("the authority's answer can't be used: ") && errors.contains(said)
            })
            .await?;
        proxy.child.stderr.wait_for(0, PATIENCE, |line| {
            line.contains("it has no certificate") && line.contains(said)
        })?;
        // It is asked again.
        let mark = proxy.child.stderr.mark();
        let again = |line: &str| line.contains(said);
        proxy.child.stderr.wait_for(mark, PATIENCE, again)?;
        let metrics = proxy.metrics().await?;
        let line = "aquifer_certificate_requests_total{result=\"nonsense\"} ";
        let count = metrics.lines().find_map(|text| text.strip_prefix(line));
        let count: u64 = count.context("no such counter")?.parse()?;
        ensure!(count >= 2, "{said}: {metrics}");
        answering.abort();
    }
    Ok(())
}

#[tokio::test]
async fn what_can_not_serve_does_not_start() -> Result<()> {
    let lab = Lab::new()?;
    let files = Files::new("", &["node"])?;
    let refused = |arguments: &[&str], expected: &str| -> Result<()> {
        let authority = Authority::spawn(&lab.node, &files, arguments)?;
        let said = |line: &str| line.contains(expected);
        let line = authority.child.stderr.wait_for(0, PATIENCE, said);
        line.with_context(|| format!("{arguments:?}"))?;
        ensure!(!authority.child.wait(PATIENCE)?.success(), "{arguments:?}");
        Ok(())
    };
    refused(
        &["--listen", "192.0.2.1:1"],
        "--listen: listen on 192.0.2.1:1",
    )?;
    refused(&["--trust-domain", "a/b"], "a name such as `cluster.local`")?;
    refused(&["--name", "a b"], "a host name or an IP address")?;
    files.put("nodes.yaml", "nodes: 1")?;
    refused(&[], "nodes.yaml: `nodes` with a list is wanted")?;
    files.nodes(&files.row("node", "x", "")?)?;
    std::fs::create_dir_all(files.path("ca"))?;
    files.put("ca/ca-cert.pem", "nonsense")?;
    refused(&[], "ca-key.pem: No such file")
}
