//! What goes over a network, as somebody who listens there gets it.

use std::{
    io::{ErrorKind, Read as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;

/// Larger than any packet, also than those that a network card would cut later on.
const LONGEST: usize = 1 << 17;

/// Everything that goes through a namespace's interfaces, until it is asked for.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Captured>,
}

/// What was heard. A packet that a bridge passes on counts at both of its ports.
#[derive(Debug, Default)]
pub struct Captured {
    packets: Vec<Vec<u8>>,
}

impl Capture {
    /// Begins to listen on all interfaces of `node`.
    pub fn of(node: &Netns) -> Result<Self> {
        // ETH_P_ALL, in network byte order.
        let all = i32::from(3_u16.to_be());
        let socket =
            node.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all))))??;
        socket.set_recv_buffer_size(64 << 20)?;
        // What was sent before the end was asked for is in the socket's queue by then.
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || listen(socket, &told));
        Ok(Self { stop, thread })
    }

    /// What was heard until now.
    pub fn finish(self) -> Result<Captured> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the capture failed")
    }
}

fn listen(mut socket: Socket, stop: &AtomicBool) -> Captured {
    let (mut heard, mut packet) = (Captured::default(), vec![0; LONGEST]);
    loop {
        match socket.read(&mut packet) {
            Ok(count) => heard.packets.push(packet[..count].to_vec()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) if stop.load(Ordering::Relaxed) => return heard,
            Err(_) => {}
        }
    }
}

impl Captured {
    /// How many packets there were.
    pub fn packets(&self) -> usize {
        self.packets.len()
    }

    /// How many bytes, with the heads of all layers.
    pub fn bytes(&self) -> usize {
        self.packets.iter().map(Vec::len).sum()
    }

    /// In how many packets `part` can be read.
    pub fn with(&self, part: &[u8]) -> usize {
        let has = |packet: &&Vec<u8>| packet.windows(part.len()).any(|window| window == part);
        self.packets.iter().filter(has).count()
    }
}
