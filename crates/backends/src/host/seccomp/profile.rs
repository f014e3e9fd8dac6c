use std::collections::BTreeMap;

use libc::{EAFNOSUPPORT, ENOSYS, EPERM, c_long};

use super::program::{Answer, Check, Profile, Rule, Test};

/// The newest system call that this profile knows (`file_setattr`, Linux 6.17). What is newer is answered with `ENOSYS`, so that
/// programs do without it as on an older kernel.
const NEWEST: u32 = 469;

/// Flags of `clone` that make namespaces: user, PID, mount, network, IPC, UTS, cgroup.
const NAMESPACES: u32 = 0x7e02_0000;
/// Commands that put bytes into a terminal's input, or that do so on a console.
const TERMINAL_INJECTION: [u32; 2] = [0x5412, 0x541c];
/// Execution domains: Linux, 32 bit, both with an old version number, and the question for the present one.
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Set-user-ID and set-group-ID.
const SPECIAL_BITS: u32 = 0o6000;
/// `O_CREAT` and `__O_TMPFILE`: the same numbers on both architectures.
const MAKES_A_FILE: u32 = 0o100 | 0o20_000_000;
/// Calls that only x86-64 has, and which argument is a mode.
#[cfg(target_arch = "x86_64")]
const MODES_HERE: &[(c_long, u8)] = &[(libc::SYS_chmod, 1), (libc::SYS_creat, 1), (libc::SYS_mknod, 1)];
#[cfg(not(target_arch = "x86_64"))]
const MODES_HERE: &[(c_long, u8)] = &[];
/// Calls that only x86-64 has, and which argument is the flags before the mode.
#[cfg(target_arch = "x86_64")]
const OPENS_HERE: &[(c_long, u8)] = &[(libc::SYS_open, 1)];
#[cfg(not(target_arch = "x86_64"))]
const OPENS_HERE: &[(c_long, u8)] = &[];
/// UNIX, IPv4, IPv6, netlink. Not raw packets, not the host's vsock, not the kernel's crypto.
const FAMILIES: [u32; 4] = [libc::AF_UNIX as u32, libc::AF_INET as u32, libc::AF_INET6 as u32, libc::AF_NETLINK as u32];

/// What sandboxes may ask of the kernel: what Docker's default profile allows without added capabilities, less `adjtimex`, `modify_ldt`,
/// `memfd_secret`, most socket families, terminal injection and 32 bit programs.
pub(super) fn profile() -> Profile {
    let mut rules: BTreeMap<u32, Rule> = numbers().map(|number| (number, Rule::Answer(Answer::Allow))).collect();
    let refuse = Answer::Error(EPERM);
    let mut check = |number: c_long, check: Check| {
        rules.insert(as_number(number), Rule::Check(check));
    };
    check(libc::SYS_clone, Check { only_if: None, argument: 0, test: Test::AnyBit(NAMESPACES), then: refuse, otherwise: Answer::Allow });
    check(
        libc::SYS_ioctl,
        Check { only_if: None, argument: 1, test: Test::OneOf(&TERMINAL_INJECTION), then: refuse, otherwise: Answer::Allow },
    );
    check(
        libc::SYS_personality,
        Check { only_if: None, argument: 0, test: Test::OneOf(&PERSONALITIES), then: Answer::Allow, otherwise: refuse },
    );
    let no_family = Answer::Error(EAFNOSUPPORT);
    check(libc::SYS_socket, Check { only_if: None, argument: 0, test: Test::OneOf(&FAMILIES), then: Answer::Allow, otherwise: no_family });
    check(
        libc::SYS_socketpair,
        Check { only_if: None, argument: 0, test: Test::OneOf(&FAMILIES[..1]), then: Answer::Allow, otherwise: no_family },
    );
    // Its flags lie in memory, where a filter cannot look. The C library then uses `clone`.
    rules.insert(as_number(libc::SYS_clone3), Rule::Answer(Answer::Error(ENOSYS)));
    // What tells of mounts is for who makes them. Programs read /proc instead, as on an older kernel.
    for number in [STATMOUNT, LISTMOUNT] {
        rules.insert(as_number(number), Rule::Answer(Answer::Error(ENOSYS)));
    }
    Profile { rules, known: 0..=NEWEST, refused: refuse, unknown: Answer::Error(ENOSYS) }
}

