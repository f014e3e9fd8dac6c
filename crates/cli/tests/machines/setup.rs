use crate::world::World;

/// In a state folder with nothing in it: what is missing is told with the command that gets it; after that the next command runs, in a kernel of its own.
pub fn suffices(world: &World) {
    let lacking = world.run(&["run", "--isolation", "vm", "--", "true"]);
    let said = String::from_utf8_lossy(&lacking.stderr).into_owned();
    assert!(lacking.status.code() == Some(125) && said.contains("sandbar setup qemu"), "{said}");

    let asked = world.run(&["setup", "qemu"]);
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(asked.status.success() && said.contains("to do: ") && said.contains("nothing was done"), "{said}");
    assert_eq!((world.ok(&["kernel", "ls", "--json"]), world.ok(&["image", "ls", "--json"])), ("[]".to_owned(), "[]".to_owned()));

    world.ok(&["setup", "qemu", "--yes"]);
    world.ok(&["run", "--isolation", "vm", "--", "true"]);
    assert_eq!(world.ok(&["run", "--isolation", "vm", "--", "python3", "-c", "print(6 * 7)"]), "42");
    let within = world.ok(&["run", "--isolation", "vm", "--", "cat", "/proc/version"]);
    assert_ne!(within, std::fs::read_to_string("/proc/version").unwrap().trim(), "it has a kernel of its own");
    let again = world.run(&["setup", "qemu"]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success() && said.contains("lacks nothing"), "{said}");
    assert!(world.is_settled("what ran").is_empty());
}
