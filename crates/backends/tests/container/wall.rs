//! What the wall lets through, and what not.

use std::{fs, os::unix::fs::MetadataExt};

use sandbar_core::{ExecRequest, SandboxProvider, SandboxSpec, User, Volume};

use crate::world::{World, is_root};

#[tokio::test]
async fn it_is_usable_where_these_tests_run() {
    let world = World::new();
    let probe = world.provider.probe().await;
    assert!(probe.usable, "{probe:?}");
    assert!(probe.verdict.contains("Landlock"), "{probe:?}");
    assert_eq!(fs::read_dir(world.home.path()).unwrap().count(), 0, "a probe leaves nothing");
}

#[tokio::test]
async fn programs_of_the_host_run_and_nothing_is_left() {
    let world = World::new();
    let sandbox = world.sandbox(SandboxSpec::default()).await;
    assert_eq!(sandbox.shell("python3 -c 'print(6*7)'").await, "42");
    assert_eq!(
        sandbox.shell("id -u; id -g; echo $$ > /tmp/x; cat /tmp/x >/dev/null; hostname").await,
        format!("0\n0\n{}", sandbox.request.id)
    );
    sandbox.destroy().await;
}

/// Other walls refuse a device node as well, but say `EPERM`: Landlock is asked before the right to make one is, and says `EACCES`.
#[tokio::test]
async fn landlock_is_a_wall_of_its_own_where_the_kernel_has_it() {
    let world = World::new();
    let notes = world.provider.info().notes.join(", ");
    let sandbox = world.sandbox(SandboxSpec::default()).await;
    let python = "import os, stat
try: os.mknod('/tmp/null', stat.S_IFCHR | 0o666, os.makedev(1, 3))
except OSError as error: print(error.errno)";
    let refusal = sandbox.shell(&format!("python3 -c \"{python}\"")).await;
    if notes.contains("no Landlock") || notes.contains("not used") {
        assert_eq!(refusal, "1", "{notes}");
    } else {
        assert!(notes.contains("Landlock"), "{notes}");
        assert_eq!(refusal, "13", "{notes}");
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn it_sees_its_own_processes_network_and_files_only() {
    let world = World::new();
    let sandbox = world.sandbox(SandboxSpec { hostname: Some("box".into()), ..SandboxSpec::default() }).await;
    assert_eq!(sandbox.shell("hostname").await, "box");
    assert_eq!(sandbox.shell("cat /proc/1/comm").await, "sandbar-agent");
    assert_eq!(sandbox.shell("ls /sys/class/net").await, "lo");
    let python = "import socket; s=socket.create_server(('127.0.0.1',80)); socket.create_connection(('127.0.0.1',80)); print(socket.create_server(('::1',81),family=socket.AF_INET6).fileno()>0)";
    assert_eq!(sandbox.shell(&format!("python3 -c \"{python}\"")).await, "True");
    assert_eq!(sandbox.shell("ls /").await, "bin\ndev\netc\nlib\nlib64\nproc\nroot\nrun\nsbin\nsys\ntmp\nusr\nvar");
    let mounts = sandbox.shell("cat /proc/self/mountinfo").await;
    assert!(!mounts.contains(&*world.home.path().to_string_lossy()), "the host's paths show: {mounts}");
    let ids: Vec<u32> = sandbox.shell("cat /proc/self/uid_map").await.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert!(ids[0] == 0 && ids[1] != 0, "root inside is root outside: {ids:?}");
    assert_eq!(fs::metadata(sandbox.request.folder.join("g1/layer")).unwrap().uid(), if is_root() { 0 } else { ids[1] });
    sandbox.destroy().await;
}

#[tokio::test]
async fn the_kernel_is_asked_for_nothing_dangerous() {
    let world = World::new();
    let sandbox = world.sandbox(SandboxSpec::default()).await;
    let status = sandbox.shell("cat /proc/self/status").await;
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "CapBnd:\t00000000800405fb"] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    for line in [
        "unshare -U true",
        "unshare -m true",
        "mount -t tmpfs tmpfs /tmp",
        "umount /proc",
        "mknod /tmp/null c 1 3",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo b > /proc/sysrq-trigger",
        "test -s /proc/kcore",
        "ls /sys/firmware | grep .",
        "mkdir /sys/fs/x",
        "touch /usr/x",
        "hostname x",
        "head -c1 /proc/1/exe",
        "readlink /proc/1/fd/4",
        "head -c1 /proc/1/fd/3",
        "ls /proc/1/root/",
        "head -c1 /proc/1/environ",
        "python3 -c 'import socket; socket.socket(40)'",
        "python3 -c 'import socket; socket.socket(17, socket.SOCK_RAW)'",
        "python3 -c 'import ctypes; exit(ctypes.CDLL(None).syscall(250, 0, 0, 0, 0, 0) == -1)'",
        "python3 -c 'import fcntl,pty,os; m,s=pty.openpty(); fcntl.ioctl(s, 0x5412, b\"x\")'",
    ] {
        let result = sandbox.try_shell(line).await;
        assert!(!result.status.success(), "{line} works: {result:?}");
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn ordinary_work_is_not_held_up() {
    let world = World::new();
    let sandbox = world.sandbox(SandboxSpec::default()).await;
    for line in [
        "mkdir -p /a/b /c && echo x > /a/b/f && mv /a/b/f /c/f && ln /c/f /a/g && ln -s /c/f /a/h && cat /a/h",
        "rm -r /var /etc/passwd && test ! -e /var && mkdir /var && grep $(hostname) /etc/hosts",
        "echo x > /dev/shm/x && echo x > /dev/null && head -c 4 /dev/urandom | wc -c | grep 4 && test -c /dev/tty",
        "mkfifo /tmp/p && (cat /tmp/p & echo x > /tmp/p; wait)",
        "chmod 4755 /c/f && chmod 000 /c && cat /c/f",
        "python3 -c 'import os,pty; print(os.read(pty.fork()[1] if False else os.open(\"/dev/ptmx\", os.O_RDWR|os.O_NONBLOCK), 0))'",
        "python3 -c 'import threading,subprocess; t=threading.Thread(target=lambda:0); t.start(); t.join(); subprocess.run([\"true\"], check=True)'",
        "python3 -c 'import multiprocessing as m; print(m.Queue())'",
        "chroot / true",
    ] {
        sandbox.shell(line).await;
    }
    sandbox.destroy().await;
}

#[tokio::test]
async fn other_users_have_the_ports_but_not_the_rights() {
    let world = World::new();
    if !world.has_users() {
        return;
    }
    let sandbox = world.sandbox(SandboxSpec::default()).await;
    let line = "id -u; cat /etc/passwd >/dev/null; touch /x 2>/dev/null || echo refused; grep CapEff /proc/self/status; python3 -c 'import socket; socket.create_server((\"127.0.0.1\", 80))'";
    let request = ExecRequest::shell(line).user(User::Id { uid: 1000, gid: None });
    let result = sandbox.handle.exec(request).await.unwrap();
    assert_eq!(result.stdout_text(), "1000\nrefused\nCapEff:\t0000000000000000\n", "{result:?}");
    assert!(result.status.success(), "{result:?}");
    sandbox.destroy().await;
}

#[tokio::test]
async fn volumes_are_there_as_asked() {
    let world = World::new();
    let (read, write) = (world.home.path().join("read"), world.home.path().join("write"));
    for folder in [&read, &write] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("file"), "from outside").unwrap();
    }
    let volume = |source: &std::path::Path, target: &str, read_only| Volume { source: source.into(), target: target.into(), read_only };
    let volumes = vec![volume(&read, "/deep/read", true), volume(&write, "/write", false), volume(&read.join("file"), "/one/file", true)];
    let sandbox = world.sandbox(SandboxSpec { volumes, ..SandboxSpec::default() }).await;
    assert_eq!(
        sandbox.shell("cat /deep/read/file /write/file /one/file; stat -c %u /write/file").await,
        "from outsidefrom outsidefrom outside0"
    );
    assert!(!sandbox.try_shell("touch /deep/read/new").await.status.success());
    assert!(!sandbox.try_shell("echo x > /one/file").await.status.success());
    sandbox.shell("echo inside > /write/new").await;
    assert_eq!(fs::read_to_string(write.join("new")).unwrap(), "inside\n");
    assert_eq!(fs::metadata(write.join("new")).unwrap().uid(), rustix::process::geteuid().as_raw());
    sandbox.destroy().await;
    assert_eq!(fs::read_to_string(read.join("file")).unwrap(), "from outside");
}

#[tokio::test]
async fn what_cannot_work_is_told_by_name_and_leaves_nothing() {
    let world = World::new();
    let volume = Volume { source: world.home.path().to_owned(), target: "/proc/none/x".into(), read_only: true };
    let (request, book) = world.request(SandboxSpec { volumes: vec![volume], ..SandboxSpec::default() });
    let Err(error) = world.provider.provision(request.clone()).await else { panic!("a volume in /proc works") };
    assert!(error.chain().contains("/proc/none"), "{}", error.chain());
    assert_eq!(*book.held.lock().unwrap(), []);
    assert_eq!(fs::read_dir(&request.folder).unwrap().count(), 0);

    let volume = Volume { source: "/nowhere/at/all".into(), target: "/x".into(), read_only: true };
    let (request, _) = world.request(SandboxSpec { volumes: vec![volume], ..SandboxSpec::default() });
    let Err(error) = world.provider.provision(request).await else { panic!("a volume from nowhere works") };
    assert!(error.chain().contains("/nowhere/at/all"), "{}", error.chain());
}