/// The same for a sandbox with a writable volume, whose files belong to the host's users: nobody there can make a file set-user-ID or
/// set-group-ID, which would be powerful on the host, where the wall's `nosuid` does not hold.
pub(super) fn without_special_bits() -> Profile {
    let mut profile = profile();
    refuse_special_bits(&mut profile.rules);
    // Its mode lies in memory, where a filter cannot look. Programs do without it, as on an older kernel.
    profile.rules.insert(as_number(libc::SYS_openat2), Rule::Answer(Answer::Error(ENOSYS)));
    profile
}

/// For the processes of a kernel in user space, which has a filter of its own: everything but that.
pub(super) fn special_bits_alone() -> Profile {
    let mut rules = BTreeMap::new();
    refuse_special_bits(&mut rules);
    Profile { rules, known: 0..=NEWEST, refused: Answer::Allow, unknown: Answer::Allow }
}

fn refuse_special_bits(rules: &mut BTreeMap<u32, Rule>) {
    let refuse = |argument, only_if| Check {
        only_if,
        argument,
        test: Test::AnyBit(SPECIAL_BITS),
        then: Answer::Error(EPERM),
        otherwise: Answer::Allow,
    };
    let named = [(libc::SYS_fchmod, 1), (libc::SYS_fchmodat, 2), (FCHMODAT2, 2), (libc::SYS_mknodat, 2)];
    for (number, argument) in named.into_iter().chain(MODES_HERE.iter().copied()) {
        rules.insert(as_number(number), Rule::Check(refuse(argument, None)));
    }
    // Without these flags the mode is not looked at, and may be anything.
    for (number, flags) in [(libc::SYS_openat, 2)].into_iter().chain(OPENS_HERE.iter().copied()) {
        rules.insert(as_number(number), Rule::Check(refuse(flags + 1, Some((flags, MAKES_A_FILE)))));
    }
}

fn as_number(number: c_long) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn numbers() -> impl Iterator<Item = u32> {
    ALLOWED.iter().chain(ALLOWED_HERE).copied().map(as_number)
}

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name,)*] };
}

/// Newer than the list in `libc`; such numbers are the same on every architecture.
const CACHESTAT: c_long = 451;
const FCHMODAT2: c_long = 452;
const MAP_SHADOW_STACK: c_long = 453;
const FUTEX_WAKE: c_long = 454;
const FUTEX_WAIT: c_long = 455;
const FUTEX_REQUEUE: c_long = 456;
const STATMOUNT: c_long = 457;
const LISTMOUNT: c_long = 458;
const MSEAL: c_long = 462;
const SETXATTRAT: c_long = 463;
const GETXATTRAT: c_long = 464;
const LISTXATTRAT: c_long = 465;
const REMOVEXATTRAT: c_long = 466;

