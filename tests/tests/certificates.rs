//! Certificates of the embedded authority, as people see them: `config secrets`, `status`, metrics,
//! the log; across a restart, and when the authority ends.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aquifer::tls::Issuer;
use aquifer_tests::authority::{Authority, Files};
use aquifer_tests::{Config, Lab, Manifests, PATIENCE, Proxy, process};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The rows of one kind.
fn rows<'a>(answer: &'a Value, kind: &str) -> Vec<&'a Value> {
    let all = answer.as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter(|row| row["kind"] == kind).collect()
}

fn active(answer: &Value, count: usize) -> bool {
    let certificates = rows(answer, "certificate");
    certificates.len() == count && certificates.iter().all(|row| row["state"] == "active")
}

#[tokio::test]
async fn a_pod_gets_a_certificate_which_a_restart_renews_under_the_same_root() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.pod("a")?, lab.pod("b")?);
    let stranger = lab.pod("stranger")?;
    let manifests = Manifests::new()
        .namespace("default", &[])
        .pod(&a, &[])
        .pod(&b, &[])
        .stranger(&stranger, &[]);
    let config = Config::new(&manifests)?;
    let proxy = Proxy::on(&lab, &config).authority().ready().await?;
    let first = proxy
        .until("/config/secrets", |answer| active(answer, 1))
        .await?;
    let row = rows(&first, "certificate")[0];
    let name = row["name"].as_str().context("a name")?;
    ensure!(
        name.starts_with("spiffe://cluster.local/ns/") && name.ends_with("/sa/default"),
        "{name}"
    );
    ensure!(row["pods"] == 2, "strangers have none: {row}");
    ensure!(rows(&first, "root").len() == 1, "{first}");

    let (status, table, errors) = proxy.command(&["config", "secrets"])?;
    ensure!(status.success(), "{errors}");
    for word in ["NAME", "NOT AFTER", name, "certificate", "root", "active"] {
        ensure!(table.contains(word), "{word}: {table}");
    }
    let (_, text, _) = proxy.command(&["status"])?;
    ensure!(
        text.contains("certificates: 1 in force, 0 missing, 1 roots"),
        "{text}"
    );
    let metrics = proxy.metrics().await?;
    for line in [
        "aquifer_certificates{state=\"active\"} 1",
        "aquifer_certificates{state=\"missing\"} 0",
        "aquifer_certificate_requests_total{result=\"success\"} 1",
        "aquifer_certificate_expiry_timestamp_seconds 1",
    ] {
        ensure!(metrics.contains(line), "{line}: {metrics}");
    }
    let folder = config.path().join(".ca");
    let mode = |name: &str| -> Result<u32> {
        Ok(std::fs::metadata(folder.join(name))?.permissions().mode() & 0o777)
    };
    ensure!(mode("")? == 0o700 && mode("ca-key.pem")? == 0o600);
    let mut files: Vec<_> = std::fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    files.sort();
    ensure!(
        files == [".lock", "ca-cert.pem", "ca-key.pem"],
        "a workload's key is never written: {files:?}"
    );
    drop(proxy);

    let widen = |name: &str, mode| {
        std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(mode))
    };
    widen("", 0o755)?;
    widen("ca-key.pem", 0o640)?;
    let scratch = tempfile::tempdir()?;
    let proxy = Proxy::on(&lab, &config)
        .authority()
        .environment("TMPDIR", &scratch.path().to_string_lossy())
        .ready()
        .await?;
    let second = proxy
        .until("/config/secrets", |answer| active(answer, 1))
        .await?;
    ensure!(rows(&second, "root") == rows(&first, "root"), "{second}");
    let again = rows(&second, "certificate")[0];
    ensure!(
        again["serial"] != row["serial"],
        "a key lives as long as its process"
    );

    for said in [
        "(mode 640); it should have mode 600",
        "(mode 755); it should have mode 700",
    ] {
        ensure!(proxy.complaints().contains(said), "{}", proxy.complaints());
    }
    writes_nothing(&proxy)?;
    ensure!(std::fs::read_dir(&scratch)?.next().is_none());

    let empty = Manifests::new().namespace("default", &[]);
    config.put("mesh.yaml", empty.text())?;
    let none = proxy
        .until("/config/secrets", |answer| active(answer, 0))
        .await?;
    ensure!(rows(&none, "root").len() == 1);
    Ok(())
}

/// It has no file open to write to, and has written to none: the root was there before it.
fn writes_nothing(proxy: &Proxy) -> Result<()> {
    let process = format!("/proc/{}", proxy.child.pid());
    let io = std::fs::read_to_string(format!("{process}/io"))?;
    ensure!(io.lines().any(|line| line == "write_bytes: 0"), "{io}");
    for entry in std::fs::read_dir(format!("{process}/fd"))? {
        let entry = entry?;
        let Ok(metadata) = std::fs::metadata(entry.path()) else {
            continue;
        };
        let number = entry.file_name().to_string_lossy().into_owned();
        let info = std::fs::read_to_string(format!("{process}/fdinfo/{number}"))?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = u32::from_str_radix(flags.context("no flags")?.trim(), 8)?;
        // O_WRONLY or O_RDWR.
        let writes = metadata.is_file() && flags & 3 != 0;
        let path = std::fs::read_link(entry.path())?;
        // What the kernel has without a name is no file: maps, programs, pidfds.
        let named = path.is_absolute() && !path.starts_with("/proc");
        ensure!(!(writes && named), "{}", path.display());
    }
    Ok(())
}

