//! A network namespace with a name, and doing things inside it.
//!
//! A socket belongs to the namespace of the thread that made it, for ever: so tests make their
//! sockets on a thread that visits the namespace, and use them from anywhere.

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::{PATIENCE, process};

/// Linux's own bounds for a socket's buffers, to receive and to send: least, first, most. A machine may
/// be tuned otherwise, and what is on the way should not depend on it.
const RECEIVED: &str = "4096 131072 6291456";
const SENT: &str = "4096 16384 4194304";
/// The most that the kernel holds by these of one direction of a connection.
pub const BUFFERED: usize = (6 << 20) + (4 << 20);

/// A network namespace; deleted on drop where it was made here.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    file: File,
    ours: bool,
}

impl Netns {
    /// Makes the namespace `name` under `/run/netns`, with its loopback up.
    pub fn create(name: &str) -> Result<Self> {
        process::output("ip", &["netns", "add", name])?;
        let mut namespace = Self::open(name)?;
        namespace.ours = true;
        process::output("ip", &["-netns", name, "link", "set", "lo", "up"])?;
        // A host that defaults to BBR would hold veth and loopback back four-fold.
        namespace.sysctl("net/ipv4/tcp_congestion_control", "reno")?;
        namespace.sysctl("net/ipv4/tcp_rmem", RECEIVED)?;
        namespace.sysctl("net/ipv4/tcp_wmem", SENT)?;
        Ok(namespace)
    }

    /// Opens a namespace that exists under `/run/netns`.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new("/run/netns").join(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self {
            name: name.into(),
            path,
            file,
            ours: false,
        })
    }

    /// Its name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path, as the annotation `aquifer.io/netns` wants it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let visit = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            visit
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes one of the namespace's own settings, named by its path under `/proc/sys`.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(path);
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("write {value} to {} in {}", path.display(), self.name))
    }

    /// A TCP socket of the namespace, of the family of `like`.
    pub fn socket(&self, like: IpAddr) -> io::Result<TcpSocket> {
        self.run(|| match like {
            IpAddr::V4(_) => TcpSocket::new_v4(),
            IpAddr::V6(_) => TcpSocket::new_v6(),
        })?
    }

    /// Connects from inside the namespace.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(to.ip())?;
        let stream = tokio::time::timeout(PATIENCE, socket.connect(to)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Connects from inside the namespace, from the address and port `from`.
    pub async fn connect_from(&self, from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(to.ip())?;
        socket.set_reuseaddr(true)?;
        socket.bind(from)?;
        let stream = tokio::time::timeout(PATIENCE, socket.connect(to)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Listens inside the namespace.
    pub fn listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.socket(at.ip())?;
        socket.set_reuseaddr(true)?;
        socket.bind(at)?;
        socket.listen(4096)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.ours {
            // Nothing can be done about a failure here; the next owner of the slot sweeps.
            let _ = process::output("ip", &["netns", "delete", &self.name]);
        }
    }
}
