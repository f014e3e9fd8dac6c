//! An image of one static program with many names.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use sandbar_core::RootSource;
use sandbar_runtime::image::ImageStore;

/// Makes the image in a store; its tree is made in `folder`.
///
/// # Errors
/// What is missing.
pub async fn image(store: &ImageStore, folder: &Path) -> Result<RootSource, String> {
    let program = busybox().ok_or("there is no static busybox: cargo xtask setup installs it")?;
    let tree = folder.join("image-tree");
    // The process that started this one may have made it.
    if !tree.exists() {
        make_tree(&tree, &program).map_err(|error| format!("cannot make the tree of an image: {error}"))?;
    }
    let imported = store.import(&tree, Some("busybox")).await.map_err(|error| error.chain())?;
    store.resolve(Some(&imported.id.to_string())).await.map_err(|error| error.chain())
}

fn busybox() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"].iter().map(PathBuf::from).find(|path| path.exists())
}

fn make_tree(tree: &Path, program: &Path) -> io::Result<()> {
    let open = ["bin", "etc", "home", "mnt", "opt", "srv", "usr/bin"].map(|name| (name, 0o755));
    for (name, mode) in open.into_iter().chain([("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)]) {
        let path = tree.join(name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    fs::copy(program, tree.join("bin/busybox"))?;
    fs::set_permissions(tree.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    let names = Command::new(program).arg("--list").output()?;
    for name in String::from_utf8_lossy(&names.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", tree.join("bin").join(name))?;
    }
    // What Debian's lacks; any checksum does.
    fs::write(tree.join("bin/cksum"), "#!/bin/sh\nexec md5sum \"$@\"\n")?;
    fs::set_permissions(tree.join("bin/cksum"), fs::Permissions::from_mode(0o755))?;
    symlink("/bin/env", tree.join("usr/bin/env"))?;
    fs::write(
        tree.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    )?;
    fs::write(tree.join("etc/group"), "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n")
}