#[tokio::test]
async fn no_image_of_a_process_with_keys_is_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut control = std::process::Command::new("sh");
    control.args(["-c", "ulimit -c unlimited; kill -ABRT $$"]);
    let ended = control.current_dir(&folder).status()?;
    if !ended.core_dumped() {
        println!("skipped: this machine writes no image of any process");
        return Ok(());
    }
    let lab = Lab::new()?;
    let a = lab.pod("a")?;
    let config = Config::new(&Manifests::new().namespace("default", &[]).pod(&a, &[]))?;
    let proxy = Proxy::on(&lab, &config).authority().ready().await?;
    proxy.certified(1).await?;
    let files = Files::new("", &["node"])?;
    let authority = Authority::start(&lab.node, &files, &[]).await?;
    for child in [&proxy.child, &authority.child] {
        let pid = child.pid().to_string();
        process::output("prlimit", &["--pid", &pid, "--core=unlimited"])?;
        child.signal(Signal::SIGABRT);
        let ended = child.wait(PATIENCE)?;
        ensure!(ended.signal() == Some(Signal::SIGABRT as i32), "{ended}");
        ensure!(!ended.core_dumped(), "{ended}");
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_can_not_be_renewed_is_told_until_and_after_it_expires() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.pod("a")?;
    let config = Config::new(&Manifests::new().namespace("default", &[]).pod(&a, &[]))?;
    // An authority whose own certificate ends in a few seconds.
    let folder = tempfile::tempdir()?;
    let now = aquifer::clock::wall();
    let root = Issuer::root(
        "mesh.test",
        now - Duration::from_secs(60),
        now + Duration::from_secs(8),
    )?;
    std::fs::write(folder.path().join("ca-cert.pem"), root.certificate_pem())?;
    std::fs::write(folder.path().join("ca-key.pem"), &*root.key_pem())?;
    let path = folder.path().to_string_lossy();
    let proxy = Proxy::on(&lab, &config)
        .arguments(&["--ca", "self", "--ca-dir", &path])
        .arguments(&["--trust-domain", "mesh.test"])
        .ready()
        .await?;
    let first = proxy
        .until("/config/secrets", |answer| active(answer, 1))
        .await?;
    let name = rows(&first, "certificate")[0]["name"].to_string();
    ensure!(name.contains("spiffe://mesh.test/ns/"), "{name}");

    let ended = proxy
        .until("/config/secrets", |answer| {
            let all = rows(answer, "certificate");
            all.iter().any(|row| row["state"] == "expired")
        })
        .await?;
    let row = rows(&ended, "certificate")[0];
    ensure!(row.get("not_after").is_none(), "none is shown: {row}");
    proxy
        .until("/status", |answer| {
            let errors = answer["certificates"]["errors"].to_string();
            errors.contains("expired") && errors.contains("its own certificate has expired")
        })
        .await?;
    proxy.child.stderr.wait_for(0, PATIENCE, |line| {
        line.contains("its certificate has expired")
    })?;
    let metrics = proxy.metrics().await?;
    ensure!(
        metrics.contains("aquifer_certificates{state=\"missing\"} 1"),
        "{metrics}"
    );
    Ok(())
}

#[tokio::test]
async fn an_authority_that_can_not_be_used_is_refused_before_anything_is_captured() -> Result<()> {
    let lab = Lab::new()?;
    let config = Config::new(&Manifests::new())?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("ca-cert.pem"), "nonsense")?;
    let path = folder.path().to_string_lossy();
    let roots = format!("old.test={path}/none.pem");
    let own = ["--ca", "self", "--ca-dir", &*path];
    for (arguments, expected) in [
        (&own[..], "ca-key.pem: No such file"),
        (
            &["--ca", "http://ca:1"],
            "`self` or a URL: https://HOST:PORT",
        ),
        (&["--ca", "https://ca:1"], "--ca: "),
        (&["--trust-domain", "a/b"], "a name such as `cluster.local`"),
        (
            &["--ca", "self", "--trust-roots", &roots],
            "none.pem: No such file",
        ),
        (&own[2..], "--ca <self|URL>"),
    ] {
        let proxy = Proxy::on(&lab, &config).arguments(arguments).spawn()?;
        let said = |line: &str| line.contains(expected);
        let line = proxy.child.stderr.wait_for(0, PATIENCE, said);
        line.with_context(|| format!("{arguments:?}"))?;
        ensure!(!proxy.child.wait(PATIENCE)?.success(), "{arguments:?}");
    }
    Ok(())
}

#[tokio::test]
async fn without_an_authority_there_is_no_certificate_and_no_key() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.pod("a")?;
    let config = Config::new(&Manifests::new().namespace("default", &[]).pod(&a, &[]))?;
    let proxy = Proxy::on(&lab, &config).ready().await?;
    ensure!(proxy.admin("/config/secrets").await? == serde_json::json!([]));
    let status = proxy.admin("/status").await?;
    ensure!(status["certificates"]["authority"].is_null(), "{status}");
    let (_, text, _) = proxy.command(&["status"])?;
    ensure!(text.contains("certificates: none"), "{text}");
    ensure!(!proxy.metrics().await?.contains("aquifer_certificate"));
    Ok(())
}
