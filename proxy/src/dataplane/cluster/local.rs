//! One worker's view of a cluster for one pod, and the connections it keeps to it.

use std::cell::{OnceCell, Ref, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use foldhash::fast::RandomState;
use rustls::pki_types::CertificateDer;

use super::{Host, Members, State};
use crate::clock;
use crate::dataplane::pool::{HostPool, Purpose};
use crate::dataplane::way::Made;
use crate::mesh::cluster::Policy;
use crate::policy::balance::{Hosts, Picked, Picker, Wish};
use crate::wire::proxy_protocol::Ends;

/// An endpoint, and what alone its connections are for.
type Apart = (SocketAddr, Purpose);

/// Certificates that are shown to servers; empty for none.
pub(in crate::dataplane) type Shown = Arc<[CertificateDer<'static>]>;

/// A cluster as one worker uses it for one pod.
pub(in crate::dataplane) struct Local {
    pub(in crate::dataplane) state: Arc<State>,
    seen: RefCell<Seen>,
    pools: RefCell<HashMap<SocketAddr, Rc<HostPool>, RandomState>>,
    /// Those that not every request may use.
    apart: RefCell<HashMap<Apart, Rc<HostPool>, RandomState>>,
    /// What new connections by TLS show; `None` where there can be none.
    shown: RefCell<Option<Shown>>,
}

struct Seen {
    generation: u64,
    members: Arc<Members>,
    /// This worker's place in the turns, for IPv4 and IPv6.
    pickers: [Option<Picker>; 2],
}

impl Seen {
    /// Tells whether endpoints are now to be spoken with by other settings of TLS, or greeted
    /// otherwise.
    fn renew(&mut self, state: &State) -> bool {
        let generation = state.generation.load(Ordering::Acquire);
        if self.generation == generation {
            return false;
        }
        self.generation = generation;
        let before = std::mem::replace(&mut self.members, state.members.load_full());
        for (family, picker) in [FOUR, SIX].into_iter().zip(&mut self.pickers) {
            if let Some(picker) = picker {
                picker.set_plan(Arc::clone(&self.members.family(family).plan));
            }
        }
        let (before, now) = (&before.cluster.policy, &self.members.cluster.policy);
        before.tls != now.tls || before.proxy_protocol != now.proxy_protocol
    }
}

/// Any address of each family.
const FOUR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const SIX: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

/// The endpoints of one family, as a picker asks about them.
struct Candidates<'a> {
    members: &'a Members,
    start: usize,
    /// Read once, and only where somebody is warming up.
    now: OnceCell<SystemTime>,
    avoid: &'a [SocketAddr],
}

impl Hosts for Candidates<'_> {
    fn active(&self, host: usize) -> u64 {
        let host = self.members.hosts.get(self.start + host);
        host.map_or(0, |host| host.active())
    }

    fn warmth(&self, host: usize) -> f64 {
        let now = *self.now.get_or_init(clock::wall);
        self.members.warmth(self.start + host, now)
    }

    fn avoid(&self, host: usize) -> bool {
        let host = self.members.hosts.get(self.start + host);
        host.is_some_and(|host| self.avoid.contains(&host.address))
    }
}

impl Local {
    pub(in crate::dataplane) fn new(state: Arc<State>) -> Self {
        let generation = state.generation.load(Ordering::Acquire);
        let members = state.members.load_full();
        Self {
            state,
            seen: RefCell::new(Seen {
                generation,
                members,
                pickers: [None, None],
            }),
            pools: RefCell::default(),
            apart: RefCell::default(),
            shown: RefCell::default(),
        }
    }

    /// What was learned of the newest endpoints and policy is taken over.
    fn renewed(&self, seen: &mut Seen) {
        if seen.renew(&self.state) {
            self.renew_pools();
        }
    }

    fn renew_pools(&self) {
        self.pools.borrow().values().for_each(|pool| pool.renew());
        self.apart.borrow().values().for_each(|pool| pool.renew());
    }

