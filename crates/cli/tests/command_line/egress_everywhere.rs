//! What leaves a sandbox, in short, behind the walls for which the whole of it takes too long, with nothing inside but what their image has.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    datagrams::files_of,
    egress::{assert_reached, assert_refused, curl},
    support::{Case, Finished, Home, Stage},
};

const WALLS: &[&str] =
    &["container-root", "gvisor-root", "gvisor-rootless", "docker-runc", "docker-runsc", "qemu-tcg", "firecracker-jailed"];

pub const CASES: &[Case] = &[
    Case::new("egress::the_whole_policy_in_one_sandbox", whole).on(WALLS).staged().brief(),
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
    assert_refused(&home, &id, &["http://93.184.215.14/"]);
    assert_refused(&home, &id, &["-g", "http://[2606:4700::1111]/"]);
    // By another name server.
    let asked = home.sandbar(&["exec", &id, "--", "busybox", "nslookup", "secret.denied.example", "8.8.8.8"]);
    assert!(asked.code != 0 && asked.text().contains("NXDOMAIN"), "{asked}");
    let asked = home.sandbar(&["exec", &id, "--", "busybox", "nslookup", "-type=a", "allowed.test", "8.8.8.8"]);
    assert!(asked.code == 0 && asked.text().contains("198.18."), "{asked}");
    home.ok(&["net", "set", &id, "allow=other.test"]);
    assert_refused(&home, &id, &["http://allowed.test/"]);
    assert_reached(&home, &id, &["http://other.test/"], "you reached 93.184.215.15 as other.test");
    for text in ["tcp 10.", "8.8.8.8", "2001:4860", "2606:4700", "denied.example"] {
        stage.assert_not_seen(text);
    }
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
    // Another port of a name that is allowed: nobody listens, which curl tells as 7.
    let begun = Instant::now();
    let (code, said) = curl(&home, &id, &["http://allowed.test:7000/"]);
    assert!(code == 7 && begun.elapsed() < Duration::from_secs(9), "{code} after {:?}: {said}", begun.elapsed());
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
