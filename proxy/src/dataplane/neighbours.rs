//! The local pods by their addresses, and how one of them reaches another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::pod::LocalPod;

/// How a local pod of the mesh reaches another, where certificates are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SameNode {
    /// By HBONE, as on another node.
    #[default]
    Hbone,
    /// Inside the process: neither encrypted nor seen by a NetworkPolicy.
    Direct,
}

/// The local pods.
#[derive(Default)]
pub(super) struct Neighbours {
    way: SameNode,
    pods: RefCell<HashMap<IpAddr, Rc<LocalPod>, RandomState>>,
}

impl Neighbours {
    /// None yet.
    pub(super) fn new(way: SameNode) -> Self {
        Self {
            way,
            pods: RefCell::default(),
        }
    }

    /// Takes note of a pod's addresses, in the place of those that it had.
    pub(super) fn settle(&self, pod: &Rc<LocalPod>) {
        self.remove(pod);
        let addresses = pod.pod().workload.addresses.clone();
        let own = addresses.into_iter().map(|one| (one, Rc::clone(pod)));
        self.pods.borrow_mut().extend(own);
    }

    /// Forgets a pod.
    pub(super) fn remove(&self, pod: &Rc<LocalPod>) {
        self.pods
            .borrow_mut()
            .retain(|_, one| !Rc::ptr_eq(one, pod));
    }

    /// The pod that is reached inside the process at this address.
    pub(super) fn at(&self, address: IpAddr) -> Option<Rc<LocalPod>> {
        match self.way {
            SameNode::Direct => self.pods.borrow().get(&address).cloned(),
            SameNode::Hbone => None,
        }
    }
}
