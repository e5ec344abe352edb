//! What is counted: why a connection was captured, passed or dropped, and which map was full.

macro_rules! causes {
    ($(#[$doc:meta])* $name:ident { $($(#[$line:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $name { $($(#[$line])* $variant,)+ }

        impl $name {
            /// Every one, in the order of its index.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// How many there are: the size of the map.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// Its name, which stays.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

causes! {
    /// Index into the per-CPU array `STATS`, which the kernel programs count in.
    Cause {
        /// Outbound, rewritten to the proxy's IPv4 listener.
        CapturedV4 => "captured_outbound_v4",
        /// Outbound, rewritten to the proxy's IPv6 listener.
        CapturedV6 => "captured_outbound_v6",
        /// Inbound, given to the proxy's IPv4 listener.
        CapturedInboundV4 => "captured_inbound_v4",
        /// Inbound, given to the proxy's IPv6 listener.
        CapturedInboundV6 => "captured_inbound_v6",
        /// Passed: a dial of the proxy's.
        PassedOwnDial => "passed_own_dial",
        /// Passed: to a loopback or unspecified address.
        PassedLoopback => "passed_loopback",
        /// Passed: to the pod's own address.
        PassedOwnAddress => "passed_own_address",
        /// Passed: to an excluded port.
        PassedExcludedPort => "passed_excluded_port",
        /// Passed: to an excluded range.
        PassedExcludedRange => "passed_excluded_range",
        /// Passed: no listener lives and the failure mode is open.
        PassedOpen => "passed_failure_mode_open",
        /// Passed: bound to a device, and the failure mode is open.
        PassedBoundDevice => "passed_bound_device",
        /// Tagged: a connection of a probe process of the host.
        PassedProbe => "passed_probe",
        /// Passed inbound: to an excluded port.
        PassedInboundExcludedPort => "passed_inbound_excluded_port",
        /// Passed inbound: of a probe process of the host.
        PassedInboundProbe => "passed_inbound_probe",
        /// Passed inbound: no listener lives and the failure mode is open.
        PassedInboundOpen => "passed_inbound_failure_mode_open",
        /// Refused: no listener lives and the failure mode is closed.
        DroppedClosed => "dropped_failure_mode_closed",
        /// Refused: bound to a device, and the failure mode is closed.
        DroppedBoundDevice => "dropped_bound_device",
        /// Dropped inbound: no listener lives and the failure mode is closed.
        DroppedInboundClosed => "dropped_inbound_failure_mode_closed",
        /// No memory for the socket's tag: the failure mode decides, as without a listener.
        FullSockets => "full_sockets",
        /// `ORIGINS` refused an entry: the proxy will miss it and end the connection. (An entry that
        /// was forgotten for a newer one is counted as missed.)
        FullOrigins => "full_origins",
        /// `REDIRECTS` is full: the connection goes on, unlisted.
        FullRedirects => "full_redirects",
        /// `INBOUND_FLOWS` refused an entry: the connection goes on, its source port unguarded.
        FullInboundFlows => "full_inbound_flows",
        /// `PROBE_FLOWS` refused an entry: the probe is treated as a stranger.
        FullProbeFlows => "full_probe_flows",
        /// The application's end of a transparent dial could not be bound to `lo`.
        UnboundApplication => "unbound_application",
        /// A connection from outside could not be bound to the device it came by.
        UnboundInbound => "unbound_inbound",
        /// `PROBE_FLOWS` was full and forgot the entry of a probe that was open: had its SYN come
        /// again, it would have been treated as a stranger's.
        MissedProbeFlow => "missed_probe_flow",
    }
}

causes! {
    /// Index into the array `PROXY_STATS`, which user space counts in.
    ProxyCause {
        /// An accepted connection had no entry in `ORIGINS`: evicted, or dialled on purpose.
        MissedOrigin => "missed_origin",
        /// `INBOUND_FLOWS` was full and forgot the entry of a connection that was open: its source
        /// port was unguarded.
        MissedInboundFlow => "missed_inbound_flow",
        /// `PODS` is full: the pod is not enrolled.
        FullPods => "full_pods",
        /// `NAMES` is full: the pod is not enrolled.
        FullNames => "full_names",
        /// `LISTENERS` is full: the pod is not enrolled.
        FullListeners => "full_listeners",
        /// `OWN_ADDRESSES` is full: the pod is not enrolled, or its change not in force.
        FullOwnAddresses => "full_own_addresses",
        /// `EXCLUDED_PORTS` is full: the pod is not enrolled, or its change not in force.
        FullExcludedPorts => "full_excluded_ports",
        /// `EXCLUDED_RANGES` is full: the pod is not enrolled, or its change not in force.
        FullExcludedRanges => "full_excluded_ranges",
        /// `PROBE_PROCESSES` is full: further processes are treated as strangers.
        FullProbeProcesses => "full_probe_processes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_its_place() {
        for (index, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, index);
        }
    }
}
