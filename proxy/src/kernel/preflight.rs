//! What the kernel side needs of the machine, checked one by one before anything is loaded. Each
//! finding is one line that names what is missing and how to get it. Changes nothing.

use std::fs;
use std::path::Path;

use aya::programs::{ProgramType, loaded_programs};
use aya::sys::is_program_supported;

use super::bpffs;

/// The oldest kernel: `ingress_ifindex` in `sk_lookup`.
const OLDEST: (u32, u32) = (5, 17);

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`; aya's own name for it is not public.
const CGROUP_SOCK_ADDR: u32 = 18;

/// Capabilities by their bit in /proc/self/status.
const CAPABILITIES: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Works, with a remark.
    Note,
    /// The proxy cannot run so.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found and, where it is missing, how to get it.
    pub message: String,
}

/// Looks at everything. `cgroup` is the root of the cgroup2 tree where the user named one.
pub fn check(bpffs: &Path, cgroup: Option<&Path>) -> Vec<Finding> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let mut findings = vec![
        privilege(&status),
        kernel(release.trim()),
        locked(&lockdown),
        programs(),
        folder(bpffs),
    ];
    findings.push(cgroup2(cgroup));
    findings.extend(neighbours());
    findings
}

fn finding(check: &'static str, outcome: Outcome, message: impl Into<String>) -> Finding {
    Finding {
        check,
        outcome,
        message: message.into(),
    }
}

fn privilege(status: &str) -> Finding {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(_, bit)| effective & (1 << bit) == 0)
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return finding("privilege", Outcome::Ok, "all capabilities that are needed");
    }
    let message = format!(
        "{} missing: run as root, or `privileged: true` in a container's securityContext",
        missing.join(", ")
    );
    finding("privilege", Outcome::Missing, message)
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => {
            let message = format!("the release {release:?} says no version; 5.17 is the oldest");
            return finding("kernel", Outcome::Note, message);
        }
    };
    if version < OLDEST {
        let message = format!("Linux {release} is older than 5.17: update the node's kernel");
        return finding("kernel", Outcome::Missing, message);
    }
    finding("kernel", Outcome::Ok, format!("Linux {release}"))
}

fn locked(lockdown: &str) -> Finding {
    if lockdown.contains("[confidentiality]") {
        let message = "the kernel is locked down (confidentiality), which forbids BPF: boot without \
                       lockdown=confidentiality";
        return finding("lockdown", Outcome::Missing, message);
    }
    finding("lockdown", Outcome::Ok, "BPF is not locked down")
}

fn programs() -> Finding {
    let needed = [
        ("cgroup/connect", ProgramType::CgroupSockAddr),
        ("sockops", ProgramType::SockOps),
        ("cgroup/sock", ProgramType::CgroupSock),
        ("sk_lookup", ProgramType::SkLookup),
    ];
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(_, kind)| matches!(is_program_supported(*kind), Ok(false)))
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return finding(
            "BPF programs",
            Outcome::Ok,
            "all kinds that are needed can be loaded",
        );
    }
    let message = format!(
        "the kernel knows no {}: it needs CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_INET",
        missing.join(", ")
    );
    finding("BPF programs", Outcome::Missing, message)
}

fn folder(path: &Path) -> Finding {
    match bpffs::is_bpffs(path) {
        Ok(true) => finding(
            "bpffs",
            Outcome::Ok,
            format!("{} is on a bpffs", path.display()),
        ),
        Ok(false) if path.starts_with("/sys/fs/bpf") && Path::new("/sys/fs/bpf").is_dir() => {
            let message = "/sys/fs/bpf has no bpffs mounted: `aquifer run` mounts one";
            finding("bpffs", Outcome::Note, message)
        }
        Ok(false) => {
            let message = format!(
                "{} is not on a bpffs: choose a --bpffs below /sys/fs/bpf, or `mount -t bpf bpf DIR`",
                path.display()
            );
            finding("bpffs", Outcome::Missing, message)
        }
        Err(error) => finding(
            "bpffs",
            Outcome::Missing,
            format!("{}: {error}", path.display()),
        ),
    }
}

fn cgroup2(named: Option<&Path>) -> Finding {
    let missing = |message: String| finding("cgroup2", Outcome::Missing, message);
    let tree = match named {
        Some(path) => path.to_owned(),
        None => match bpffs::cgroup2() {
            Ok(Some(path)) => path,
            Ok(None) => {
                return missing(
                    "no cgroup2 tree in /proc/mounts: `mount -t cgroup2 none /sys/fs/cgroup/unified`"
                        .to_owned(),
                );
            }
            Err(error) => return missing(format!("/proc/mounts: {error}")),
        },
    };
    if !tree.join("cgroup.controllers").exists() {
        return missing(format!(
            "{} is not the root of a cgroup2 tree: leave --cgroup out to have it found",
            tree.display()
        ));
    }
    finding("cgroup2", Outcome::Ok, tree.display().to_string())
}

/// Others' programs for socket addresses. The kernel runs those that were attached earlier first.
fn neighbours() -> Option<Finding> {
    let mut others: Vec<String> = loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| program.program_type() as u32 == CGROUP_SOCK_ADDR)
        .map(|program| program.name_as_str().unwrap_or("?").to_owned())
        .filter(|name| !name.starts_with("aquifer_"))
        .collect();
    others.sort_unstable();
    others.dedup();
    if others.is_empty() {
        return None;
    }
    let message = format!(
        "other programs rewrite socket addresses on this machine ({}): those attached earlier run \
         first, and a Service address that they rewrite arrives as the address of a pod",
        others.join(", ")
    );
    Some(finding("neighbours", Outcome::Note, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told() {
        for (release, outcome) in [
            ("6.18.44-fc", Outcome::Ok),
            ("5.17.0", Outcome::Ok),
            ("5.16.20-generic", Outcome::Missing),
            ("4.19.0", Outcome::Missing),
            ("", Outcome::Note),
            ("nonsense", Outcome::Note),
        ] {
            assert_eq!(kernel(release).outcome, outcome, "{release}");
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        for (status, expected) in [
            ("CapEff:\t000001ffffffffff", None),
            (
                "CapEff:\t0000000000000000",
                Some("CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF"),
            ),
            ("CapEff:\t0000008000201000", Some("CAP_PERFMON ")),
            ("", Some("CAP_NET_ADMIN")),
        ] {
            let finding = privilege(status);
            match expected {
                None => assert_eq!(finding.outcome, Outcome::Ok),
                Some(text) => {
                    assert_eq!(finding.outcome, Outcome::Missing);
                    assert!(finding.message.starts_with(text), "{}", finding.message);
                }
            }
        }
    }

    #[test]
    fn lockdown_is_told() {
        assert_eq!(
            locked("none integrity [confidentiality]").outcome,
            Outcome::Missing
        );
        assert_eq!(
            locked("none [integrity] confidentiality").outcome,
            Outcome::Ok
        );
        assert_eq!(locked("").outcome, Outcome::Ok);
    }

    #[test]
    fn a_folder_outside_a_bpffs_is_told() {
        assert_eq!(folder(Path::new("/tmp/x")).outcome, Outcome::Missing);
    }
}
