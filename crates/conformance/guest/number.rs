//! Numbers of system calls: asm/unistd_64.h for x86-64, asm-generic/unistd.h for arm64. -1 is one that the architecture does not have.

use std::ffi::c_long;

macro_rules! numbers {
    ($($name:ident = $x86_64:literal, $arm64:literal;)*) => {
        $(pub(crate) const $name: c_long = if cfg!(target_arch = "x86_64") { $x86_64 } else { $arm64 };)*
    };
}

numbers! {
    ACCT = 163, 89;
    ADD_KEY = 248, 217;
    BPF = 321, 280;
    CAPSET = 126, 91;
    CHROOT = 161, 51;
    CLOCK_ADJTIME = 305, 266;
    CLOCK_SETTIME = 227, 112;
    CLONE = 56, 220;
    CLONE3 = 435, 435;
    CONNECT = 42, 203;
    COPY_FILE_RANGE = 326, 285;
    CREATE_MODULE = 174, -1;
    DELETE_MODULE = 176, 106;
    FALLOCATE = 285, 47;
    FANOTIFY_INIT = 300, 262;
    FCHDIR = 81, 50;
    FCNTL = 72, 25;
    FINIT_MODULE = 313, 273;
    FSMOUNT = 432, 432;
    FSOPEN = 430, 430;
    FSPICK = 433, 433;
    GETXATTR = 191, 8;
    GET_MEMPOLICY = 239, 236;
    INIT_MODULE = 175, 105;
    IOPERM = 173, -1;
    IOPL = 172, -1;
    IO_URING_ENTER = 426, 426;
    IO_URING_REGISTER = 427, 427;
    IO_URING_SETUP = 425, 425;
    KCMP = 312, 272;
    KEXEC_FILE_LOAD = 320, 294;
    KEXEC_LOAD = 246, 104;
    KEYCTL = 250, 219;
    KILL = 62, 129;
    LISTXATTR = 194, 11;
    LOOKUP_DCOOKIE = 212, 18;
    LSEEK = 8, 62;
    MBIND = 237, 235;
    MIGRATE_PAGES = 256, 238;
    MKNODAT = 259, 33;
    MMAP = 9, 222;
    MOUNT = 165, 40;
    MOUNT_SETATTR = 442, 442;
    MOVE_MOUNT = 429, 429;
    MOVE_PAGES = 279, 239;
    MSYNC = 26, 227;
    NFSSERVCTL = 180, 42;
    OPEN_BY_HANDLE_AT = 304, 265;
    OPEN_TREE = 428, 428;
    PERF_EVENT_OPEN = 298, 241;
    PERSONALITY = 135, 92;
    PIDFD_GETFD = 438, 438;
    PIDFD_OPEN = 434, 434;
    PIVOT_ROOT = 155, 41;
    PRLIMIT = 302, 261;
    PROCESS_VM_READV = 310, 270;
    PROCESS_VM_WRITEV = 311, 271;
    PTRACE = 101, 117;
    QUERY_MODULE = 178, -1;
    QUOTACTL = 179, 60;
    QUOTACTL_FD = 443, 443;
    REBOOT = 169, 142;
    REMOVEXATTR = 197, 14;
    RENAMEAT2 = 316, 276;
    REQUEST_KEY = 249, 218;
    SCHED_SETSCHEDULER = 144, 119;
    SETDOMAINNAME = 171, 162;
    SETGROUPS = 116, 159;
    SETHOSTNAME = 170, 161;
    SETNS = 308, 268;
    SETPRIORITY = 141, 140;
    SETRESGID = 119, 149;
    SETRESUID = 117, 147;
    SETTIMEOFDAY = 164, 170;
    SETXATTR = 188, 5;
    SET_MEMPOLICY = 238, 237;
    SET_MEMPOLICY_HOME_NODE = 450, 450;
    SOCKET = 41, 198;
    STATFS = 137, 43;
    SWAPOFF = 168, 225;
    SWAPON = 167, 224;
    SYSFS = 139, -1;
    SYSLOG = 103, 116;
    UMOUNT2 = 166, 39;
    UNSHARE = 272, 97;
    USELIB = 134, -1;
    USERFAULTFD = 323, 282;
    USTAT = 136, -1;
    VHANGUP = 153, 58;
}