    /// The endpoints and limits in force.
    ///
    /// To be let go of before the next call of anything here: what is borrowed can't be renewed.
    pub(in crate::dataplane) fn members(&self) -> Ref<'_, Members> {
        if let Ok(mut seen) = self.seen.try_borrow_mut() {
            self.renewed(&mut seen);
        }
        Ref::map(self.seen.borrow(), |seen| &*seen.members)
    }

    /// Picks an endpoint for a client that dialled `like`; `avoid` were tried before. `draw` gives
    /// uniformly random numbers.
    pub(in crate::dataplane) fn pick(
        &self,
        like: SocketAddr,
        wish: Wish,
        avoid: &[SocketAddr],
        mut draw: impl FnMut() -> u64,
    ) -> Option<(Arc<Host>, Picked)> {
        let mut seen = self.seen.borrow_mut();
        self.renewed(&mut seen);
        if seen.members.warm.is_some_and(|warm| clock::wall() >= warm) {
            self.state.warmed();
            self.renewed(&mut seen);
        }
        let Seen {
            members, pickers, ..
        } = &mut *seen;
        let family = members.family(like);
        let picker = pickers[usize::from(like.is_ipv6())]
            .get_or_insert_with(|| Picker::new(Arc::clone(&family.plan), draw()));
        let candidates = Candidates {
            members,
            start: family.start,
            now: OnceCell::new(),
            avoid,
        };
        let picked = picker.pick(wish, &candidates, draw)?;
        let host = members.hosts.get(family.start + picked.host)?;
        Some((Arc::clone(host), picked))
    }

    /// The policy in force.
    pub(in crate::dataplane) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.members().cluster.policy)
    }

    /// The connections to `address`.
    pub(in crate::dataplane) fn pool(&self, address: SocketAddr) -> Rc<HostPool> {
        Rc::clone(self.pools.borrow_mut().entry(address).or_default())
    }

    /// The connections to `address` that are for this alone.
    pub(in crate::dataplane) fn pool_of(
        &self,
        address: SocketAddr,
        purpose: Purpose,
    ) -> Rc<HostPool> {
        let mut apart = self.apart.borrow_mut();
        let pool = apart.entry((address, purpose.clone()));
        Rc::clone(pool.or_insert_with(|| Rc::new(HostPool::new(purpose))))
    }

    /// Closes what is for this client's connection alone, which has ended.
    pub(in crate::dataplane) fn forget(&self, client: Ends) {
        self.apart.borrow_mut().retain(|(_, purpose), pool| {
            let stays = !purpose.is_for(client);
            if !stays {
                pool.clear();
            }
            stays
        });
    }

    /// Lets go of connections that were made by something else than is in force, as `made` says of
    /// each address.
    pub(in crate::dataplane) fn follow(&self, made: impl Fn(SocketAddr) -> Made) {
        let (pools, apart) = (self.pools.borrow(), self.apart.borrow());
        pools.iter().for_each(|(to, pool)| pool.follow(made(*to)));
        apart
            .iter()
            .for_each(|((to, _), pool)| pool.follow(made(*to)));
    }

    /// From now on connections by TLS show these certificates: those that show others get no more
    /// requests. Whether their servers are still trusted is asked elsewhere.
    pub(in crate::dataplane) fn shows(&self, now: Option<Shown>) {
        let before = self.shown.replace(now.clone());
        if before.is_some() && before != now {
            self.renew_pools();
        }
    }

    /// Closes one connection to `address` that has no request.
    pub(in crate::dataplane) fn give_up_one(&self, address: SocketAddr) {
        if let Some(pool) = self.pools.borrow().get(&address) {
            pool.give_up_one();
        }
        let apart = self.apart.borrow();
        let to = apart.iter().filter(|((to, _), _)| *to == address);
        to.for_each(|(_, pool)| pool.give_up_one());
    }

    /// Closes what is without a request.
    pub(in crate::dataplane) fn clear(&self) {
        for (_, pool) in self.pools.borrow_mut().drain() {
            pool.clear();
        }
        for (_, pool) in self.apart.borrow_mut().drain() {
            pool.clear();
        }
    }

    /// Closes what was idle for too long, and everything idle to endpoints that are no more.
    pub(in crate::dataplane) fn sweep(&self, now: Instant) {
        let members = self.members();
        let known = |address| members.hosts.is_empty() || members.host(address).is_some();
        let keep = |address, pool: &HostPool| {
            if !known(address) {
                pool.clear();
            }
            pool.sweep(now, &members.cluster.policy);
            !pool.is_empty()
        };
        let mut pools = self.pools.borrow_mut();
        pools.retain(|address, pool| keep(*address, pool));
        let mut apart = self.apart.borrow_mut();
        apart.retain(|(address, _), pool| keep(*address, pool));
    }
}
