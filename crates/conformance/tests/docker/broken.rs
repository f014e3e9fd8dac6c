//! A runtime that cannot save memory, or takes its sandbox with it.

use std::fs;

use sandbar_core::{CheckpointKind, ErrorKind, State};
use sandbar_runtime::CreateRequest;

use crate::{
    case::{Case, case},
    engine::{Engine, RUNSC},
    world::{World, left, request, say, state},
};

pub const CASES: &[Case] = &[case!(Engine::of("runsc"), a_runtime_that_cannot_save_is_told_and_its_sandbox_goes_on)];

/// Lines before the runtime's own, which answer in its place when it is asked to save.
fn instead(lines: &str) -> String {
    RUNSC.replace("exec runsc", &format!("case \" $* \" in *\" checkpoint \"*) {lines} ;; esac\nexec runsc"))
}

async fn a_runtime_that_cannot_save_is_told_and_its_sandbox_goes_on(world: World) {
    let program = world.socket.with_file_name("runsc");
    let runtime = world.runtime().await;
    let sandbox = runtime.create(request()).await.unwrap();
    say(&sandbox, "echo kept > /file").await.unwrap();

    // The runtime's own words come through the engine.
    say(&sandbox, "(exec 3>/scratch; rm /scratch; exec setsid sleep 1000) </dev/null >/dev/null 2>&1 &").await.unwrap();
    let error = sandbox.checkpoint(CheckpointKind::Memory, None).await.err().unwrap();
    assert!(error.to_string().contains("deleted file") && error.to_string().contains("scratch"), "{}", error.chain());
    assert!(error.hint().is_some(), "{}", error.chain());
    assert_eq!(say(&sandbox, "killall sleep; cat /file").await.unwrap(), "kept");

    fs::write(&program, instead("echo 'nothing can be saved today' >&2; exit 1")).unwrap();
    let error = sandbox.checkpoint(CheckpointKind::Memory, None).await.err().unwrap();
    assert!(error.hint().is_some(), "{}", error.chain());
    assert_eq!(say(&sandbox, "cat /file").await.unwrap(), "kept");

    // As some versions do with a socket of the host: the head of an image, and no error.
    let short = "for word; do case $word in --image-path=*) path=${word#*=};; esac; last=$found; found=$word; [ \"$last\" = --image-path ] && path=$word; done; \
                 mkdir -p \"$path\"; head -c 900 /dev/zero >\"$path/checkpoint.img\"; exit 0";
    fs::write(&program, instead(short)).unwrap();
    let error = sandbox.checkpoint(CheckpointKind::Memory, None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    assert_eq!(say(&sandbox, "cat /file").await.unwrap(), "kept");
    assert_eq!(state(&sandbox).await, State::Running);
    assert_eq!(runtime.checkpoints(None).await.unwrap().len(), 0, "checkpoints");

    fs::write(&program, RUNSC).unwrap();
    let saved = sandbox.checkpoint(CheckpointKind::Memory, None).await.unwrap();
    // Of another version nothing is taken.
    fs::write(&program, RUNSC.replace("exec runsc", "[ \"$1\" = --version ] && { echo 'runsc version other'; exit; }\nexec runsc"))
        .unwrap();
    let refused = runtime.fork(saved.id.as_str(), 1, Default::default()).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{}", refused.chain());
    assert!(refused.hint().is_some_and(|hint| hint.contains("--without-memory")), "{}", refused.chain());
    fs::write(&program, RUNSC).unwrap();

    // One made with a runtime that cannot do it is refused, though the engine has another that can.
    let plain = CreateRequest { spec: sandbar_core::SandboxSpec { runtime: Some("runc".to_owned()), ..Default::default() }, ..request() };
    let plain = runtime.create(plain).await.unwrap();
    let error = plain.checkpoint(CheckpointKind::Memory, None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.chain());
    for sandbox in [plain, sandbox] {
        sandbox.destroy().await.unwrap();
    }
    assert_eq!(left(&world), Vec::<String>::new());
}
