//! A client's request body on its way to upstreams: streamed as it comes, and kept as far as it may
//! have to be sent once more.
//!
//! Does not know when a request is sent again nor to whom: whoever does takes another [`Reader`].

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::content::{Content, Copied};
use crate::clock;

/// One request's body.
pub(crate) struct Upload {
    live: RefCell<Incoming>,
    kept: RefCell<Kept>,
    /// The whole length, where the client told it.
    length: Option<u64>,
    bytes: Cell<u64>,
    ended: Cell<bool>,
    /// When its end was received.
    complete: Cell<Option<Instant>>,
    /// Whether it broke off: there will be no end, whoever reads.
    broken: Cell<bool>,
    /// Whether it did because the client went away.
    gone: Cell<bool>,
    /// Whether it was too large to be kept.
    lost: Cell<bool>,
    /// Which reader may read: a newer one cuts the older off.
    turn: Cell<u32>,
    /// Whether that one is still at what was kept.
    replaying: Cell<bool>,
    /// Wakes the connection that it sends by, while that waits for the client.
    sender: RefCell<Option<Waker>>,
    /// Whether somebody wants all of it, whatever becomes of the request.
    whole: Cell<bool>,
    /// Whoever waits for the end.
    waiting: RefCell<Vec<Waker>>,
}

/// What was kept.
enum Kept {
    /// Nothing: the body is sent once.
    Nothing,
    /// Everything so far.
    All(Content),
    /// Everything up to a reader that has not sent all of it yet; nobody reads it after that one.
    Rest(Content),
    /// Nothing any more: it was more than [`LIMIT`].
    Lost,
}

impl Upload {
    /// Reads `body`.
    pub(super) fn new(body: Incoming) -> Rc<Self> {
        Rc::new(Self {
            length: body.size_hint().exact(),
            live: RefCell::new(body),
            kept: RefCell::new(Kept::Nothing),
            bytes: Cell::new(0),
            ended: Cell::new(false),
            complete: Cell::new(None),
            broken: Cell::new(false),
            gone: Cell::new(false),
            lost: Cell::new(false),
            turn: Cell::new(0),
            replaying: Cell::new(false),
            sender: RefCell::default(),
            whole: Cell::new(false),
            waiting: RefCell::default(),
        })
    }

    /// Keeps what comes from here on. To be asked before anything was read.
    pub(super) fn keep(&self) {
        self.kept.replace(Kept::All(Content::default()));
    }

    /// Keeps all of it to the end. To be asked before anything was read.
    pub(super) fn keep_whole(&self) {
        self.whole.set(true);
        self.keep();
    }

    /// Lets go of what was kept: nothing will be sent again. A reader that is still at what was kept
    /// reads on to its end.
    pub(super) fn forget(&self) {
        if self.whole.get() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        *kept = match &mut *kept {
            Kept::All(content) if self.replaying.get() => Kept::Rest(std::mem::take(content)),
            _ => Kept::Nothing,
        };
    }

    /// Stops whoever sends it: another attempt will be made. Its connection hears of it at once,
    /// or it would stay open for as long as the client takes.
    pub(super) fn cut_off(&self) {
        self.turn.set(self.turn.get().wrapping_add(1));
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }

    /// Whether everything that was read can be sent again, and the rest may still come.
    pub(super) fn is_replayable(&self) -> bool {
        !self.broken.get()
            && (self.bytes.get() == 0 || matches!(&*self.kept.borrow(), Kept::All(_)))
    }

    /// All of it, where it has ended and was kept.
    pub(super) fn content(&self) -> Option<Content> {
        match &mut *self.kept.borrow_mut() {
            Kept::All(content) if self.ended.get() => {
                content.settle();
                Some(content.clone())
            }
            _ => None,
        }
    }

    /// Bytes received so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether its end was received.
    pub(crate) fn ended(&self) -> bool {
        self.ended.get()
    }

    /// When its end was received.
    pub(super) fn complete(&self) -> Option<Instant> {
        self.complete.get()
    }

