//! One identity whose pods run here: where its certificate stands, and how it is asked for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Authority, Failure, Signed};
use crate::policy::renewal::Renewal;
use crate::tls::Key;
use crate::types::Identity;

/// How long the authority may take for one certificate.
const PATIENCE: Duration = Duration::from_secs(10);

/// A key and what was signed for it.
pub(super) type Answer = Result<(Key, Signed), Failure>;

/// Whose it is, what had changed of the trust when it was asked for, and what came.
pub(super) type Asked = (Identity, u64, Answer);

/// An identity whose pods run here, and where its certificate stands.
#[derive(Default)]
pub(super) struct Account {
    pub(super) pods: usize,
    pub(super) renewal: Renewal,
    pub(super) in_flight: bool,
    /// Whether there is to be another question after the one that is under way.
    pub(super) again: bool,
    pub(super) expired: bool,
    pub(super) error: Option<String>,
}

impl Account {
    /// Asks once more, as soon as nothing is asked.
    pub(super) fn hurry(&mut self) {
        if self.in_flight {
            self.again = true;
        } else {
            self.renewal.hurry();
        }
    }
}

/// Makes a key and has it signed.
pub(super) async fn fetch(
    authority: Arc<dyn Authority>,
    room: Arc<Semaphore>,
    identity: Identity,
    era: u64,
) -> Asked {
    let work = async {
        // Closed by nobody.
        let _permit = room.acquire().await;
        let key = Key::generate()?;
        let request = key.request(&identity)?;
        let signed = timeout(PATIENCE, authority.sign(&identity, &request)).await;
        Ok((key, signed.map_err(|_| Failure::Silent(PATIENCE))??))
    };
    let answer = work.await;
    (identity, era, answer)
}
