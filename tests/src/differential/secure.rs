//! Upstreams that speak TLS, and the files by which rules speak with them. TLS itself is handed in by
//! the test: the harness has none of its own.

use std::{fmt, path::PathBuf, pin::Pin, sync::Arc};

use tokio::net::TcpStream;

/// What is behind a handshake: the bytes, and what TLS said of it.
pub type Opened = Option<(TcpStream, Vec<(String, String)>)>;

/// Ends TLS as the server of this name does; `None` where nothing came of it.
pub type End =
    dyn Fn(&'static str, TcpStream) -> Pin<Box<dyn Future<Output = Opened> + Send>> + Send + Sync;

/// TLS for the suite.
#[derive(Clone)]
pub struct Secure {
    /// Where the files are that rules name, as `FILES`.
    pub files: PathBuf,
    /// Its servers.
    pub end: Arc<End>,
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secure")
            .field("files", &self.files)
            .finish()
    }
}
