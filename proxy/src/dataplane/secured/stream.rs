//! A connection by TLS that can be cut: whoever reads or writes finds it reset from then on, and the
//! server does at once, whether or not anybody reads.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::AsyncBufRead as _;
use tokio::sync::oneshot;
use tokio_rustls::client::TlsStream;

use crate::dataplane::pod::LocalPod;
use crate::dataplane::standing::Standing;
use crate::dataplane::task;
use crate::dataplane::upstream::Upstream;
use crate::dataplane::worker::Worker;
use crate::net::ahead::Ahead;

/// What TLS runs over.
pub(in crate::dataplane) type Stream = TlsStream<Ahead<Upstream>>;

/// A connection by TLS.
pub(in crate::dataplane) struct Secured {
    open: Rc<Open>,
    /// Its end tells the watch over the connection that there is none any more.
    _kept: oneshot::Sender<Infallible>,
}

struct Open {
    /// `None` once it was cut.
    stream: RefCell<Option<Stream>>,
    /// Whoever waits for something on it: one task at a time has it.
    waiting: Cell<Option<Waker>>,
}

impl Open {
    fn waits(&self, cx: &Context<'_>) {
        let waiting = self.waiting.take();
        let waiting = waiting.filter(|one| one.will_wake(cx.waker()));
        let waiting = waiting.unwrap_or_else(|| cx.waker().clone());
        self.waiting.set(Some(waiting));
    }

    fn cut(&self) {
        let stream = self.stream.take();
        if let Some(stream) = stream {
            stream.get_ref().0.get_ref().reset_on_close();
        }
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}

impl Secured {
    /// Watches over it as long as it is there.
    pub(super) fn new(
        worker: &Rc<Worker>,
        pod: &Rc<LocalPod>,
        to: SocketAddr,
        stream: Stream,
        mut standing: Standing,
    ) -> Self {
        let open = Rc::new(Open {
            stream: RefCell::new(Some(stream)),
            waiting: Cell::default(),
        });
        let (kept, ended) = oneshot::channel();
        let (watched, counters) = (Rc::downgrade(&open), Rc::clone(worker));
        task::spawn(worker, pod, async move {
            let reason = tokio::select! {
                biased;
                _ = ended => return,
                reason = standing.withdrawn() => reason,
            };
            if let Some(open) = watched.upgrade() {
                tracing::info!(%to, %reason, "the server of an open TLS connection is no longer trusted");
                counters.counters.upstream_cx_tls_untrusted.increment();
                open.cut();
            }
        });
        Self { open, _kept: kept }
    }

    /// Asks the stream, unless it was cut.
    pub(in crate::dataplane) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        ask: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let polled = match &mut *self.open.stream.borrow_mut() {
            Some(stream) => ask(Pin::new(stream), cx),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        };
        if polled.is_pending() {
            self.open.waits(cx);
        }
        polled
    }

    /// Resolves when it is cut.
    pub(in crate::dataplane) async fn cut(&self) {
        let is_cut = |cx: &mut Context<'_>| match &*self.open.stream.borrow() {
            None => Poll::Ready(()),
            Some(_) => {
                self.open.waits(cx);
                Poll::Pending
            }
        };
        poll_fn(is_cut).await;
    }

    /// Asks what TLS runs over; `None` once it was cut.
    pub(in crate::dataplane) fn over<T>(&self, ask: impl FnOnce(&Upstream) -> T) -> Option<T> {
        let stream = self.open.stream.borrow();
        Some(ask(stream.as_ref()?.get_ref().0.get_ref()))
    }

    /// Resolves when there is something to read, an end or an error included. Messages of TLS's own
    /// are nothing.
    pub(in crate::dataplane) async fn speaks(&self) {
        poll_fn(|cx| self.poll_speaks(cx)).await;
    }

    fn poll_speaks(&self, cx: &mut Context<'_>) -> Poll<()> {
        let ask = |stream: Pin<&mut Stream>, cx: &mut Context<'_>| {
            stream.poll_fill_buf(cx).map_ok(|_| ())
        };
        self.poll(cx, ask).map(|_| ())
    }

    /// Whether it is open and has said nothing.
    pub(in crate::dataplane) fn is_silent(&self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        self.poll_speaks(&mut nobody).is_pending()
    }

    /// Whether the bytes at hand, that nobody has taken, begin so.
    pub(in crate::dataplane) fn begins(&self, so: fn(&[u8]) -> bool) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        let ask =
            |stream: Pin<&mut Stream>, cx: &mut Context<'_>| stream.poll_fill_buf(cx).map_ok(so);
        matches!(self.poll(&mut nobody, ask), Poll::Ready(Ok(true)))
    }

    /// Ends it by a reset.
    pub(in crate::dataplane) fn reset(self) {
        self.over(Upstream::reset_on_close);
    }
}
