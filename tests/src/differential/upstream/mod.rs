//! The upstreams: what listens in their pods, one port a scenario, and does as its script says.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    book::{Book, Entry, Side},
    scenario::Port,
    script::{Answer, Script, Scripts},
    secure::Secure,
};
use crate::{Pod, raw};

mod http1;
mod http2;
mod proxied;
mod tcp;

/// What is said by an endpoint of a scenario's Service.
#[derive(Clone, Debug)]
pub struct Role {
    /// The Service.
    pub service: Arc<str>,
    /// The number of the endpoint.
    pub endpoint: usize,
    /// Where it is.
    pub at: SocketAddr,
    /// What it speaks.
    pub speaks: Port,
    /// What it does.
    pub scripts: Scripts,
    /// Which server of TLS it is behind; empty for none.
    pub server: &'static str,
    /// Whether it is told first whose connection it has.
    pub proxied: bool,
    /// Whether it is an HTTP proxy that bytes go through.
    pub tunnelled: bool,
}

/// All upstreams. They end on drop.
#[derive(Debug)]
pub struct Upstreams {
    _tasks: JoinSet<()>,
    /// Queues that are full, and what fills them.
    _full: Vec<(socket2::Socket, Vec<socket2::Socket>)>,
}

/// One connection to an upstream.
#[derive(Clone, Debug)]
struct Turn {
    role: Arc<Role>,
    book: Book,
    entry: Entry,
    /// What was told of the connection before it had anything to say.
    told: Vec<(String, String)>,
    secure: Secure,
}

impl Upstreams {
    /// Starts the roles of each pod. `sides` tells the proxies by their addresses.
    pub fn start(
        roles: Vec<(&Pod, Vec<Role>)>,
        sides: BTreeMap<IpAddr, Side>,
        book: &Book,
        secure: &Secure,
    ) -> Result<Self> {
        let sides = Arc::new(sides);
        let (mut tasks, mut full) = (JoinSet::new(), Vec::new());
        for (pod, roles) in roles {
            // One visit of the pod's namespace for all of its sockets.
            let sockets = pod.netns.run(|| {
                let sockets = roles.into_iter().map(|role| {
                    let socket = listen(&role);
                    socket.map(|socket| (role, socket))
                });
                sockets.collect::<io::Result<Vec<_>>>()
            })?;
            for (role, socket) in sockets.with_context(|| format!("listen in {}", pod.name))? {
                match socket {
                    Socket::None => {}
                    Socket::Full(socket, fillers) => full.push((socket, fillers)),
                    Socket::Open(listener) => {
                        let listener = TcpListener::from_std(listener)?;
                        let role = Arc::new(role);
                        let turn = (book.clone(), secure.clone());
                        tasks.spawn(serve(listener, role, sides.clone(), turn));
                    }
                }
            }
        }
        Ok(Self {
            _tasks: tasks,
            _full: full,
        })
    }
}

enum Socket {
    None,
    Full(socket2::Socket, Vec<socket2::Socket>),
    Open(std::net::TcpListener),
}

fn listen(role: &Role) -> io::Result<Socket> {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let address = role.at.into();
    match role.scripts.of(role.endpoint) {
        Script::Refuse => Ok(Socket::None),
        Script::Blackhole => {
            let socket = new()?;
            socket.bind(&address)?;
            socket.listen(0)?;
            // A queue of length 0 holds one; the next SYN is dropped.
            let filler = new()?;
            filler.connect(&address)?;
            Ok(Socket::Full(socket, vec![filler]))
        }
        Script::Serve(_) => {
            let socket = new()?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address)?;
            socket.listen(1024)?;
            Ok(Socket::Open(socket.into()))
        }
    }
}

async fn serve(
    listener: TcpListener,
    role: Arc<Role>,
    sides: Arc<BTreeMap<IpAddr, Side>>,
    (book, secure): (Book, Secure),
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, peer)) = accepted else {
            continue;
        };
        let Some(&side) = sides.get(&peer.ip()) else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let turn = Turn {
            role: role.clone(),
            book: book.clone(),
            entry: Entry {
                service: role.service.clone(),
                side,
            },
            told: Vec::new(),
            secure: secure.clone(),
        };
        turn.book.connected(&turn.entry);
        connections.spawn(turn.play(stream));
    }
}

impl Turn {
    async fn play(mut self, mut stream: TcpStream) {
        if self.role.proxied {
            let Ok(header) = proxied::header(&mut stream).await else {
                return;
            };
            self.told.push(("proxied".into(), header));
        }
        if !self.role.server.is_empty() {
            let Some((inside, told)) = (self.secure.end)(self.role.server, stream).await else {
                return;
            };
            stream = inside;
            self.told.extend(told);
        }
        if matches!(self.role.speaks, Port::Tcp | Port::Tls) {
            return tcp::play(self, stream).await;
        }
        let mut start = [0; 3];
        // An HTTP/1 request line is longer than that, too.
        loop {
            match stream.peek(&mut start).await {
                Ok(3) => break,
                Ok(0) | Err(_) => return,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
        if &start == b"PRI" {
            http2::play(self, stream).await;
        } else {
            http1::play(self, stream).await;
        }
    }

    /// Notes an attempt; gives its number and the answer to it.
    fn arrived(&self, mut seen: super::book::Seen) -> (usize, Answer) {
        seen.headers.extend(self.told.iter().cloned());
        let scripts = &self.role.scripts;
        let own = scripts.differ().then_some(self.role.endpoint);
        let (number, turn) = self.book.arrived(&self.entry, seen, own);
        (number, scripts.of(self.role.endpoint).answer(turn))
    }
}

/// Ends a connection by RST.
fn reset(stream: TcpStream) {
    let _ = raw::reset(stream);
}
