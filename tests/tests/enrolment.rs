//! Pods join and leave by the snapshots, driven as the proxy drives it; the workers are the test's.

mod bare;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use aquifer::control::enrol::{Driver, State, Status};
use aquifer::kernel::Kernel;
use aquifer::mesh::{Enrolment, FailureMode, Snapshot, Store, Workload};
use aquifer::net::{Change, Listeners, Namespace};
use aquifer_tests::{PATIENCE, clock::Deadline, process};
use bare::{Bare, dial};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

/// A driver that follows a store of the test's, and its workers.
struct Driven {
    store: Store,
    status: Status,
    workers: Vec<Worker>,
    version: u64,
    task: tokio::task::JoinHandle<()>,
}

/// What a worker holds.
struct Worker {
    changes: UnboundedReceiver<Change>,
    pods: HashMap<u64, (Arc<aquifer::net::Pod>, Listeners)>,
}

impl Worker {
    /// The next change, obeyed. Returns what it was.
    async fn obey(&mut self) -> Result<&'static str> {
        let change = timeout(PATIENCE, self.changes.recv())
            .await?
            .context("the driver is gone")?;
        Ok(match change {
            Change::Join { pod, listeners } => {
                self.pods.insert(pod.cookie, (pod, listeners));
                "join"
            }
            Change::Update { pod } => {
                let held = self.pods.get_mut(&pod.cookie);
                held.context("updated a pod that never joined")?.0 = pod;
                "update"
            }
            Change::Leave { cookie, now, done } => {
                self.pods
                    .remove(&cookie)
                    .context("a pod left that never joined")?;
                let _ = done.send(());
                if now { "leave now" } else { "leave" }
            }
        })
    }
}