/// On every architecture.
const ALLOWED: &[c_long] = &{
    const NAMED: &[c_long] = calls! {
        // Files.
        SYS_openat SYS_openat2 SYS_close SYS_close_range SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv
        SYS_pwritev SYS_preadv2 SYS_pwritev2 SYS_lseek SYS_sendfile SYS_copy_file_range SYS_splice SYS_tee SYS_vmsplice SYS_readahead
        SYS_fadvise64 SYS_fallocate SYS_truncate SYS_ftruncate SYS_fsync SYS_fdatasync SYS_sync SYS_syncfs SYS_sync_file_range
        SYS_dup SYS_dup3 SYS_fcntl SYS_flock SYS_pipe2
        // Names.
        SYS_newfstatat SYS_fstat SYS_statx SYS_statfs SYS_fstatfs SYS_faccessat SYS_faccessat2 SYS_getdents64 SYS_getcwd SYS_chdir
        SYS_fchdir SYS_chroot SYS_mkdirat SYS_mknodat SYS_unlinkat SYS_linkat SYS_symlinkat SYS_readlinkat SYS_renameat SYS_renameat2
        SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_umask SYS_utimensat SYS_name_to_handle_at SYS_setxattr SYS_lsetxattr
        SYS_fsetxattr SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr SYS_removexattr
        SYS_lremovexattr SYS_fremovexattr SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch SYS_fanotify_mark
        // Waiting.
        SYS_ppoll SYS_pselect6 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_signalfd4
        SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime SYS_io_setup SYS_io_destroy SYS_io_submit SYS_io_cancel
        SYS_io_getevents
        // Memory.
        SYS_brk SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_msync SYS_mincore SYS_mlock SYS_mlock2 SYS_munlock
        SYS_mlockall SYS_munlockall SYS_remap_file_pages SYS_memfd_create SYS_membarrier SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect
        // Processes.
        SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_kill SYS_tkill SYS_tgkill SYS_getpid SYS_getppid
        SYS_gettid SYS_getpgid SYS_setpgid SYS_getsid SYS_setsid SYS_pidfd_open SYS_pidfd_send_signal SYS_process_mrelease SYS_ptrace
        SYS_process_vm_readv SYS_process_vm_writev SYS_set_tid_address SYS_set_robust_list SYS_get_robust_list SYS_futex SYS_futex_waitv
        SYS_rseq SYS_restart_syscall SYS_prctl SYS_seccomp SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self
        SYS_prlimit64 SYS_getrlimit SYS_setrlimit SYS_getrusage SYS_times SYS_getpriority SYS_setpriority SYS_ioprio_get SYS_ioprio_set
        SYS_sched_yield SYS_sched_getparam SYS_sched_setparam SYS_sched_getscheduler SYS_sched_setscheduler SYS_sched_getattr
        SYS_sched_setattr SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_get_priority_max SYS_sched_get_priority_min
        SYS_sched_rr_get_interval SYS_getcpu
        // Signals.
        SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigpending SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait
        SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_sigaltstack
        // Users.
        SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups SYS_setuid SYS_setgid SYS_setreuid
        SYS_setregid SYS_setresuid SYS_setresgid SYS_setfsuid SYS_setfsgid SYS_setgroups SYS_capget SYS_capset
        // Time.
        SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday SYS_getitimer SYS_setitimer
        SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete
        // Sockets and System V.
        SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_connect SYS_getsockname SYS_getpeername SYS_setsockopt SYS_getsockopt
        SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg SYS_shutdown SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl
        SYS_semget SYS_semop SYS_semtimedop SYS_semctl SYS_msgget SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink
        SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr
        // The system.
        SYS_uname SYS_sysinfo SYS_getrandom
    };
    const NEW: &[c_long] = &[
        CACHESTAT,
        FCHMODAT2,
        MAP_SHADOW_STACK,
        FUTEX_WAKE,
        FUTEX_WAIT,
        FUTEX_REQUEUE,
        MSEAL,
        SETXATTRAT,
        GETXATTRAT,
        LISTXATTRAT,
        REMOVEXATTRAT,
    ];
    let mut all = [0; NAMED.len() + NEW.len()];
    let (first, second) = all.split_at_mut(NAMED.len());
    first.copy_from_slice(NAMED);
    second.copy_from_slice(NEW);
    all
};

