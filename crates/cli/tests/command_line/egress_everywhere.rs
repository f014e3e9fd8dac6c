//! What leaves a sandbox, in short, behind the walls for which the whole of it takes too long, with nothing inside but what their image has.

use std::fs;

use crate::{
    datagrams::files_of,
    egress::{NAMELESS, assert_reached, assert_refused, curl},
    support::{Case, EVERYWHERE, Finished, Home, OWN, OWN_SECOND, OWN_V6, Stage},
};

pub const CASES: &[Case] = &[
    Case::new("egress::the_whole_policy_in_one_sandbox", whole).on(EVERYWHERE).staged().brief(),
    Case::new("egress::an_open_policy_reaches_the_internet_and_nothing_of_the_host", open).on(EVERYWHERE).staged().brief(),
    Case::new("egress::whatever_root_inside_does_nothing_else_leaves", by_root).on(EVERYWHERE).staged().brief(),
    Case::new("egress::by_a_list_of_ports_where_the_kernel_has_no_packet_filter", unfiltered).on(&["qemu-tcg"]).staged().brief(),
];

fn whole(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test,rebind.test,private.test"]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached 93.184.215.14 as allowed.test");
    assert_refused(&home, &id, &["http://secret.denied.example/"]);
    assert_refused(&home, &id, &["http://private.test/"]);
    // The second time it means something else.
    assert_reached(&home, &id, &["http://rebind.test/"], "you reached 93.184.215.14 as rebind.test");
    assert_refused(&home, &id, &["http://rebind.test/"]);
    assert_refused(&home, &id, &["-H", "Host: other.test", "http://allowed.test/"]);
    assert_refused(&home, &id, &["-k", "--connect-to", "other.test:443:allowed.test:443", "https://other.test/"]);
    assert_refused(&home, &id, NAMELESS);
    assert_refused(&home, &id, &["-p", "-x", "http://allowed.test:80", "https://other.test/"]);
    assert_refused(&home, &id, &["-k", "https://8.8.8.8/dns-query"]);
    assert_refused(&home, &id, &["-g", "http://[::ffff:93.184.215.14]/"]);
    assert_refused(&home, &id, &["http://93.184.215.14/"]);
    assert_refused(&home, &id, &["-g", "http://[2606:4700::1111]/"]);
    // By another name server.
    let asked = home.sandbar(&["exec", &id, "--", "busybox", "nslookup", "secret.denied.example", "8.8.8.8"]);
    assert!(asked.code != 0 && asked.text().contains("NXDOMAIN"), "{asked}");
    let asked = home.sandbar(&["exec", &id, "--", "busybox", "nslookup", "-type=a", "allowed.test", "8.8.8.8"]);
    assert!(asked.code == 0 && asked.text().contains("198.18."), "{asked}");
    datagrams(&home, &id);
    home.ok(&["net", "set", &id, "allow=other.test"]);
    assert_refused(&home, &id, &["http://allowed.test/"]);
    assert_reached(&home, &id, &["http://other.test/"], "you reached 93.184.215.15 as other.test");
    for text in ["tcp 10.", "udp 93.184.215.15", "8.8.8.8", "2001:4860", "2606:4700", "denied.example"] {
        stage.assert_not_seen(text);
    }
    home.close();
}

/// One that is allowed is sent and answered, and is in the log; another is refused. Where datagrams cannot leave, both are.
fn datagrams(home: &Home, id: &str) {
    let ask = |host: &str| {
        // The shell reads a byte of what was sent, and the rest of it is gone.
        let script = format!("exec 3<>/dev/udp/{host}/7000; echo hello >&3; read -r -N 1 -t 20 word <&3; echo \"<$word>\"");
        home.sandbar(&["exec", id, "--", "bash", "-c", &script])
    };
    let (allowed, refused) = (ask("allowed.test"), ask("93.184.215.15"));
    assert_eq!(refused.text(), "<>\n", "{refused}");
    if home.wall.is_gvisor() {
        assert_eq!(allowed.text(), "<>\n", "{allowed}");
        return;
    }
    assert_eq!(allowed.text(), "<h>\n", "{allowed}");
    let log = home.ok(&["net", "log", "--json", id]);
    let said = |event: &str, address: &str| {
        let records = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let is = |record: &serde_json::Value| record["event"] == event && record["protocol"] == "udp" && record["address"] == address;
        records.filter(is).count()
    };
    assert_eq!((said("allowed", "93.184.215.14"), said("refused", "93.184.215.15")), (1, 1), "{log}");
}

