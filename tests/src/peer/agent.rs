//! What ztunnel has for a CNI plugin: whoever hands it the network namespaces of the pods that it is to
//! stand for, by Istio's `zds` (protobuf in packets of a Unix socket, `proto/zds.proto` of ztunnel).

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    thread::JoinHandle,
};

use anyhow::Result;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown,
    SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, recv, sendmsg, shutdown,
    socket_with,
};

/// A pod that is handed over.
#[derive(Debug)]
pub(super) struct Handed {
    /// As ztunnel's own file has them.
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) account: String,
    /// Its network namespace.
    pub(super) netns: std::fs::File,
}

/// It listens until it is dropped, and hands all pods to each ztunnel that comes. Whoever has come has
/// gone by then.
#[derive(Debug)]
pub(super) struct Agent {
    listener: Arc<OwnedFd>,
    task: Option<JoinHandle<()>>,
}

impl Agent {
    /// Listens at `path`.
    pub(super) fn start(path: &Path, pods: Vec<Handed>) -> Result<Self> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let listener = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        bind(&listener, &SocketAddrUnix::new(path)?)?;
        listen(&listener, 1)?;
        let listener = Arc::new(listener);
        let own = Arc::clone(&listener);
        let task = std::thread::spawn(move || {
            // An error is the end that `drop` makes.
            while let Ok(stream) = accept(&*own) {
                // What goes wrong here shows by a ztunnel that never gets ready.
                let _ = serve(&stream, &pods);
            }
        });
        Ok(Self {
            listener,
            task: Some(task),
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = shutdown(&*self.listener, Shutdown::Both);
        if let Some(task) = self.task.take() {
            let _ = task.join();
        }
    }
}

/// Hands all pods over, one after the other, and waits until ztunnel has gone.
fn serve(stream: &OwnedFd, pods: &[Handed]) -> io::Result<()> {
    // Its hello.
    hear(stream)?;
    for pod in pods {
        let info = [
            field(1, pod.name.as_bytes()),
            field(2, b"default"),
            field(3, pod.account.as_bytes()),
        ];
        let add = [field(1, pod.uid.as_bytes()), field(2, &info.concat())];
        say(stream, &field(1, &add.concat()), Some(&pod.netns))?;
        hear(stream)?;
    }
    // These were all.
    say(stream, &field(3, &[]), None)?;
    while hear(stream)? > 0 {}
    Ok(())
}

/// A field of bytes, of less than 128 of them.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    debug_assert!(length < 128, "a length of one byte");
    [&[number << 3 | 2, length][..], bytes].concat()
}

fn hear(stream: &OwnedFd) -> io::Result<usize> {
    let mut packet = [0; 256];
    let (_, count) = recv(stream, &mut packet[..], RecvFlags::empty())?;
    Ok(count)
}

fn say(stream: &OwnedFd, packet: &[u8], netns: Option<&std::fs::File>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let handed = netns.map(|netns| [netns.as_fd()]);
    if let Some(handed) = &handed {
        control.push(SendAncillaryMessage::ScmRights(handed));
    }
    let flags = SendFlags::NOSIGNAL;
    sendmsg(stream, &[IoSlice::new(packet)], &mut control, flags)?;
    Ok(())
}
