//! HBONE into a pod of the mesh, frame by frame: what is malformed is refused by itself, and what is
//! said is heard to the end.

mod hbone;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    PATIENCE, Pod, World,
    clock::{self, Deadline},
    raw::{self, End, Server},
};
use hbone::{
    Authority, HBONE,
    frames::{
        ACK, DATA, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
        WINDOW_UPDATE,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const PORT: u16 = 9001;
const CALLER: &str = "spiffe://cluster.local/ns/elsewhere/sa/caller";
/// As deploy/hbone.md has them.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 200 << 20;
/// HPACK's one byte for a status of 200, and for one of 400.
const OK: u8 = 0x88;
const BAD_REQUEST: u8 = 0x8c;

/// The usual world, who signs in it, and a pod that is not in the mesh to call from.
struct Called {
    world: World,
    authority: Authority,
    caller: Pod,
}

impl Called {
    async fn new() -> Result<Self> {
        let log = ["--access-log", "json", "--workers", "1"];
        let world = World::with_authority(&log, |manifests| manifests).await?;
        Ok(Self {
            authority: Authority::of(&world.config)?,
            caller: world.lab.pod("caller")?,
            world,
        })
    }

    async fn frames(&self) -> Result<Frames> {
        let to = self.world.server.at(HBONE);
        let stream = self.caller.netns.connect(to).await?;
        Frames::call(stream, self.authority.client(CALLER)?).await
    }

    fn at(&self, port: u16) -> String {
        self.world.server.at(port).to_string()
    }
}

fn answer(id: u32) -> impl Fn(&Frame) -> bool {
    move |frame| frame.id == id && matches!(frame.kind, HEADERS | RST_STREAM)
}

#[tokio::test]
async fn settings_and_windows_are_those_that_are_documented() -> Result<()> {
    let called = Called::new().await?;
    let mut frames = called.frames().await?;
    let settings = frames.next().await?;
    ensure!(settings.kind == SETTINGS && settings.flags == 0);
    let mut settings = settings.settings();
    settings.sort_unstable();
    // RFC 9113, section 6.5.2: streams, a stream's window, a frame, a header section. Nothing else, no
    // extended CONNECT above all.
    ensure!(
        settings == [(3, 200), (4, STREAM_WINDOW), (5, 1 << 20), (6, 64 << 10)],
        "{settings:?}"
    );
    let window = frames
        .until(|frame| frame.kind == WINDOW_UPDATE && frame.id == 0)
        .await?;
    ensure!(window.number() == Some(CONNECTION_WINDOW - 65_535));
    Ok(())
}

/// What becomes of a CONNECT.
enum Outcome {
    Answered(u8),
    Malformed,
    /// Its connection ends with it.
    Fatal,
}

#[tokio::test]
async fn what_is_malformed_is_refused_and_its_connection_goes_on() -> Result<()> {
    use Outcome::{Answered, Fatal, Malformed};
    const PROTOCOL_ERROR: u32 = 1;
    let called = Called::new().await?;
    let server = Server::echo(&called.world.server, PORT)?;
    let mut frames = called.frames().await?;
    let at = called.at(PORT);
    let (method, to) = ((":method", "CONNECT"), (":authority", at.as_str()));
    let mut id = 1;
    let mut connections = 1;
    for (name, fields, outcome) in [
        (
            "a scheme",
            &[method, (":scheme", "https"), to][..],
            Malformed,
        ),
        ("a path", &[method, (":path", "/"), to], Malformed),
        (
            "both",
            &[method, (":scheme", "https"), (":path", "/"), to],
            Malformed,
        ),
        (
            "another protocol",
            &[
                method,
                (":protocol", "websocket"),
                (":scheme", "https"),
                (":path", "/"),
                to,
            ],
            Malformed,
        ),
        ("two authorities", &[method, to, to], Malformed),
        ("a status", &[method, to, (":status", "200")], Malformed),
        ("an unknown one", &[method, to, (":other", "x")], Fatal),
        ("behind others", &[method, ("a", "b"), to], Malformed),
        ("upper case", &[method, to, ("Forwarded", "for=a")], Fatal),
        (
            "of the hop",
            &[method, to, ("connection", "close")],
            Malformed,
        ),
        ("no method", &[to], Malformed),
        (
            "an empty authority",
            &[method, (":authority", "")],
            Malformed,
        ),
        ("no authority", &[method], Answered(BAD_REQUEST)),
        (
            "a user",
            &[method, (":authority", "u@10.0.0.1:80")],
            Answered(BAD_REQUEST),
        ),
        // What nobody believes does no harm.
        (
            "headers",
            &[method, to, ("forwarded", "for=1.2.3.4"), ("host", "x")],
            Answered(OK),
        ),
    ] {
        frames.send(&[Frame::headers(id, 0, fields)]).await?;
        let found = frames
            .until(|frame| frame.kind == GOAWAY || answer(id)(frame))
            .await
            .with_context(|| name.to_owned())?;
        match outcome {
            Malformed => ensure!(
                found.kind == RST_STREAM && found.number() == Some(PROTOCOL_ERROR),
                "{name}: {found:?}"
            ),
            Answered(status) => ensure!(
                found.kind == HEADERS && found.payload.first() == Some(&status),
                "{name}: {found:?}"
            ),
            Fatal => {
                ensure!(found.kind == GOAWAY, "{name}: {found:?}");
                frames = called.frames().await?;
                connections += 1;
                id = 1;
                continue;
            }
        }
        id += 2;
    }
    // It was the last; the application hears of it with its bytes.
    frames.send(&[Frame::data(id - 2, 0, b"x")]).await?;
    frames.until(|frame| frame.kind == DATA).await?;
    ensure!(server.accepted() == 1, "{}", server.accepted());
    ensure!(called.world.proxy.counter("hbone_downstream_cx").await? == connections);
    Ok(())
}

#[tokio::test]
async fn bytes_before_the_answer_and_ends_of_all_kinds_are_taken() -> Result<()> {
    let called = Called::new().await?;
    let (_server, mut accepted) = Server::accepting(&called.world.server, PORT)?;
    let mut frames = called.frames().await?;
    let at = called.at(PORT);
    let trailers = |id| Frame::headers(id, END_STREAM, &[("grpc-status", "0")]);
    let mut id = 1;
    for (name, rest, said) in [
        (
            "bytes at once",
            vec![Frame::data(0, 0, b"early"), Frame::data(0, END_STREAM, b"")],
            "early",
        ),
        (
            "an end with bytes",
            vec![Frame::data(0, END_STREAM, b"all")],
            "all",
        ),
        (
            "trailers",
            vec![Frame::data(0, 0, b"body"), trailers(0)],
            "body",
        ),
        ("trailers alone", vec![trailers(0)], ""),
        (
            "padding",
            // RFC 9113, section 6.1: two bytes of it.
            vec![Frame::new(DATA, END_STREAM | 8, 0, *b"\x02padded\0\0")],
            "padded",
        ),
    ] {
        let mut all = vec![Frame::connect(id, &at)];
        all.extend(rest.into_iter().map(|frame| Frame { id, ..frame }));
        frames.send(&all).await?;
        let found = frames.until(answer(id)).await?;
        ensure!(found.payload.first() == Some(&OK), "{name}: {found:?}");
        let mut application = next(&mut accepted).await?;
        let (bytes, end) = raw::drain(&mut application).await?;
        ensure!(
            bytes == said.as_bytes() && end == End::Closed,
            "{name}: {bytes:?} {end:?}"
        );
        // The other direction is open still.
        application.write_all(b"answer").await?;
        drop(application);
        let found = frames
            .until(|frame| frame.kind == DATA && frame.id == id)
            .await?;
        ensure!(found.payload == b"answer", "{name}: {found:?}");
        id += 2;
    }
    // One that has said all with its CONNECT.
    let fields = [(":method", "CONNECT"), (":authority", at.as_str())];
    frames
        .send(&[Frame::headers(id, END_STREAM, &fields)])
        .await?;
    let mut application = next(&mut accepted).await?;
    ensure!(raw::drain(&mut application).await?.1 == End::Closed);
    Ok(())
}

async fn next(accepted: &mut tokio::sync::mpsc::UnboundedReceiver<TcpStream>) -> Result<TcpStream> {
    let accepted = tokio::time::timeout(PATIENCE, accepted.recv()).await?;
    accepted.context("a connection")
}

/// A listener whose connections have little room.
fn narrow(pod: &Pod, backlog: i32) -> Result<tokio::net::TcpListener> {
    let listener = pod.netns.run(|| -> std::io::Result<_> {
        let kind = socket2::Type::STREAM;
        let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None)?;
        socket.set_recv_buffer_size(8 << 10)?;
        socket.bind(&SocketAddr::from(([0_u8; 4], PORT)).into())?;
        socket.listen(backlog)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })??;
    Ok(tokio::net::TcpListener::from_std(listener.into())?)
}

#[tokio::test]
async fn what_was_said_before_leaving_reaches_an_application_that_reads_slowly() -> Result<()> {
    const PIECE: usize = 16 << 10;
    const PIECES: usize = 50;
    let called = Called::new().await?;
    let listener = narrow(&called.world.server, 16)?;
    let mut frames = called.frames().await?;
    // Its windows are in force then.
    frames.until(|frame| frame.kind == SETTINGS).await?;
    frames.send(&[Frame::new(SETTINGS, ACK, 0, [])]).await?;
    let at = called.at(PORT);
    let mut id = 1;
    for (reason, ended, whole) in [
        (h2::Reason::NO_ERROR, true, true),
        (h2::Reason::CANCEL, true, true),
        (h2::Reason::CONNECT_ERROR, true, false),
        (h2::Reason::NO_ERROR, false, false),
    ] {
        frames.send(&[Frame::connect(id, &at)]).await?;
        let (mut application, _) = tokio::time::timeout(PATIENCE, listener.accept()).await??;
        frames.until(answer(id)).await?;
        let mut all = vec![Frame::data(id, 0, &[7; PIECE]); PIECES];
        if ended {
            all.push(Frame::data(id, END_STREAM, b""));
        }
        all.push(Frame::reset(id, reason));
        // The answer says that all before it was read.
        all.push(Frame::new(PING, 0, 0, [0; 8]));
        frames.send(&all).await?;
        frames
            .until(|frame| frame.kind == PING && frame.flags == ACK)
            .await?;
        let mut found = Vec::new();
        let read = tokio::time::timeout(PATIENCE, application.read_to_end(&mut found)).await?;
        if whole {
            read.with_context(|| format!("{reason:?}, after {} bytes", found.len()))?;
            ensure!(found.len() == PIECE * PIECES, "{reason:?}: {}", found.len());
        } else {
            let error = read.err().context("a reset and no end")?;
            ensure!(error.kind() == std::io::ErrorKind::ConnectionReset);
        }
        id += 2;
    }
    Ok(())
}

#[tokio::test]
async fn dials_end_with_the_streams_that_wanted_them() -> Result<()> {
    const STREAMS: u32 = 80;
    let called = Called::new().await?;
    // Nobody accepts: once its queue is full the kernel answers no more SYNs.
    let _listener = narrow(&called.world.server, 0)?;
    let pid = called.world.proxy.child.pid();
    let open = || -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count()) };
    let until = async |wanted: &dyn Fn(usize) -> bool, patience| -> Result<()> {
        let deadline = Deadline::after(patience);
        loop {
            let found = open()?;
            if wanted(found) {
                return Ok(());
            }
            ensure!(!deadline.passed(), "{found} descriptors");
            tokio::task::yield_now().await;
        }
    };
    let mut frames = called.frames().await?;
    let at = called.at(PORT);
    // A ping's answer says that the connection is served.
    frames.send(&[Frame::new(PING, 0, 0, [0; 8])]).await?;
    frames
        .until(|frame| frame.kind == PING && frame.flags == ACK)
        .await?;
    let before = open()?;
    let mut id = 1;
    let begun = clock::now();
    for _ in 0..3 {
        let ids: Vec<_> = (0..STREAMS).map(|n| id + 2 * n).collect();
        let connects: Vec<_> = ids.iter().map(|id| Frame::connect(*id, &at)).collect();
        frames.send(&connects).await?;
        until(&|now| now >= before + STREAMS as usize - 8, PATIENCE).await?;
        let resets = ids.iter().map(|id| Frame::reset(*id, h2::Reason::CANCEL));
        frames.send(&resets.collect::<Vec<_>>()).await?;
        id += 2 * STREAMS;
        // Those few that the queue had room for end as well.
        until(&|now| now <= before + 8, Duration::from_secs(8)).await?;
    }
    // By itself a dial takes ten seconds.
    ensure!(begun.elapsed() < Duration::from_secs(20));
    Ok(())
}
