//! Who asks.

use std::sync::Arc;

use futures_util::future::BoxFuture;

/// A node, as a token has shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its name, as `spec.nodeName` of pods has it.
    pub node: Arc<str>,
    /// The namespaces whose accounts it may ask for; `None` for all.
    pub namespaces: Option<Arc<[String]>>,
}

/// Why a token shows nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreviewed {
    /// It is nobody's.
    #[error("the token is not known")]
    Unknown,
    /// It was somebody's.
    #[error("the token of {node} has expired")]
    Expired {
        /// Whose.
        node: Arc<str>,
    },
    /// Nobody can say now.
    #[error("tokens can't be reviewed: {0}")]
    Unavailable(String),
}

/// Says whose a token is. It need not bound its time: the server does.
pub trait Reviewer: Send + Sync + 'static {
    /// Whose it is.
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller, Unreviewed>>;
}