fn open(outer: &Home) {
    let stage = Stage::new();
    let _listener = stage.listen_on_host();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "open"]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached 93.184.215.14 as allowed.test");
    let own = [OWN.to_string(), OWN_SECOND.to_string(), format!("[{OWN_V6}]"), format!("[::ffff:{OWN}]"), "203.0.113.1".to_owned()];
    let special =
        ["127.0.0.1", "[::1]", "10.0.0.5", "192.168.1.1", "169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "[fe80::1]"];
    let names = ["private.test", "metadata.test", "loop.test", "own.test", "second.test"];
    for host in own.iter().map(String::as_str).chain(special).chain(names) {
        assert_refused(&home, &id, &["-g", &format!("http://{host}/")]);
    }
    // A server of the internet that sends it to where machines of clouds tell who they are.
    std::fs::create_dir(stage.folder().join("packages")).unwrap();
    assert_refused(&home, &id, &["-L", "http://packages.test:8080/packages/away/"]);
    let log = home.ok(&["net", "log", &id]);
    assert!(
        log.contains("169.254.169.254 is link-local, as are the metadata services of clouds, which only a rule with the address allows"),
        "{log}"
    );
    for text in ["tcp 10.", "tcp 169.254", "tcp 192.168", "tcp 203", "tcp fd00", "tcp fe80", "tcp 127"] {
        stage.assert_not_seen(text);
    }
    home.close();
}

/// What root inside may try without any program of its own. In a machine's own kernel some of it is done.
const BY_ROOT: &[&str] = &[
    "busybox ping -c 1 -W 1 93.184.215.14",
    "busybox ping6 -c 1 -W 1 2606:4700::1111",
    "busybox arping -c 1 -w 1 -I lo 93.184.215.15",
    "busybox udhcpc -n -q -t 1 -T 1 -i lo",
    "busybox ip link add net9 type dummy",
    "busybox ip address add 10.0.0.5/32 dev lo",
    "busybox ip route replace 10.0.0.0/8 dev lo",
    "busybox ip route add default via 127.0.0.1 dev lo",
    "busybox ip rule add priority 1 blackhole",
    "busybox ip -6 route del local default dev lo",
    "busybox ip route del local default dev lo",
    "busybox ip route flush table main",
    "busybox unshare -n true",
    "busybox nsenter -t 1 -n busybox ip link set lo down",
    "busybox ifconfig lo down",
    "busybox rmmod nft_redir nf_tables",
];

