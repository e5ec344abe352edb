//! One call: who asks, for whom, may it be so; then it is signed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use tokio::sync::Semaphore;

use super::reviewer::{Caller, Reviewer};
use super::{Counters, Keeper, Places, Refusal};
use crate::clock;
use crate::proto::ca::{
    CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, IMPERSONATED_IDENTITY,
};
use crate::proto::grpc::server::{self, Limits, Reply, response, unary};
use crate::proto::grpc::{Code, Status};
use crate::tls::Asked;
use crate::types::Identity;

/// The largest request, in bytes: one has about 700.
const LARGEST: usize = 64 * 1024;
/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many calls are read and answered at once, which bounds what their bodies take.
const AT_ONCE: usize = 1024;
/// How much of a wrong identity is told, in characters.
const SHOWN: usize = 128;
/// How many refusals of a second the log tells. Anyone can be refused; the metrics count them all.
const TOLD: u32 = 20;

/// Answers calls.
pub struct Service {
    keeper: Arc<Keeper>,
    reviewer: Box<dyn Reviewer>,
    places: Places,
    domain: Arc<str>,
    counters: Arc<Counters>,
    room: Semaphore,
    told: Mutex<Told>,
}

/// How many refusals the log has told since when, and how many it has not.
#[derive(Debug)]
struct Told {
    since: Instant,
    lines: u32,
    untold: u64,
}

impl Service {
    /// Signs by `keeper` for whom `reviewer` and `places` allow it, in the trust domain `domain`.
    pub fn new(
        keeper: Arc<Keeper>,
        reviewer: Box<dyn Reviewer>,
        places: Places,
        domain: Arc<str>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            keeper,
            reviewer,
            places,
            domain,
            counters,
            room: Semaphore::new(AT_ONCE),
            told: Mutex::new(Told::new(clock::now())),
        }
    }

    /// Answers one HTTP request, whatever it is.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<Reply>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        // Closed by nobody.
        let _permit = self.room.acquire().await;
        let limits = Limits {
            size: LARGEST,
            time: PATIENCE,
        };
        let outcome = if request.uri().path() == CREATE_CERTIFICATE {
            unary(request, limits, |headers, message| {
                self.create(headers, message)
            })
            .await
        } else {
            let status = Status::new(Code::Unimplemented, "there is no such method here");
            Err(server::Refusal::Status(status))
        };
        match outcome {
            Ok(Ok(answer)) => {
                self.counters.call(Code::Ok, "");
                response(Ok(&answer))
            }
            Ok(Err(refusal)) => {
                self.counters.call(refusal.code(), refusal.reason());
                self.tell(&refusal);
                let status = Status::from(&refusal);
                response::<CertificateResponse>(Err(&server::Refusal::Status(status)))
            }
            Err(refusal) => {
                let code = match &refusal {
                    server::Refusal::Status(status) => status.code,
                    server::Refusal::Http(_) => Code::Unknown,
                };
                self.counters.call(code, "protocol");
                tracing::debug!(?refusal, "what came is no call");
                response::<CertificateResponse>(Err(&refusal))
            }
        }
    }

    fn tell(&self, refusal: &Refusal) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(untold) = told.next(clock::now()) {
            drop(told);
            let reason = refusal.reason();
            if untold > 0 {
                tracing::warn!(untold, "more refusals than are told");
            }
            tracing::warn!(reason, "refused: {refusal}");
        }
    }

    async fn create(
        &self,
        headers: HeaderMap,
        request: CertificateRequest,
    ) -> Result<CertificateResponse, Refusal> {
        let token = bearer(&headers).ok_or(Refusal::NoToken)?;
        let caller = self.reviewer.review(token).await?;
        self.sign(&caller, &request, clock::wall())
    }

    /// What is decided once the caller is known.
    pub(super) fn sign(
        &self,
        caller: &Caller,
        request: &CertificateRequest,
        now: SystemTime,
    ) -> Result<CertificateResponse, Refusal> {
        let metadata = request.metadata.as_ref();
        let wanted = metadata.and_then(|metadata| metadata.text(IMPERSONATED_IDENTITY));
        let wanted = wanted
            .filter(|text| !text.is_empty())
            .ok_or(Refusal::Nobody)?;
        let identity: Identity = wanted.parse().map_err(|source| Refusal::NotAnIdentity {
            text: wanted.chars().take(SHOWN).collect(),
            source,
        })?;
        let node = || Arc::clone(&caller.node);
        let whose = || identity.clone();
        if identity.trust_domain != self.domain {
            return Err(Refusal::TrustDomain {
                identity,
                domain: Arc::clone(&self.domain),
            });
        }
        if let Some(namespaces) = &caller.namespaces
            && !namespaces.iter().any(|one| **one == *identity.namespace)
        {
            let (node, identity) = (node(), whose());
            return Err(Refusal::Namespace { node, identity });
        }
        let (namespace, account) = (&identity.namespace, &identity.service_account);
        if !self.places.runs(&caller.node, namespace, account) {
            let (node, identity) = (node(), whose());
            return Err(Refusal::Elsewhere { node, identity });
        }
        let asked = Asked::from_pem(&request.csr).map_err(Refusal::Request)?;
        if let Some(name) = asked.beside(&identity).next() {
            return Err(Refusal::Names {
                name: name.chars().take(SHOWN).collect(),
                identity: whose(),
            });
        }
        let cert_chain = self
            .keeper
            .sign(&asked, &identity, request.validity_duration, now)?;
        tracing::info!(node = %caller.node, %identity, "signed");
        Ok(CertificateResponse { cert_chain })
    }
}

impl Told {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            lines: 0,
            untold: 0,
        }
    }

    /// Whether there is room for a line, and then how many there was none for before it.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines >= TOLD {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// The token of `authorization: Bearer TOKEN`. Two of them are none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (one, None) = (all.next()?, all.next()) else {
        return None;
    };
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    let is_token = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty();
    is_token.then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_told_in_part() {
        let start = clock::now();
        let mut told = Told::new(start);
        let lines = (0..100).filter_map(|_| told.next(start)).count();
        assert_eq!(lines, 20);
        let later = start + Duration::from_secs(1);
        assert_eq!(told.next(later), Some(80));
        assert_eq!(told.next(later), Some(0));
    }
}
