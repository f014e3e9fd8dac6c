use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
};

use sandbar_core::ErrorKind;
use sandbar_runtime::CreateRequest;

use crate::{
    case::{Case, case},
    engine::Engine,
    served::Registry,
    world::{World, left, request, say},
};

pub const CASES: &[Case] =
    &[case!(Engine::of("runc"), an_image_is_pulled_by_the_engine_with_progress).needs(&["/usr/bin/docker", "/usr/bin/docker-registry"])];

/// The engine's own command line.
fn docker(world: &World, words: &[&str], input: &[u8]) {
    let mut command = Command::new("docker");
    command.arg("--host").arg(format!("unix://{}", world.socket.display())).args(words);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    assert!(child.wait().unwrap().success(), "docker {words:?}");
}

/// Puts the tree of an image into a registry, by the engine, which then has nothing of it any more.
fn push(world: &World, tree: &Path, reference: &str) {
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(false);
    archive.append_dir_all(".", tree).unwrap();
    docker(world, &["import", "-", reference], &archive.into_inner().unwrap());
    docker(world, &["push", "--quiet", reference], b"");
    docker(world, &["rmi", reference], b"");
}

async fn an_image_is_pulled_by_the_engine_with_progress(world: World) {
    let runtime = world.runtime().await;
    let registry = Registry::start(None).unwrap();
    let tree = world.home.path().join("image-tree");
    fs::write(tree.join("mark"), "pulled").unwrap();
    let [reference, second] = ["first:t", "second:t"].map(|name| format!("{}/{name}", registry.address));
    push(&world, &tree, &reference);
    fs::write(tree.join("mark"), "pulled by a create").unwrap();
    push(&world, &tree, &second);
    let repositories = registry.folder.path().join("storage/docker/registry/v2/repositories");
    assert_eq!(fs::read_dir(repositories).unwrap().count(), 2);

    let said = Mutex::new(Vec::new());
    let engine = runtime.providers().get("docker").unwrap().clone();
    let note = |words: &str| said.lock().unwrap().push(words.to_owned());
    let pulled = runtime.fetch_image(engine.as_ref(), &reference, &note).await.unwrap().unwrap();
    let said = said.into_inner().unwrap().join("\n");
    for part in ["Pulling from first", "Downloading", "Pull complete", "Downloaded newer image", "taking"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(pulled.names.contains(&reference), "{pulled:?}");

    for (image, mark) in [(&reference, "pulled"), (&pulled.id.to_string(), "pulled"), (&second, "pulled by a create")] {
        let sandbox = runtime.create(CreateRequest { image: Some(image.clone()), ..request() }).await.unwrap();
        assert_eq!(say(&sandbox, "cat /mark").await.unwrap(), mark, "{image}");
        sandbox.destroy().await.unwrap();
    }
    // It is the store's by now: any wall takes it.
    let elsewhere = CreateRequest { provider: Some("container".to_owned()), image: Some(second), ..request() };
    let sandbox = runtime.create(elsewhere).await.unwrap();
    assert_eq!(say(&sandbox, "cat /mark").await.unwrap(), "pulled by a create");
    sandbox.destroy().await.unwrap();

    let address = registry.address;
    let fetch = async |name: &str| {
        let reference = format!("{address}/{name}");
        runtime.fetch_image(engine.as_ref(), &reference, &|_| {}).await.err().unwrap()
    };
    let error = fetch("first:other").await;
    assert!(error.kind() == ErrorKind::NotFound && error.hint().is_some(), "{}", error.chain());
    drop(registry);
    let error = fetch("nothing:t").await;
    assert!(error.kind() == ErrorKind::Unavailable && error.hint().is_some(), "{}", error.chain());
    assert_eq!(left(&world), Vec::<String>::new());
}
