//! Pulls from a real registry, through networks and disks of every mood.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Trial;
use sandbar_core::{Error, ErrorKind};
use sandbar_runtime::image::{Digest, ImageStore, ImageSummary, RegistryOptions, Stage};

use crate::{
    build::{Image, Layout, Tar, gzip, noise, plain_tree},
    case_if, child,
    proxy::Proxy,
    registry::{PASSWORD, Registries, flip},
    store::{Fresh, block, recorder, silent},
};

/// What counts as silence where that is the point: no registry pauses for so long, and it is far less than what counts elsewhere.
const SILENCE: Duration = Duration::from_secs(5);

type Case = fn(&Registries);

const CASES: &[(&str, Case)] = &[
    ("an_image_comes_whole_and_is_told_of", an_image_comes_whole_and_is_told_of),
    ("a_second_pull_transfers_nothing", a_second_pull_transfers_nothing),
    ("a_shared_layer_is_fetched_once", a_shared_layer_is_fetched_once),
    ("the_platform_of_this_host_is_chosen", the_platform_of_this_host_is_chosen),
    ("a_digest_pins_the_image", a_digest_pins_the_image),
    ("a_corrupted_layer_is_refused_and_leaves_nothing", a_corrupted_layer_is_refused_and_leaves_nothing),
    ("a_corrupted_document_is_refused_and_leaves_nothing", a_corrupted_document_is_refused_and_leaves_nothing),
    ("a_hostile_layer_is_refused_and_leaves_nothing", a_hostile_layer_is_refused_and_leaves_nothing),
    ("a_flaky_line_is_survived", a_flaky_line_is_survived),
    ("an_interrupted_pull_goes_on_where_it_stopped", an_interrupted_pull_goes_on_where_it_stopped),
    ("a_registry_that_cannot_resume_is_asked_for_all", a_registry_that_cannot_resume_is_asked_for_all),
    ("wrong_bytes_of_an_earlier_pull_do_no_harm", wrong_bytes_of_an_earlier_pull_do_no_harm),
    ("a_killed_pull_goes_on_where_it_stopped", a_killed_pull_goes_on_where_it_stopped),
    ("two_pulls_at_once_fetch_each_layer_once", two_pulls_at_once_fetch_each_layer_once),
    ("a_dropped_pull_leaves_nothing_locked", a_dropped_pull_leaves_nothing_locked),
    ("an_unreachable_registry_is_told_soon", an_unreachable_registry_is_told_soon),
    ("a_silent_registry_is_told_soon", a_silent_registry_is_told_soon),
    ("what_is_not_there_is_not_found", what_is_not_there_is_not_found),
    ("a_name_without_a_registry_is_refused", a_name_without_a_registry_is_refused),
    ("a_login_is_needed_where_one_is_asked_for", a_login_is_needed_where_one_is_asked_for),
    ("too_large_a_layer_is_refused", too_large_a_layer_is_refused),
];

pub(crate) fn cases(registries: Option<Arc<Registries>>, missing: Option<String>) -> Vec<Trial> {
    let with = |name: &str, missing: Option<String>, body: Case| {
        let registries = registries.clone();
        case_if(&format!("pull::{name}"), missing, move || body(&registries.expect("there is one unless something is missing")))
    };
    let mut trials: Vec<_> = CASES.iter().map(|(name, body)| with(name, missing.clone(), *body)).collect();
    let no_disk = missing.or_else(child::no_disk);
    trials.push(with("a_full_disk_is_told_and_nothing_left", no_disk, a_full_disk_is_told_and_nothing_left));
    trials
}

/// Without this user's logins. A registry that pauses is not silent yet: this machine may be busy.
fn options() -> RegistryOptions {
    RegistryOptions { credentials: Vec::new(), ..RegistryOptions::default() }
}

/// Quick to give up, where that is the point.
fn hasty() -> RegistryOptions {
    RegistryOptions { idle_timeout: SILENCE, document_timeout: SILENCE, ..options() }
}

fn fresh() -> Fresh {
    let mut fresh = Fresh::new();
    fresh.store = fresh.store.with_registries(options());
    fresh
}