    /// Whether the client went away before its end.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Whether it was to be kept and was too large for that.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.get()
    }

    /// Wakes `waker` once the end was received.
    pub(super) fn wake_at_end(&self, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|one| one.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    fn end(&self) {
        if !self.ended.replace(true) {
            for waker in self.waiting.take() {
                waker.wake();
            }
        }
    }

    fn poll_live(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.broken.get() {
            return Poll::Ready(Some(Err(BodyError::BrokenOff)));
        }
        let mut live = self.live.borrow_mut();
        let Poll::Ready(frame) = Pin::new(&mut *live).poll_frame(cx) else {
            let mut sender = self.sender.borrow_mut();
            if !sender.as_ref().is_some_and(|one| one.will_wake(cx.waker())) {
                *sender = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        if let Some(Ok(frame)) = &frame {
            self.bytes
                .set(self.bytes.get() + frame.data_ref().map_or(0, Bytes::len) as u64);
            let mut kept = self.kept.borrow_mut();
            if let Kept::All(content) = &mut *kept
                && !content.push(frame)
            {
                *kept = Kept::Lost;
                self.lost.set(true);
            }
        }
        if let Some(Err(error)) = &frame {
            // What a reader finds behind the error would look like a regular end.
            self.broken.set(true);
            self.gone.set(!is_malformed(error));
        } else if frame.is_none() || live.is_end_stream() {
            self.complete.set(Some(clock::now()));
            self.end();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Client)))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Whoever waits finds it gone.
        self.end();
    }
}

/// Whether a body broke off because of what it said, and not because its sender went away: hyper's
/// decoder of chunks says so by the kind of its error.
fn is_malformed(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
        )
    })
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The client's side, or what it sent, failed.
    #[error(transparent)]
    Client(hyper::Error),
    /// It had broken off before.
    #[error("the request's body broke off")]
    BrokenOff,
    /// Another attempt sends it now.
    #[error("the request is sent by another attempt")]
    Superseded,
}

/// A request's body as one attempt sends it.
pub(crate) enum RequestBody {
    /// There is none.
    Empty,
    /// The client's.
    Read(Reader),
    /// A copy that is complete.
    Copy(Copied),
}

/// Reads an [`Upload`] from its beginning.
pub(crate) struct Reader {
    upload: Rc<Upload>,
    turn: u32,
    /// Chunks that were read already. Meaningless once `live`.
    position: usize,
    /// Whether all that was kept has been read.
    live: bool,
    sent: u64,
}

impl Reader {
    /// The next reader: all before it are cut off.
    pub(super) fn new(upload: &Rc<Upload>) -> Self {
        upload.cut_off();
        if let Kept::All(content) = &mut *upload.kept.borrow_mut() {
            content.settle();
            upload.replaying.set(true);
        }
        Self {
            upload: Rc::clone(upload),
            turn: upload.turn.get(),
            position: 0,
            live: false,
            sent: 0,
        }
    }

    fn replayed(&mut self) -> Option<Frame<Bytes>> {
        if self.live {
            return None;
        }
        let upload = Rc::clone(&self.upload);
        let mut kept = upload.kept.borrow_mut();
        if let Kept::All(content) | Kept::Rest(content) = &*kept {
            if let Some(chunk) = content.chunks.get(self.position) {
                self.position += 1;
                return Some(Frame::data(chunk.clone()));
            }
            if self.upload.ended.get() && self.position == content.chunks.len() {
                let trailers = content.trailers.clone();
                self.go_live(&mut kept);
                return trailers.map(Frame::trailers);
            }
        }
        self.go_live(&mut kept);
        None
    }

    /// All that was kept has been read.
    fn go_live(&mut self, kept: &mut Kept) {
        self.live = true;
        self.upload.replaying.set(false);
        if matches!(kept, Kept::Rest(_)) {
            *kept = Kept::Nothing;
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.turn != self.upload.turn.get() {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        let frame = match self.replayed() {
            Some(frame) => Some(Ok(frame)),
            None if self.upload.ended.get() => None,
            None => ready!(self.upload.poll_live(cx)),
        };
        if let Some(Ok(frame)) = &frame {
            self.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        if !self.upload.ended.get() {
            return false;
        }
        match &*self.upload.kept.borrow() {
            Kept::All(content) | Kept::Rest(content) if !self.live => {
                self.position >= content.chunks.len() && content.trailers.is_none()
            }
            _ => true,
        }
    }
}

impl From<Content> for RequestBody {
    fn from(content: Content) -> Self {
        Self::Copy(content.into())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Read(reader) => reader.poll_frame(cx),
            Self::Copy(copy) => Poll::Ready(copy.next().map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Read(reader) => reader.is_end_stream(),
            Self::Copy(copy) => copy.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Read(reader) => match reader.upload.length {
                Some(length) => SizeHint::with_exact(length.saturating_sub(reader.sent)),
                None => SizeHint::default(),
            },
            Self::Copy(copy) => copy.size_hint(),
        }
    }
}
