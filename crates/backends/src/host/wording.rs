//! How a step is called when it fails.

use std::fmt;

use rustix::io::Errno;

use super::step::Step;

impl Step {
    /// What a user can do about it when this step fails this way.
    pub(crate) fn hint(&self, errno: Errno) -> Option<&'static str> {
        match (self, errno) {
            (Self::Unshare(_) | Self::BeginNetwork(_) | Self::JoinNetwork(_) | Self::BecomeRoot { .. }, Errno::PERM | Errno::ACCESS) => {
                Some(
                    "user namespaces have no rights here: a container's seccomp filter, or an AppArmor rule \
                 (kernel.apparmor_restrict_unprivileged_userns=1)",
                )
            }
            (Self::Unshare(_) | Self::BeginNetwork(_), Errno::NOSPC) => Some("a limit in /proc/sys/user is reached (max_net_namespaces …)"),
            (Self::Overlay { .. } | Self::ClassicOverlay { .. }, Errno::PERM | Errno::NODEV | Errno::INVAL) => {
                Some("the kernel needs overlay with user namespaces (Linux 5.11), and SANDBAR_HOME must not lie on an overlay itself")
            }
            (Self::Mount { kind, .. }, Errno::PERM) if **kind == *c"proc" => {
                Some("parts of this host's own /proc are hidden, as in a container: give that container an unmasked /proc")
            }
            (Self::Seal { .. } | Self::OpenProgram { .. }, Errno::NOSYS) => Some("sandbar needs Linux 5.12 or later"),
            (Self::Execute { .. }, Errno::ACCESS) => Some("SANDBAR_HOME must not be mounted noexec"),
            _ => None,
        }
    }
}

impl fmt::Display for Step {
    /// As the object of `cannot`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepOnly(_) => f.write_str("close inherited descriptors"),
            Self::NewSession => f.write_str("begin a session"),
            Self::NewKeyring => f.write_str("make a session keyring"),
            Self::Unshare(_) => f.write_str("make namespaces"),
            Self::HostName(_) | Self::DomainName(_) => f.write_str("set the host name"),
            Self::LoopbackUp | Self::BeginNetwork(_) | Self::JoinNetwork(_) | Self::EndNetwork(_) => {
                f.write_str("make the network namespace")
            }
            Self::Inherit { .. } => f.write_str("number a descriptor"),
            Self::Receive(_) | Self::Wait => f.write_str("hear from sandbar"),
            Self::BecomeRoot { .. } => f.write_str("take on the sandbox's user id"),
            Self::JoinGroup(_) => f.write_str("join the control group"),
            Self::ClearUmask => f.write_str("clear the umask"),
            Self::OpenPath { path, .. } | Self::OpenProgram { path, .. } => write!(f, "open {}", path.to_string_lossy()),
            Self::Overlay { .. } | Self::ClassicOverlay { .. } => f.write_str("mount the overlay"),
            Self::ChangeRoot { .. } => f.write_str("change the root"),
            Self::DropOldRoot => f.write_str("leave the host's root"),
            Self::MakeFolder { path, .. } | Self::MakeFile(path) | Self::Symlink { path, .. } => {
                write!(f, "make {}", path.to_string_lossy())
            }
            Self::Mount { target, .. } | Self::Attach { target, .. } => write!(f, "mount {}", target.to_string_lossy()),
            Self::Seal { path, .. } => write!(f, "make {} read-only", path.to_string_lossy()),
            Self::CloneOld { source, .. } => write!(f, "clone the mount of /{}", source.to_string_lossy()),
            Self::RequireFolder(path) => {
                write!(f, "use {}: it must be a folder, without symbolic links on the way", path.to_string_lossy())
            }
            Self::Unlink(path) => write!(f, "remove {}", path.to_string_lossy()),
            Self::Write { path, .. } | Self::Replace { path, .. } => write!(f, "write {}", path.to_string_lossy()),
            Self::Limit { .. } => f.write_str("set a resource limit"),
            Self::DropCapability(_) => f.write_str("drop a capability"),
            Self::NoNewPrivileges => f.write_str("give up new privileges"),
            Self::DieWithParent => f.write_str("ask for a signal at the parent's death"),
            Self::LandlockAllow { .. } | Self::LandlockEnforce(_) => f.write_str("enter the Landlock domain"),
            Self::Filter(_) => f.write_str("install the seccomp filter"),
            Self::UnblockSignals => f.write_str("let signals through"),
            Self::Execute { .. } => f.write_str("execute the program"),
            Self::Exit => f.write_str("end"),
        }
    }
}