fn pull(fresh: &Fresh, reference: &str) -> Result<ImageSummary, Error> {
    block(fresh.store.pull(reference, silent()))
}

/// An image of one layer that does not compress, of about this many bytes; other seeds are other images.
fn bulky(seed: u64, bytes: usize) -> Image {
    Image::new(&[Tar::new().file("bulk", &noise(seed, bytes)).done()])
}

fn partials(fresh: &Fresh) -> Vec<PathBuf> {
    fs::read_dir(fresh.path("downloads")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn an_image_comes_whole_and_is_told_of(registries: &Registries) {
    let fresh = fresh();
    let mut image = Image::new(&[plain_tree(), Tar::new().file("hello", b"changed\n").done()]);
    image.config = r#"{"Env": ["A=1"], "Cmd": ["tool"]}"#.to_owned();
    registries.open.push("team/whole", &image);
    let reference = format!("{}/team/whole:t", registries.open.address);
    let (progress, steps) = recorder();
    let summary = block(fresh.store.pull(&reference, progress)).unwrap();
    assert_eq!(summary.names, [reference.as_str()]);
    assert_eq!(summary.layers, image.diff_ids);
    assert_eq!(summary.cmd, ["tool"]);
    assert_eq!(fresh.root(&reference).env["A"], "1");
    assert_eq!(fresh.read(&reference, "hello"), b"changed\n");
    assert_eq!(fresh.read(&summary.id.hex()[..12], "bin/tool"), b"#!/bin/sh\n");
    for blob in &image.blobs {
        let (layer, size) = (Digest::of(blob), blob.len() as u64);
        let steps = steps.lock().unwrap();
        let stages: Vec<_> = steps.iter().filter(|step| step.layer == layer).collect();
        assert!(stages.iter().all(|step| step.total == size && step.done <= size));
        let mut order: Vec<_> = stages.iter().map(|step| step.stage).collect();
        order.dedup();
        assert_eq!(order, [Stage::Waiting, Stage::Fetching, Stage::Unpacking, Stage::Done]);
    }
    assert_eq!(partials(&fresh), Vec::<PathBuf>::new());
    for folder in ["temporary", "locks"] {
        assert_eq!(fs::read_dir(fresh.path(folder)).unwrap().count(), 0, "{folder}");
    }
}

fn a_second_pull_transfers_nothing(registries: &Registries) {
    let (fresh, proxy) = (fresh(), Proxy::to(registries.open.address));
    registries.open.push("second", &bulky(2, 100_000));
    let reference = format!("{}/second:t", proxy.address);
    let first = pull(&fresh, &reference).unwrap();
    assert!(proxy.requests().iter().any(|request| request.contains("/blobs/")));
    let (progress, steps) = recorder();
    let second = block(fresh.store.pull(&reference, progress)).unwrap();
    assert_eq!(first.id, second.id);
    let requests = proxy.requests();
    assert!(requests.iter().all(|request| !request.contains("/blobs/")), "{requests:?}");
    assert_eq!(steps.lock().unwrap().iter().map(|step| step.stage).collect::<Vec<_>>(), [Stage::Exists]);
}

fn a_shared_layer_is_fetched_once(registries: &Registries) {
    let (fresh, proxy) = (fresh(), Proxy::to(registries.open.address));
    let base = Tar::new().file("base", &noise(3, 100_000)).done();
    let one = Image::new(&[base.clone(), Tar::new().file("a", b"1").done()]);
    registries.open.push("shared/one", &one);
    registries.open.push("shared/two", &Image::new(&[base, Tar::new().file("a", b"2").done()]));
    pull(&fresh, &format!("{}/shared/one:t", proxy.address)).unwrap();
    pull(&fresh, &format!("{}/shared/two:t", proxy.address)).unwrap();
    let shared = Digest::of(&one.blobs[0]).to_string();
    assert_eq!(proxy.requests().iter().filter(|request| request.contains(&shared)).count(), 1);
    assert_eq!(fresh.layers(), 3);
}

fn the_platform_of_this_host_is_chosen(registries: &Registries) {
    let fresh = fresh();
    let folder = tempfile::tempdir().unwrap();
    let mut other = Image::new(&[Tar::new().file("a", b"other").done()]);
    other.architecture = "s390x".to_owned();
    let ours = Image::new(&[Tar::new().file("a", b"ours").done()]);
    let mut layout = Layout::new(&folder.path().join("both"));
    layout.add_platforms("t", &[other, ours]);
    registries.open.push_layout(&layout, "platforms");
    let reference = format!("{}/platforms:t", registries.open.address);
    pull(&fresh, &reference).unwrap();
    assert_eq!(fresh.read(&reference, "a"), b"ours");
    let mut other = Image::new(&[plain_tree()]);
    other.architecture = "s390x".to_owned();
    registries.open.push("foreign", &other);
    let error = pull(&fresh, &format!("{}/foreign:t", registries.open.address)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.chain());
}

fn a_digest_pins_the_image(registries: &Registries) {
    let fresh = fresh();
    let repository = format!("{}/pinned", registries.open.address);
    registries.open.push("pinned", &bulky(4, 1000));
    let old = pull(&fresh, &format!("{repository}:t")).unwrap();
    registries.open.push("pinned", &bulky(5, 1000));
    let pinned = format!("{repository}@{}", old.manifest.unwrap());
    assert_eq!(pull(&fresh, &pinned).unwrap().id, old.id);
    assert_eq!(pull(&fresh, &format!("{repository}:t@{}", old.manifest.unwrap())).unwrap().id, old.id);
    let new = pull(&fresh, &format!("{repository}:t")).unwrap();
    assert_ne!(new.id, old.id);
    assert_eq!(fresh.root(&pinned), fresh.root(&old.id.to_string()));
    assert_eq!(fresh.root(&format!("{repository}:t")), fresh.root(&new.id.to_string()));
    let missing = pull(&fresh, &format!("{repository}@{}", Digest::of(b"missing"))).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{}", missing.chain());
}

fn a_corrupted_layer_is_refused_and_leaves_nothing(registries: &Registries) {
    let fresh = fresh();
    let good = Tar::new().file("good", b"x").done();
    let image = Image::new(&[good, Tar::new().file("bulk", &noise(6, 300_000)).done()]);
    registries.open.push("corrupted", &image);
    flip(&registries.open.blob(&Digest::of(&image.blobs[1])));
    let before = fresh.listing();
    let error = pull(&fresh, &format!("{}/corrupted:t", registries.open.address)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    assert_eq!(fresh.listing(), before);
    assert_eq!(block(fresh.store.list()).unwrap(), []);
}

fn a_corrupted_document_is_refused_and_leaves_nothing(registries: &Registries) {
    let fresh = fresh();
    let before = fresh.listing();
    for (number, which) in ["application/vnd.oci.image.config", "schemaVersion"].iter().enumerate() {
        let repository = format!("documents/{number}");
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::of(folder.path(), "t", &bulky(70 + number as u64, 1000));
        registries.open.push_layout(&layout, &repository);
        // The configuration and the manifest; both are told from layers by what is in them.
        for entry in fs::read_dir(folder.path().join("blobs/sha256")).unwrap() {
            let content = fs::read(entry.unwrap().path()).unwrap();
            let is_manifest = content.starts_with(b"{\"schemaVersion");
            let is_config = content.starts_with(b"{\"architecture");
            if is_manifest && *which == "schemaVersion" || is_config && *which != "schemaVersion" {
                flip(&registries.open.blob(&Digest::of(&content)));
            }
        }
        let error = pull(&fresh, &format!("{}/{repository}:t", registries.open.address)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
        assert_eq!(fresh.listing(), before);
    }
}

fn a_hostile_layer_is_refused_and_leaves_nothing(registries: &Registries) {
    let fresh = fresh();
    let before = fresh.listing();
    for (number, layer) in [
        Tar::new().file("../evil", b"x").done(),
        Tar::new().symlink("out", "/tmp").file("out/evil", b"x").done(),
        Tar::new().hard_link("passwd", "/etc/passwd").done(),
        Tar::new().device("null").done(),
        Tar::new().file("../.wh.evil", b"").done(),
    ]
    .into_iter()
    .enumerate()
    {
        let repository = format!("hostile/{number}");
        registries.open.push(&repository, &Image::new(&[plain_tree(), layer]));
        let error = pull(&fresh, &format!("{}/{repository}:t", registries.open.address)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
        assert_eq!(fresh.listing(), before);
    }
}

fn a_flaky_line_is_survived(registries: &Registries) {
    let (fresh, proxy) = (fresh(), Proxy::to(registries.open.address));
    let image = bulky(8, 1_000_000);
    registries.open.push("flaky", &image);
    proxy.cut_after(200_000);
    let reference = format!("{}/flaky:t", proxy.address);
    pull(&fresh, &reference).unwrap();
    assert_eq!(fresh.read(&reference, "bulk"), noise(8, 1_000_000));
    let layer = Digest::of(&image.blobs[0]).to_string();
    let requests = proxy.requests().iter().filter(|request| request.contains(&layer)).count();
    assert!(requests >= 5, "{requests}");
    // What came was not asked for again, but for what was under way when a connection was cut.
    assert!(proxy.relayed() < 2_000_000, "{}", proxy.relayed());
}

fn an_interrupted_pull_goes_on_where_it_stopped(registries: &Registries) {
    let (mut fresh, proxy) = (fresh(), Proxy::to(registries.open.address));
    let image = bulky(9, 1_000_000);
    registries.open.push("interrupted", &image);
    let reference = format!("{}/interrupted:t", proxy.address);
    proxy.stall_after(600_000);
    fresh.store = fresh.store.with_registries(RegistryOptions { tries: 1, ..hasty() });
    let begun = Instant::now();
    let error = pull(&fresh, &reference).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut), "{}", error.chain());
    assert!(error.hint().unwrap().contains("pull again"));
    assert!(begun.elapsed() < Duration::from_secs(20));
    let kept: u64 = partials(&fresh).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(kept > 300_000, "{kept}");
    assert_eq!((fresh.layers(), fs::read_dir(fresh.path("temporary")).unwrap().count()), (0, 0));
    proxy.stall_after(0);
    fresh.store = fresh.store.with_registries(options());
    let before = proxy.relayed();
    let (progress, steps) = recorder();
    block(fresh.store.pull(&reference, progress)).unwrap();
    let rest = image.blobs[0].len() as u64 - kept;
    assert!(proxy.relayed() - before < rest + 20_000, "{} for {rest}", proxy.relayed() - before);
    let first = steps.lock().unwrap().iter().find(|step| step.stage == Stage::Fetching).unwrap().done;
    assert_eq!(first, kept);
    assert_eq!(fresh.read(&reference, "bulk"), noise(9, 1_000_000));
    assert_eq!(partials(&fresh), Vec::<PathBuf>::new());
}

fn a_registry_that_cannot_resume_is_asked_for_all(registries: &Registries) {
    let (fresh, proxy) = (fresh(), Proxy::to(registries.open.address));
    let image = bulky(10, 200_000);
    registries.open.push("whole-only", &image);
    proxy.without_range();
    let partial = fresh.path("downloads").join(format!("{}.partial", Digest::of(&image.blobs[0]).hex()));
    fs::write(&partial, &image.blobs[0][..100_000]).unwrap();
    let reference = format!("{}/whole-only:t", proxy.address);
    pull(&fresh, &reference).unwrap();
    assert_eq!(fresh.read(&reference, "bulk"), noise(10, 200_000));
}

fn wrong_bytes_of_an_earlier_pull_do_no_harm(registries: &Registries) {
    let fresh = fresh();
    for (seed, left) in [(11, 100_000), (12, 200_000), (13, 900_000)] {
        let image = bulky(seed, 200_000);
        let repository = format!("stale/{seed}");
        registries.open.push(&repository, &image);
        // Some, as many, and more bytes than there should be.
        let left = left.min(image.blobs[0].len() + usize::from(left == 900_000));
        let partial = fresh.path("downloads").join(format!("{}.partial", Digest::of(&image.blobs[0]).hex()));
        fs::write(&partial, noise(99, left)).unwrap();
        let reference = format!("{}/{repository}:t", registries.open.address);
        pull(&fresh, &reference).unwrap();
        assert_eq!(fresh.read(&reference, "bulk"), noise(seed, 200_000));
    }
}

fn a_killed_pull_goes_on_where_it_stopped(registries: &Registries) {
    let (fresh, proxy) = (fresh(), Proxy::to(registries.open.address));
    let image = bulky(14, 1_000_000);
    registries.open.push("killed", &image);
    let reference = format!("{}/killed:t", proxy.address);
    proxy.stall_after(500_000);
    let mut process = child::command(&[], ["pull", fresh.folder.path().to_str().unwrap(), &reference]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while partials(&fresh).iter().map(|path| path.metadata().map_or(0, |metadata| metadata.len())).sum::<u64>() < 200_000 {
        assert!(Instant::now() < deadline && process.try_wait().unwrap().is_none());
        thread::yield_now();
    }
    process.kill().unwrap();
    process.wait().unwrap();
    proxy.wait_for_the_last();
    proxy.stall_after(0);
    // Neither are its locks in the way, nor is anything half made taken for whole.
    block(fresh.store.sweep()).unwrap();
    assert_eq!((fresh.layers(), block(fresh.store.list()).unwrap().len()), (0, 0));
    let kept: u64 = partials(&fresh).iter().map(|path| path.metadata().unwrap().len()).sum();
    let before = proxy.relayed();
    pull(&fresh, &reference).unwrap();
    // The rest of the layer, and a few documents.
    let (relayed, rest) = (proxy.relayed() - before, image.blobs[0].len() as u64 - kept);
    assert!((rest..rest + 5000).contains(&relayed), "{relayed} for {rest}");
    assert_eq!(fresh.read(&reference, "bulk"), noise(14, 1_000_000));
    block(fresh.store.collect(|| Ok(Vec::new()))).unwrap();
    assert_eq!(fs::read_dir(fresh.path("locks")).unwrap().count(), 0);
}

fn two_pulls_at_once_fetch_each_layer_once(registries: &Registries) {
    let (fresh, proxy) = (fresh(), Proxy::to(registries.open.address));
    let layers: Vec<_> = (0..5).map(|seed| Tar::new().file(&format!("f{seed}"), &noise(20 + seed, 200_000)).done()).collect();
    let image = Image::new(&layers);
    registries.open.push("twice", &image);
    let reference = format!("{}/twice:t", proxy.address);
    // In two processes, and twice in one of them.
    let other = child::command(&[], ["pull", fresh.folder.path().to_str().unwrap(), &reference]).spawn().unwrap();
    let (one, two) = block(async { tokio::join!(fresh.store.pull(&reference, silent()), fresh.store.pull(&reference, silent())) });
    let other = other.wait_with_output().unwrap();
    assert!(other.status.success());
    let id = one.unwrap().id;
    assert_eq!(two.unwrap().id, id);
    assert_eq!(String::from_utf8(other.stdout).unwrap().trim_end(), id.to_string());
    let requests = proxy.requests();
    for blob in &image.blobs {
        let digest = Digest::of(blob).to_string();
        assert_eq!(requests.iter().filter(|request| request.contains(&digest)).count(), 1, "{requests:?}");
    }
    assert_eq!(fresh.layers(), 5);
    for folder in ["temporary", "locks", "downloads"] {
        assert_eq!(fs::read_dir(fresh.path(folder)).unwrap().count(), 0, "{folder}");
    }
}

fn a_dropped_pull_leaves_nothing_locked(registries: &Registries) {
    let (fresh, proxy) = (fresh(), Proxy::to(registries.open.address));
    registries.open.push("dropped", &bulky(30, 1_000_000));
    let reference = format!("{}/dropped:t", proxy.address);
    proxy.stall_after(500_000);
    let (progress, steps) = recorder();
    block(async {
        let fetching = async {
            while !steps.lock().unwrap().iter().any(|step| step.done > 100_000) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            pulled = fresh.store.pull(&reference, progress) => panic!("{pulled:?}"),
            () = fetching => {}
        }
        proxy.stall_after(0);
        fresh.store.pull(&reference, silent()).await.unwrap();
    });
    assert_eq!(fresh.read(&reference, "bulk"), noise(30, 1_000_000));
    assert!(!block(fresh.store.collect(|| Ok(Vec::new()))).unwrap().busy);
}

fn an_unreachable_registry_is_told_soon(_: &Registries) {
    let fresh = fresh();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let begun = Instant::now();
    let error = pull(&fresh, &format!("{nobody}/x:t")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    assert!(error.chain().contains(&nobody.to_string()), "{}", error.chain());
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

fn a_silent_registry_is_told_soon(_: &Registries) {
    let mut fresh = fresh();
    fresh.store = fresh.store.with_registries(hasty());
    // Connections wait in the queue, and nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = Instant::now();
    let error = pull(&fresh, &format!("{}/x:t", silent.local_addr().unwrap())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{}", error.chain());
    assert!(begun.elapsed() < SILENCE * 4, "{:?}", begun.elapsed());
}

fn what_is_not_there_is_not_found(registries: &Registries) {
    let fresh = fresh();
    registries.open.push("there", &bulky(31, 1000));
    for name in ["nowhere:t", "there:other"] {
        let error = pull(&fresh, &format!("{}/{name}", registries.open.address)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
    }
}

fn a_name_without_a_registry_is_refused(_: &Registries) {
    let error = pull(&fresh(), "debian:12").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.hint().unwrap().contains("REGISTRY/debian:12"));
}

fn a_login_is_needed_where_one_is_asked_for(registries: &Registries) {
    registries.closed.push("private", &bulky(32, 1000));
    let reference = format!("{}/private:t", registries.closed.address);
    let mut fresh = fresh();
    let error = pull(&fresh, &reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.chain());
    assert!(error.hint().unwrap().contains("docker login"));
    let login = |fresh: &mut Fresh, password: &str| {
        let file = fresh.folder.path().join("config.json");
        let auth = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("ann:{password}"));
        fs::write(&file, format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, registries.closed.address)).unwrap();
        fresh.store = fresh.store.clone().with_registries(RegistryOptions { credentials: vec![file], ..options() });
    };
    login(&mut fresh, "wrong");
    let error = pull(&fresh, &reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.chain());
    assert!(!error.chain().contains("wrong"), "{}", error.chain());
    login(&mut fresh, PASSWORD);
    pull(&fresh, &reference).unwrap();
    assert_eq!(fresh.read(&reference, "bulk"), noise(32, 1000));
}

fn too_large_a_layer_is_refused(registries: &Registries) {
    let (mut fresh, proxy) = (fresh(), Proxy::to(registries.open.address));
    registries.open.push("large", &bulky(33, 300_000));
    let limits = sandbar_runtime::image::ImageLimits { blob_bytes: 100_000, ..Default::default() };
    fresh.store = fresh.store.with_limits(limits);
    let error = pull(&fresh, &format!("{}/large:t", proxy.address)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}", error.chain());
    assert!(proxy.relayed() < 100_000);
    // A bomb: small in transfer.
    let limits = sandbar_runtime::image::ImageLimits { free_bytes: 1 << 20, expansion: 10, ..Default::default() };
    fresh.store = fresh.store.with_limits(limits);
    let bomb = Tar::new().file("zeros", &vec![0; 8 << 20]).done();
    assert!(gzip(&bomb).len() < 100_000);
    registries.open.push("bomb", &Image::new(&[bomb]));
    let before = fresh.listing();
    let error = pull(&fresh, &format!("{}/bomb:t", registries.open.address)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}", error.chain());
    assert_eq!(fresh.listing(), before);
}

fn a_full_disk_is_told_and_nothing_left(registries: &Registries) {
    let folder = tempfile::tempdir().unwrap();
    let home: &Path = folder.path();
    // One does not fit as it comes, the other when it is unpacked beside what came.
    registries.open.push("full/1", &bulky(34, 8 << 20));
    registries.open.push("full/2", &bulky(35, 2_500_000));
    for repository in ["full/1", "full/2"] {
        let wrapper = child::with_disk(home, 4);
        let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
        let reference = format!("{}/{repository}:t", registries.open.address);
        assert_eq!(child::output(&wrapper, ["pull", home.to_str().unwrap(), &reference]), "resource_exhausted");
    }
    drop(ImageStore::open(home).unwrap());
}
