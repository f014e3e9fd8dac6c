"""A tree with everything that a layer can hold, made by a program of the sandbox, and told line by line.

    below DIR   what the image, or an earlier checkpoint, has
    above DIR   what a sandbox does to it
    look DIR    one line for each name: everything that must come through
"""

import os
import stat
import sys

MOMENT = 1234567890123456789


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def below(root):
    for name in (b"folder", b"replaced", b"gone/deep", b"file becomes folder is", b"moved"):
        os.makedirs(os.path.join(root, name))
    for name in (b"kept", b"changed", b"removed", b"folder becomes", b"chmodded", b"folder/old", b"folder/removed", b"replaced/old",
                 b"gone/deep/file", b"moved/file", b"file becomes folder is/x"):
        write(os.path.join(root, name), b"of the image: " + name)


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            remove(os.path.join(path, name))
        os.rmdir(path)
    else:
        os.unlink(path)


def allowed(act, *arguments):
    """What not every sandbox may do; those that may must bring it through."""
    try:
        act(*arguments)
    except OSError:
        pass


def above(root):
    os.chdir(root)
    # Removed, replaced, changed.
    remove(b"removed")
    remove(b"folder/removed")
    remove(b"gone")
    remove(b"replaced")
    os.mkdir(b"replaced")
    write(b"replaced/new", b"new")
    remove(b"folder becomes")
    os.mkdir(b"folder becomes")
    write(b"folder becomes/file", b"x")
    remove(b"file becomes folder is")
    write(b"file becomes folder is", b"a file")
    write(b"changed", b"changed")
    os.chmod(b"chmodded", 0o600)
    remove(b"moved")
    # Kinds and names.
    os.makedirs(b"new/deep/" + b"d" * 200 + b"/" + b"e" * 200)
    write(b"new/deep/" + b"d" * 200 + b"/" + b"e" * 200 + b"/" + b"f" * 255, b"deep")
    write(b"new/not utf-8 \xff\xfe\n name=\\", b"odd")
    write(b"new/empty", b"")
    os.mkdir(b"new/empty folder")
    os.symlink(b"nowhere/at all", b"new/dangling")
    os.symlink(b"/" + b"t" * 300, b"new/long link")
    os.symlink(b"../../../../etc/passwd", b"new/climbing link")
    os.mkfifo(b"new/pipe", 0o640)
    # One file by several names, and one of them a link.
    write(b"new/first name", b"linked")
    os.link(b"new/first name", b"new/deep/second name")
    os.link(b"new/first name", b"third name")
    os.link(b"new/dangling", b"new/dangling too", follow_symlinks=False)
    # Modes, owners, attributes.
    write(b"new/program", b"#!/bin/true\n")
    os.mkdir(b"new/sticky")
    os.mkdir(b"new/closed")
    write(b"new/closed/file", b"closed")
    for path, owner in ((b"new/program", (1234, 4321)), (b"new/closed", (1000, 1000)), (b"new/closed/file", (1000, 65534)), (b"new/pipe", (7, 8))):
        allowed(os.chown, path, *owner)
    os.chmod(b"new/program", 0o6755)
    os.chmod(b"new/sticky", 0o1777)
    os.chmod(b"new/closed", 0o700)
    os.chmod(b"new/closed/file", 0)
    allowed(os.setxattr, b"new/empty", b"user.binary", b"\x00\xff\n=")
    allowed(os.setxattr, b"new/empty", b"user.none", b"")
    allowed(os.setxattr, b"new/empty folder", b"user.long", b"v" * 2000)
    write(b"new/capable", b"x")
    os.chmod(b"new/capable", 0o755)
    # cap_net_raw+ep, as `setcap` writes it (linux/capability.h, VFS_CAP_REVISION_2).
    allowed(os.setxattr, b"new/capable", b"security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    # Sizes.
    with open(b"new/sparse", "wb") as file:
        file.seek(48 << 20)
        file.write(b"end")
    with open(b"new/large", "wb") as file:
        state = 1
        for _ in range(3000):
            state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
            file.write(state.to_bytes(8, "little") * 128)
    # Times, the folders last and the deepest first.
    for index, (folder, folders, files) in enumerate(os.walk(b"new", topdown=False)):
        for name in files + folders:
            path = os.path.join(folder, name)
            os.utime(path, ns=(MOMENT, MOMENT + index), follow_symlinks=False)
    os.utime(b"new/empty", ns=(-5, -1500000000))
    os.utime(b"new/empty folder", ns=(0, 0))


def weigh(path):
    """A number that says whether two files are alike."""
    number = 0
    try:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                number = (number * 31 + int.from_bytes(piece, "little") + len(piece)) % ((1 << 61) - 1)
    except PermissionError:
        return "closed"
    return format(number, "x")


def attributes(path, found):
    if stat.S_ISLNK(found.st_mode):
        return []
    told = []
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        if name.startswith("user.") and not name.startswith("user.overlay.") or name == "security.capability":
            told.append((name, os.getxattr(path, name, follow_symlinks=False).hex()))
    return told


def look(root):
    os.chdir(root)
    names = []
    for folder, folders, files in os.walk(b".", followlinks=False):
        names += [os.path.join(folder, name) for name in folders + files]
    first = {}
    for path in sorted(names):
        found = os.lstat(path)
        is_folder = stat.S_ISDIR(found.st_mode)
        told = [path, format(found.st_mode, "o"), found.st_uid, found.st_gid, found.st_mtime_ns]
        if not is_folder:
            told += [found.st_size, found.st_nlink, first.setdefault((found.st_dev, found.st_ino), path)]
        if stat.S_ISLNK(found.st_mode):
            told.append(os.readlink(path))
        if stat.S_ISREG(found.st_mode):
            told.append(weigh(path))
        told.append(attributes(path, found))
        print(*map(repr, told))


{"below": below, "above": above, "look": look}[sys.argv[1]](os.fsencode(sys.argv[2]))
