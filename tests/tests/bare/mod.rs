//! The kernel side without a proxy: pods of a lab, enrolled by hand, with plain listeners whose
//! connections the test accepts.

// Each test binary uses its own part of it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several test binaries"
)]

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result};
use aquifer::kernel::log::Level;
use aquifer::kernel::maps::{self, names};
use aquifer::kernel::report::Reader;
use aquifer::kernel::{Capture, Kernel, Listener, Options, Pins, Redirects, Rules, bpffs};
use aquifer::mesh::{FailureMode, Workload};
use aquifer::net::{Namespace, listener, routes};
use aquifer_common::{Cause, Direction, Family, LISTEN_PORTS, ProxyCause, Redirect};
use aquifer_tests::{Lab, PATIENCE};
use socket2::{Domain, Socket, Type};

/// A kernel side of the test's own.
pub struct Bare {
    pub kernel: Mutex<Option<Kernel>>,
    pub redirects: Redirects,
    pub options: Options,
    pub lab: Lab,
}

static FOLDERS: AtomicU32 = AtomicU32::new(0);

impl Bare {
    pub fn new() -> Result<Self> {
        Self::with_log(Level::Off)
    }

    /// As [`Self::new`], with programs that write log lines.
    pub fn with_log(log: Level) -> Result<Self> {
        let lab = Lab::new()?;
        let host = Namespace::open(lab.node.path())?.cookie();
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let options = Options {
            bpffs: format!("/sys/fs/bpf/aqk-{}-{number}", std::process::id()).into(),
            cgroup: bpffs::cgroup2()?.context("no cgroup2 tree")?,
            host,
            log,
        };
        let kernel = Kernel::load(&options)?;
        Ok(Self {
            redirects: kernel.redirects(),
            kernel: Mutex::new(Some(kernel)),
            options,
            lab,
        })
    }

    pub fn pins(&self) -> Pins {
        Pins::new(&self.options.bpffs)
    }

    pub fn kernel(&self) -> MutexGuard<'_, Option<Kernel>> {
        self.kernel.lock().unwrap()
    }

    /// A pod that is captured with the defaults.
    pub fn pod(&self, name: &str) -> Result<BarePod> {
        let pod = self.stranger(name)?;
        self.enrol(pod, |_| {})
    }

    /// A pod that is not enrolled.
    pub fn stranger(&self, name: &str) -> Result<aquifer_tests::Pod> {
        self.lab.pod(name)
    }

    /// Enrols a pod, after `change` has had its way with the rules.
    pub fn enrol(
        &self,
        net: aquifer_tests::Pod,
        change: impl FnOnce(&mut OwnedRules),
    ) -> Result<BarePod> {
        let pod = self.prepare(net, change)?;
        pod.write(self.kernel().as_mut().context("unloaded")?)?;
        Ok(pod)
    }

    /// All that [`Self::enrol`] does but to tell the kernel side.
    pub fn prepare(
        &self,
        net: aquifer_tests::Pod,
        change: impl FnOnce(&mut OwnedRules),
    ) -> Result<BarePod> {
        let netns = Namespace::open(net.netns.path())?;
        let mut rules = OwnedRules {
            failure_mode: FailureMode::Closed,
            addresses: vec![net.v4.into(), net.v6.into()],
            ..OwnedRules::default()
        };
        change(&mut rules);
        let mut pod = BarePod {
            outbound: Vec::new(),
            inbound: Vec::new(),
            redirects: self.redirects.clone(),
            netns,
            net,
            rules,
        };
        pod.listen_again()?;
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(routes::lay(&pod.netns, true))?;
        Ok(pod)
    }

    /// How many redirects live.
    pub fn redirects(&self) -> Result<usize> {
        let map: aya::maps::HashMap<_, u64, Redirect> = maps::hash(&self.pins(), names::REDIRECTS)?;
        Ok(map.keys().count())
    }

    /// What the kernel does with a killed proxy's listeners.
    pub fn close_listeners(&self, pod: &mut BarePod) -> Result<()> {
        pod.outbound.clear();
        pod.inbound.clear();
        let cookie = pod.netns.cookie();
        let reader = Reader::open(&self.pins())?;
        until("the listeners leave the kernel's map", || {
            Ok(reader
                .listeners()
                .iter()
                .all(|row| row.cookie != cookie || !row.live))
        })
    }

    /// A counter of user space.
    pub fn counted_here(&self, cause: ProxyCause) -> Result<u64> {
        let map: aya::maps::Array<_, u64> = maps::array(&self.pins(), names::PROXY_STATS)?;
        Ok(map.get(&(cause as u32), 0)?)
    }

    /// A counter of the kernel side.
    pub fn counted(&self, cause: Cause) -> Result<u64> {
        let map: aya::maps::PerCpuArray<_, u64> = maps::per_cpu_array(&self.pins(), names::STATS)?;
        Ok(map.get(&(cause as u32), 0)?.iter().sum())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.kernel().take());
        let cleared = self.pins().clear();
        assert!(cleared.is_ok() || std::thread::panicking(), "{cleared:?}");
    }
}