fn by_root(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let id = home.create(&["--net", "allow=allowed.test"]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    let has_own_kernel = home.wall.is_machine() || home.wall.is_gvisor();
    let as_root = |line: &str| home.sandbar(&["exec", "-u", "0", &id, "--", "sh", "-c", line]);
    for line in BY_ROOT {
        let tried = as_root(line);
        assert!(has_own_kernel || tried.code != 0, "{tried}");
    }
    let others = ["http://other.test/", "http://93.184.215.15/", "http://10.0.0.5/", "http://[2606:4700::1111]/"];
    for address in others {
        let (code, said) = curl(&home, &id, &["-g", address]);
        assert!(code != 0 && (home.wall.is_machine() || code != 28), "{address}: {code}: {said}");
    }
    // A machine may have cut itself off.
    if !home.wall.is_machine() {
        assert_reached(&home, &id, &["http://allowed.test/"], "you reached");
    }
    // Nor is there more without the agent, where root can end it.
    as_root("busybox kill -9 1; busybox killall5 -9; busybox kill -9 -1");
    for address in others {
        assert_ne!(curl(&home, &id, &["-g", address]).0, 0, "{address}");
    }
    assert_eq!(stage.pings(), 0);
    let known = ["dns allowed.test", "tcp 93.184.215.14 80"];
    let seen = stage.all_seen();
    assert!(seen.iter().all(|line| known.contains(&line.as_str())), "{seen:?}");
    home.close();
}

/// A guest whose kernel has neither nf_tables nor x_tables: connections to usual ports leave all the same, by the same policy, and others are refused.
fn unfiltered(outer: &Home) {
    let stage = Stage::new();
    let home = stage.home(&outer.wall);
    let kernel = outer.wall.supplies.as_ref().unwrap().kernel().unwrap();
    let modules = home.work().join("modules");
    let copied = std::process::Command::new("cp").arg("-r").arg(kernel.join("modules")).arg(&modules).status().unwrap();
    assert!(copied.success());
    let is_of_filters = |name: &str| {
        ["nf_", "nfnetlink", "nft_", "x_tables", "xt_", "ip_tables", "iptable_", "ip6"].iter().any(|own| name.starts_with(own))
    };
    let removed = files_of(&modules, &is_of_filters);
    for name in ["nf_tables.ko", "nft_redir.ko", "ip_tables.ko"] {
        assert!(removed.iter().any(|file| file.file_name().unwrap().to_str().unwrap().starts_with(name)), "{name}: {removed:?}");
    }
    removed.iter().for_each(|file| fs::remove_file(file).unwrap());
    let import = ["kernel", "import", &kernel.join("vmlinux").display().to_string(), "--modules", &modules.display().to_string()];
    home.ok(&[&import[..], &["--name", "unfiltered"]].concat());
    let id = home.create(&["--net", "allow=allowed.test,2606:4700::2222"]);
    assert_reached(&home, &id, &["http://allowed.test/"], "you reached 93.184.215.14 as allowed.test");
    assert_reached(&home, &id, &["-k", "https://allowed.test/"], "s_server");
    assert_reached(&home, &id, &["-g", "http://[2606:4700::2222]/"], "you reached 2606:4700::2222");
    for denied in ["http://secret.denied.example/", "http://93.184.215.14/", "http://10.0.0.5/", "http://[2606:4700::1111]/"] {
        assert_refused(&home, &id, &["-g", denied]);
    }
    // Another port of a name that is allowed: nobody listens, which curl tells as 7. What is decided about was taken first, and would be reset.
    let (code, said) = curl(&home, &id, &["http://allowed.test:7000/"]);
    assert_eq!(code, 7, "{said}");
    // The shell reads itself: a refusal is told once, and BusyBox's `cat` would spend it on trying sendfile(2).
    let datagram = home.sandbar(&["exec", &id, "--", "bash", "-c", "exec 3<>/dev/udp/93.184.215.14/123; echo x >&3; read -r line <&3"]);
    assert!(datagram.code != 0 && datagram.stderr.contains("refused"), "{datagram}");
    for server in ["127.0.0.53", "8.8.8.8", "2001:4860:4860::8888"] {
        let asked = home.sandbar(&["exec", &id, "--", "busybox", "nslookup", "secret.denied.example", server]);
        assert!(asked.code != 0 && asked.text().contains("NXDOMAIN"), "{server}: {asked}");
        let asked = home.sandbar(&["exec", &id, "--", "busybox", "nslookup", "-type=a", "allowed.test", server]);
        assert!(asked.code == 0 && asked.text().contains("198.18."), "{server}: {asked}");
    }
    // What is inside serves ports that are not among them; of those that are it is told at once.
    let serves = "busybox httpd -p 8080 -h /etc && curl -sS http://127.0.0.1:8080/passwd";
    assert_eq!(home.shell(&id, serves), "root:x:0:0:root:/root:/bin/sh");
    let taken = home.sandbar(&["exec", &id, "--", "busybox", "nc", "-l", "-p", "443"]);
    assert!(taken.code != 0 && taken.stderr.contains("in use"), "{taken}");
    let itself = home.sandbar(&["exec", &id, "--", "curl", "-sS", "-m", "20", "http://127.0.0.1/"]);
    // Reset before curl looks, before it sends, or after.
    assert!([7, 52, 55, 56].contains(&itself.code), "{itself}");
    // Rules that such a kernel could not keep are refused: of one that has begun, and of one that begins from its template.
    let assert_refused_as = |tried: Finished, why: &str| {
        assert!(tried.code == 125 && tried.stderr.contains(why), "{tried}");
        assert!(tried.stderr.contains("hint: ") && tried.stderr.contains("sandbar kernel import"), "{tried}");
    };
    assert_refused_as(home.sandbar(&home.run_args(&["--net", "allow=allowed.test:5432"], &["true"])), "a rule names a port");
    assert_refused_as(home.sandbar(&["net", "set", &id, "allow=allowed.test,other.test:5432/tcp"]), "a rule names a port");
    assert_refused_as(home.sandbar(&["net", "set", &id, "allow=allowed.test:123/udp"]), "datagrams cannot leave");
    home.ok(&["net", "set", &id, "allow=other.test:80,other.test:8000-9000"]);
    assert_refused(&home, &id, &["http://allowed.test/"]);
    assert_reached(&home, &id, &["http://other.test/"], "you reached 93.184.215.15 as other.test");
    // The listeners are a part of what is saved.
    let checkpoint = home.ok(&["checkpoint", "--with-memory", &id]);
    let fork = home.ok(&["fork", &checkpoint]);
    assert_reached(&home, &fork, &["http://other.test/"], "you reached 93.184.215.15 as other.test");
    assert_refused_as(home.sandbar(&["net", "set", &fork, "allow=allowed.test:5432"]), "a rule names a port");
    for text in ["tcp 10.", " 7000", " 123", "2606:4700::1111", "denied.example"] {
        stage.assert_not_seen(text);
    }
    home.close();
}