/// Calls of this architecture only; on x86-64 those that newer ones have replaced.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[c_long] = calls! {
    SYS_open SYS_creat SYS_stat SYS_lstat SYS_access SYS_getdents SYS_mkdir SYS_rmdir SYS_mknod SYS_unlink SYS_link SYS_symlink
    SYS_readlink SYS_rename SYS_chmod SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat SYS_dup2 SYS_pipe SYS_inotify_init
    SYS_poll SYS_select SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_signalfd SYS_fork SYS_vfork SYS_getpgrp SYS_alarm SYS_pause
    SYS_time SYS_arch_prctl SYS_get_thread_area SYS_set_thread_area
};
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    /// What Docker's default profile allows, under whatever conditions, to a container with Docker's default capabilities (of which `chroot` needs one):
    /// `profiles/seccomp/default.json` of moby/moby at 00f3d189, as far as x86-64 has it.
    #[cfg(target_arch = "x86_64")]
    const DOCKER: &[c_long] = calls! {
        SYS_accept SYS_accept4 SYS_access SYS_adjtimex SYS_alarm SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_chmod SYS_chown
        SYS_clock_adjtime SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_close SYS_close_range SYS_connect
        SYS_copy_file_range SYS_creat SYS_dup SYS_dup2 SYS_dup3 SYS_epoll_create SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_ctl_old
        SYS_epoll_pwait SYS_epoll_pwait2 SYS_epoll_wait SYS_epoll_wait_old SYS_eventfd SYS_eventfd2 SYS_execve SYS_execveat SYS_exit
        SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fanotify_mark SYS_fchdir SYS_fchmod SYS_fchmodat
        SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fork SYS_fremovexattr SYS_fsetxattr
        SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv SYS_futimesat SYS_getcpu SYS_getcwd SYS_getdents
        SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpgrp SYS_getpid
        SYS_getppid SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrlimit SYS_get_robust_list SYS_getrusage SYS_getsid
        SYS_getsockname SYS_getsockopt SYS_get_thread_area SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr SYS_inotify_add_watch
        SYS_inotify_init SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel SYS_ioctl SYS_io_destroy SYS_io_getevents SYS_ioprio_get
        SYS_ioprio_set SYS_io_setup SYS_io_submit SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_landlock_restrict_self
        SYS_lchown SYS_lgetxattr SYS_link SYS_linkat SYS_listen SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr
        SYS_lstat SYS_madvise SYS_membarrier SYS_memfd_create SYS_memfd_secret SYS_mincore SYS_mkdir SYS_mkdirat SYS_mknod SYS_mknodat
        SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive
        SYS_mq_timedsend SYS_mq_unlink SYS_mremap SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock SYS_munlockall
        SYS_munmap SYS_name_to_handle_at SYS_nanosleep SYS_newfstatat SYS_open SYS_openat SYS_openat2 SYS_pause SYS_pidfd_open
        SYS_pidfd_send_signal SYS_pipe SYS_pipe2 SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_poll SYS_ppoll SYS_prctl SYS_pread64
        SYS_preadv SYS_preadv2 SYS_prlimit64 SYS_process_mrelease SYS_pselect6 SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read
        SYS_readahead SYS_readlink SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages SYS_removexattr
        SYS_rename SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rmdir SYS_rseq SYS_rt_sigaction SYS_rt_sigpending
        SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo
        SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam SYS_sched_get_priority_max SYS_sched_get_priority_min
        SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam
        SYS_sched_setscheduler SYS_sched_yield SYS_seccomp SYS_select SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_sendfile
        SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority
        SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit SYS_set_robust_list SYS_setsid SYS_setsockopt
        SYS_set_thread_area SYS_set_tid_address SYS_setuid SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget SYS_shutdown
        SYS_sigaltstack SYS_signalfd SYS_signalfd4 SYS_socketpair SYS_splice SYS_stat SYS_statfs SYS_statx SYS_symlink SYS_symlinkat
        SYS_sync SYS_sync_file_range SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill SYS_time SYS_timer_create SYS_timer_delete
        SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times
        SYS_tkill SYS_truncate SYS_umask SYS_uname SYS_unlink SYS_unlinkat SYS_utime SYS_utimensat SYS_utimes SYS_vfork SYS_vmsplice
        SYS_wait4 SYS_waitid SYS_write SYS_writev SYS_process_vm_readv SYS_process_vm_writev SYS_ptrace SYS_socket SYS_personality
        SYS_arch_prctl SYS_modify_ldt SYS_clone SYS_chroot
    };
    /// Calls that are newer than that profile: caches, mappings, futexes and attributes, each the like of one that is in it.
    #[cfg(target_arch = "x86_64")]
    const NEWER: &[c_long] = &[
        CACHESTAT,
        FCHMODAT2,
        MAP_SHADOW_STACK,
        FUTEX_WAKE,
        FUTEX_WAIT,
        FUTEX_REQUEUE,
        MSEAL,
        SETXATTRAT,
        GETXATTRAT,
        LISTXATTRAT,
        REMOVEXATTRAT,
    ];

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn nothing_is_allowed_that_docker_does_not_allow() {
        let is_allowed = |rule: &Rule| !matches!(rule, Rule::Answer(Answer::Error(_)));
        let allowed = profile().rules.into_iter().filter(|(_, rule)| is_allowed(rule)).map(|(number, _)| number);
        let known: Vec<_> = DOCKER.iter().chain(NEWER).copied().map(as_number).collect();
        assert_eq!(allowed.filter(|number| !known.contains(number)).collect::<Vec<_>>(), [0_u32; 0]);
    }

    #[test]
    fn what_makes_namespaces_mounts_or_reaches_into_the_kernel_is_not_allowed() {
        let profile = profile();
        for number in [
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_fsopen,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_mount_setattr,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_add_key,
            libc::SYS_keyctl,
            libc::SYS_request_key,
            libc::SYS_kexec_load,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_open_by_handle_at,
            libc::SYS_fanotify_init,
            libc::SYS_syslog,
            libc::SYS_sethostname,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_kcmp,
            libc::SYS_acct,
            libc::SYS_quotactl,
            libc::SYS_pidfd_getfd,
            libc::SYS_process_madvise,
        ] {
            assert!(!profile.rules.contains_key(&as_number(number)), "{number}");
        }
    }

    #[test]
    fn every_number_is_listed_once() {
        let all: Vec<u32> = numbers().collect();
        let distinct: std::collections::BTreeSet<u32> = all.iter().copied().collect();
        assert_eq!(all.len(), distinct.len());
        assert!(all.iter().all(|number| *number <= NEWEST));
    }
}