#[derive(Clone, Default)]
pub struct OwnedRules {
    pub failure_mode: FailureMode,
    pub addresses: Vec<IpAddr>,
    pub exclude_outbound_ports: Vec<u16>,
    pub exclude_inbound_ports: Vec<u16>,
    pub exclude_outbound_ranges: Vec<ipnet::IpNet>,
}

impl OwnedRules {
    pub fn rules(&self) -> Rules<'_> {
        Rules {
            failure_mode: self.failure_mode,
            addresses: &self.addresses,
            exclude_outbound_ports: &self.exclude_outbound_ports,
            exclude_inbound_ports: &self.exclude_inbound_ports,
            exclude_outbound_ranges: &self.exclude_outbound_ranges,
        }
    }
}

/// An enrolled pod and the sockets that take its connections.
pub struct BarePod {
    pub net: aquifer_tests::Pod,
    pub netns: Namespace,
    pub outbound: Vec<TcpListener>,
    pub inbound: Vec<TcpListener>,
    pub redirects: Redirects,
    pub rules: OwnedRules,
}

impl BarePod {
    /// New listeners, as a new proxy has them.
    pub fn listen_again(&mut self) -> Result<()> {
        let bind = || -> io::Result<_> {
            let mut found = Vec::new();
            for loopback in listener::LOOPBACK {
                if let Some(group) = listener::bind(loopback, LISTEN_PORTS, 1)? {
                    found.extend(group.sockets);
                }
            }
            Ok(found)
        };
        self.outbound = self.netns.run(bind)??;
        self.inbound = self.netns.run(bind)??;
        for socket in self.outbound.iter().chain(&self.inbound) {
            socket.set_nonblocking(false)?;
        }
        Ok(())
    }

    pub fn write(&self, kernel: &mut Kernel) -> Result<()> {
        let mut listeners = Vec::new();
        for (direction, sockets) in [
            (Direction::Outbound, &self.outbound),
            (Direction::Inbound, &self.inbound),
        ] {
            for socket in sockets {
                let address = socket.local_addr()?;
                listeners.push(Listener {
                    direction,
                    family: if address.is_ipv4() {
                        Family::V4
                    } else {
                        Family::V6
                    },
                    port: address.port(),
                    socket: socket.as_fd(),
                });
            }
        }
        kernel.enrol(&Capture {
            cookie: self.netns.cookie(),
            name: &self.net.name,
            netns: self.netns.as_fd(),
            listeners: &listeners,
            rules: self.rules.rules(),
        })?;
        Ok(())
    }

    /// The pod as the data plane has it.
    pub fn as_pod(&self) -> aquifer::net::Pod {
        aquifer::net::Pod {
            cookie: self.netns.cookie(),
            workload: Arc::new(Workload {
                name: self.net.name.as_str().into(),
                namespace: "default".into(),
                labels: Default::default(),
                service_account: "default".into(),
                addresses: self.rules.addresses.clone(),
                node: None,
                locality: Arc::default(),
                ended: false,
                host_network: false,
                enrolled: true,
                local: None,
            }),
            netns: self.netns.clone(),
            older: Arc::new(HashSet::new()),
        }
    }

    /// Connects from inside the pod.
    pub fn dial(&self, to: SocketAddr) -> io::Result<TcpStream> {
        dial(&self.netns, to, |_| Ok(()))
    }

    pub fn listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        self.netns.run(|| TcpListener::bind(at))?
    }

    /// The next captured connection, and where it was going.
    pub fn accept_outbound(&self) -> Result<(TcpStream, Option<SocketAddr>)> {
        let (stream, peer) = accept(&self.outbound)?;
        let origin = self.redirects.take(self.netns.cookie(), peer);
        Ok((stream, origin))
    }

    /// The next connection from outside.
    pub fn accept_inbound(&self) -> Result<TcpStream> {
        Ok(accept(&self.inbound)?.0)
    }
}

/// Waits until something holds. Descriptors of the test live on for a moment in children that other
/// tests of this process fork, so that a socket is not gone at the instant when it is dropped.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = aquifer::clock::now();
    while !holds()? {
        anyhow::ensure!(
            started.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(())
}

/// Connects from a namespace, after `prepare` has had its way with the socket.
pub fn dial(
    netns: &Namespace,
    to: SocketAddr,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<TcpStream> {
    let socket = netns.run(|| Socket::new(Domain::for_address(to), Type::STREAM, None))??;
    prepare(&socket)?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Accepts from whichever listener is ready first.
pub fn accept(listeners: &[TcpListener]) -> Result<(TcpStream, SocketAddr)> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut waits: Vec<PollFd<'_>> = listeners
        .iter()
        .map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN))
        .collect();
    let timeout = PollTimeout::try_from(PATIENCE)?;
    anyhow::ensure!(poll(&mut waits, timeout)? > 0, "nothing arrived");
    for (wait, listener) in waits.iter().zip(listeners) {
        if wait.any() == Some(true) {
            let (stream, peer) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            return Ok((stream, peer));
        }
    }
    anyhow::bail!("nothing arrived")
}
