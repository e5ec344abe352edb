//! The kernel side, as user space holds it: programs loaded, attached and pinned; maps written.
//! The only user of aya.
//!
//! Does not know what enrols a pod (`control::enrol`) nor what becomes of a connection
//! (`dataplane`). All maps and links are pinned, so that they outlive the process: what a dead
//! proxy means is decided in the kernel, by the failure mode that a pod's entry carries.

pub mod bpffs;
mod counts;
pub mod enrolment;
pub mod error;
pub mod load;
pub mod log;
pub mod maps;
pub mod pins;
pub mod preflight;
pub mod probe;
pub mod redirects;
pub mod report;

pub use enrolment::{Capture, Listener, Rules};
pub use error::Error;
pub use load::Options;
pub use pins::Pins;
pub use redirects::Redirects;

use counts::Counts;
use enrolment::Entries;
use load::Loader;

/// The kernel side of this proxy. Dropping it leaves everything as it is: attached, pinned, in
/// force.
pub struct Kernel {
    loader: Loader,
    entries: Entries,
    redirects: Redirects,
    counts: Counts,
    records: Option<log::Records>,
}

impl Kernel {
    /// Loads, attaches and pins the programs. Pods that a proxy before this one enrolled stay
    /// enrolled, with listeners that may be dead: [`Self::cookies`] names them.
    pub fn load(options: &Options) -> Result<Self, Error> {
        let (loader, records) = Loader::load(options)?;
        let pins = loader.pins().clone();
        Ok(Self {
            loader,
            entries: Entries::open(&pins)?,
            redirects: Redirects::open(&pins)?,
            counts: Counts::open(&pins)?,
            records,
        })
    }

    /// The maps of connections, for the data plane.
    pub fn redirects(&self) -> Redirects {
        self.redirects.clone()
    }

    /// The programs' log lines, to be followed; `None` where none are made, or when taken before.
    pub fn take_records(&mut self) -> Option<log::Records> {
        self.records.take()
    }

    /// The pods that are enrolled, by any proxy that used these pins.
    pub fn cookies(&self) -> Vec<u64> {
        self.entries.cookies()
    }

    /// What a pod is called, `namespace/name`, where it is enrolled.
    pub fn name(&self, cookie: u64) -> Option<String> {
        self.entries.name(cookie)
    }

    /// Where everything is pinned.
    pub fn pins(&self) -> &Pins {
        self.loader.pins()
    }

    /// Captures a pod, or takes over one that is captured: new connections go to these listeners
    /// from the moment this returns. Where it fails, a pod that was not captured leaves nothing
    /// behind, and one that was stays captured: its failure mode holds.
    pub fn enrol(&mut self, capture: &Capture<'_>) -> Result<(), Error> {
        let captured = self.entries.has(capture.cookie);
        let enrolled = self.write(capture);
        if let Err(error) = &enrolled {
            self.counts.full(error);
            if !captured && let Err(error) = self.expel(capture.cookie) {
                tracing::warn!(pod = capture.name, %error, "the kernel side keeps a part of a pod");
            }
        }
        enrolled
    }

    fn write(&mut self, capture: &Capture<'_>) -> Result<(), Error> {
        let pod = self.entries.prepare(capture)?;
        self.loader.attach_inbound(capture.cookie, capture.netns)?;
        self.entries.commit(capture.cookie, pod)
    }

    /// Changes what may change of an enrolled pod. Returns `false` where it is not enrolled.
    pub fn update(&mut self, cookie: u64, rules: &Rules<'_>) -> Result<bool, Error> {
        let updated = self.entries.update(cookie, rules);
        updated.inspect_err(|error| self.counts.full(error))
    }

    /// Stops capturing a pod and forgets it. One that is not enrolled is no error.
    pub fn expel(&mut self, cookie: u64) -> Result<(), Error> {
        self.entries.remove(cookie)?;
        self.loader.detach_inbound(cookie)
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel")
            .field("pins", self.loader.pins())
            .finish_non_exhaustive()
    }
}