impl Driven {
    fn new(bare: &Bare, kernel: Kernel, workers: usize) -> Result<Self> {
        let store = Store::new();
        let host = Namespace::open(bare.lab.node.path())?;
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| unbounded_channel()).unzip();
        let driver = Driver::new(kernel, host, senders);
        let status = driver.status();
        let task = tokio::spawn(driver.run(store.subscribe()));
        let workers = receivers
            .into_iter()
            .map(|changes| Worker {
                changes,
                pods: HashMap::new(),
            })
            .collect();
        Ok(Self {
            store,
            status,
            workers,
            version: 0,
            task,
        })
    }

    fn publish(&mut self, workloads: &[Arc<Workload>]) -> u64 {
        self.version += 1;
        let snapshot = Snapshot {
            version: self.version,
            workloads: workloads.to_vec().into(),
            ..Snapshot::default()
        };
        self.store.publish(Arc::new(snapshot), Vec::new());
        self.version
    }

    /// Waits until the newest snapshot is in force and all its pods are enrolled.
    async fn settled(&mut self) -> Result<()> {
        let version = self.version;
        let wait = self
            .status
            .wait_for(|report| report.version == version && report.settled());
        timeout(PATIENCE, wait)
            .await?
            .context("the driver is gone")?;
        Ok(())
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn workload(pod: &aquifer_tests::Pod, change: impl FnOnce(&mut Enrolment)) -> Arc<Workload> {
    let mut local = enrolment(pod.netns.path());
    change(&mut local);
    Arc::new(Workload {
        name: pod.name.as_str().into(),
        namespace: "default".into(),
        labels: Default::default(),
        service_account: "default".into(),
        addresses: vec![pod.v4.into(), pod.v6.into()],
        node: None,
        locality: Arc::default(),
        ended: false,
        host_network: false,
        enrolled: true,
        local: Some(local),
    })
}

fn enrolment(path: &Path) -> Enrolment {
    Enrolment {
        netns: path.to_owned(),
        failure_mode: FailureMode::Closed,
        exclude_outbound_ports: Vec::new(),
        exclude_inbound_ports: Vec::new(),
        exclude_outbound_ranges: Vec::new(),
    }
}

fn take_kernel(bare: &Bare) -> Result<Kernel> {
    bare.kernel().take().context("unloaded")
}

#[tokio::test]
async fn a_pod_joins_changes_and_leaves() -> Result<()> {
    let bare = Bare::new()?;
    let net = bare.stranger("client")?;
    let server = bare.stranger("server")?;
    let inside = Namespace::open(net.netns.path())?;
    let outside = Namespace::open(server.netns.path())?;
    let listener = outside.run(|| std::net::TcpListener::bind(server.at(8080)))??;
    // Open before enrolment: it goes on untouched, in both directions.
    let mut before = dial(&inside, server.at(8080), |_| Ok(()))?;
    let (mut peer, _) = listener.accept()?;
    let application = inside.run(|| std::net::TcpListener::bind(net.at(7070)))??;
    let mut caller = dial(&outside, net.at(7070), |_| Ok(()))?;
    let (mut called, called_by) = application.accept()?;

    let mut driven = Driven::new(&bare, take_kernel(&bare)?, 2)?;
    driven.publish(&[workload(&net, |_| {})]);
    driven.settled().await?;
    for worker in &mut driven.workers {
        assert_eq!(worker.obey().await?, "join");
        let (pod, listeners) = worker.pods.values().next().context("no pod")?;
        assert_eq!((listeners.outbound.len(), listeners.inbound.len()), (2, 2));
        assert!(
            pod.older.contains(&(called_by, net.at(7070))),
            "{:?}",
            pod.older
        );
    }
    assert_eq!(driven.status.report().pods[0].sockets, 2 * 2 * 2);
    before.write_all(b"a")?;
    peer.write_all(b"b")?;
    caller.write_all(b"c")?;
    called.write_all(b"d")?;
    let mut byte = [0];
    for (stream, expected) in [
        (&mut peer, b'a'),
        (&mut before, b'b'),
        (&mut called, b'c'),
        (&mut caller, b'd'),
    ] {
        stream.read_exact(&mut byte)?;
        assert_eq!(byte[0], expected);
    }

    // A change of its annotations is in force without new listeners.
    driven.publish(&[workload(&net, |local| {
        local.exclude_outbound_ports = vec![8080]
    })]);
    driven.settled().await?;
    for worker in &mut driven.workers {
        assert_eq!(worker.obey().await?, "update");
    }
    let client = dial(&inside, server.at(8080), |_| Ok(()))?;
    assert_eq!(listener.accept()?.1, client.local_addr()?);

    // Relabelled: still a pod, no longer of the mesh.
    let mut stranger = Workload::clone(&workload(&net, |_| {}));
    stranger.local = None;
    driven.publish(&[Arc::new(stranger)]);
    for worker in &mut driven.workers {
        assert_eq!(worker.obey().await?, "leave");
    }
    driven.settled().await?;
    let client = dial(&inside, server.at(8080), |_| Ok(()))?;
    assert_eq!(listener.accept()?.1, client.local_addr()?);
    Ok(())
}

#[tokio::test]
async fn a_deleted_namespace_is_let_go() -> Result<()> {
    let bare = Bare::new()?;
    let net = bare.stranger("client")?;
    let mut driven = Driven::new(&bare, take_kernel(&bare)?, 2)?;
    driven.publish(&[workload(&net, |_| {})]);
    driven.settled().await?;
    for worker in &mut driven.workers {
        worker.obey().await?;
    }
    let node = bare.lab.node.name().to_owned();
    let ports = || {
        process::output(
            "ip",
            &["-netns", &node, "-brief", "link", "show", "type", "veth"],
        )
    };
    assert_eq!(ports()?.lines().count(), 1);
    drop(net);
    for worker in &mut driven.workers {
        assert_eq!(worker.obey().await?, "leave now");
    }
    // The kernel tears a namespace down in its own time, one after another, and tells nobody; as long
    // as somebody holds it, never.
    let deadline = Deadline::after(PATIENCE);
    while !ports()?.is_empty() {
        assert!(!deadline.passed(), "the veth stays: {}", ports()?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn one_pods_error_is_its_own_and_ends_when_the_path_appears() -> Result<()> {
    let bare = Bare::new()?;
    let good = bare.stranger("good")?;
    let late = bare.stranger("late")?;
    let folder = tempfile::tempdir()?;
    let path: PathBuf = folder.path().join("late");
    let mut driven = Driven::new(&bare, take_kernel(&bare)?, 1)?;
    let host = bare.lab.node.path().to_owned();
    let hosts = workload(&late, |local| local.netns = host.clone());
    let mut hosts = Workload::clone(&hosts);
    hosts.name = "hosts".into();
    let missing = workload(&late, |local| local.netns = path.clone());
    driven.publish(&[
        workload(&good, |_| {}),
        Arc::clone(&missing),
        Arc::new(hosts),
    ]);
    assert_eq!(driven.workers[0].obey().await?, "join");
    let wait = driven.status.wait_for(|report| report.version == 1);
    let report = timeout(PATIENCE, wait)
        .await?
        .context("the driver is gone")?;
    let error = |name: &str| {
        report
            .pods
            .iter()
            .find(|pod| pod.pod == name)
            .and_then(|pod| pod.error.clone())
    };
    assert_eq!(error("default/good"), None);
    assert!(error("default/late").is_some_and(|text| text.contains("aquifer.io/netns")));
    assert!(error("default/hosts").is_some_and(|text| text.contains("the host's own")));
    assert_eq!(
        report
            .pods
            .iter()
            .filter(|pod| pod.state == State::Failed)
            .count(),
        2
    );

    driven.publish(&[workload(&good, |_| {}), missing]);
    std::os::unix::fs::symlink(late.netns.path(), &path)?;
    assert_eq!(driven.workers[0].obey().await?, "join");
    driven.settled().await?;
    Ok(())
}

#[tokio::test]
async fn what_an_earlier_proxy_left_is_taken_over_or_expelled() -> Result<()> {
    let bare = Bare::new()?;
    let (kept, gone) = (bare.stranger("kept")?, bare.stranger("gone")?);
    let mut first = Driven::new(&bare, take_kernel(&bare)?, 1)?;
    first.publish(&[workload(&kept, |_| {}), workload(&gone, |_| {})]);
    first.settled().await?;
    // As after SIGKILL: sockets and process gone, pins there.
    drop(first);

    let kernel = Kernel::load(&bare.options)?;
    assert_eq!(kernel.cookies().len(), 2);
    let pins = kernel.pins().clone();
    let mut second = Driven::new(&bare, kernel, 1)?;
    second.publish(&[workload(&kept, |_| {})]);
    second.settled().await?;
    assert_eq!(second.workers[0].obey().await?, "join");
    let rows = aquifer::kernel::report::Reader::open(&pins)?.pods();
    let names: Vec<&str> = rows.iter().map(|row| row.pod.as_str()).collect();
    assert_eq!(names, ["default/kept"]);
    assert!(rows[0].served);
    Ok(())
}
