use std::fs;

use super::canary::prey;
use crate::{Context, Failure, failure::ensure, suite::cases};

cases! { "identity";
    names_and_ids_of_the_host_are_not_told,
    a_key_of_one_sandbox_is_not_anothers,
}

async fn names_and_ids_of_the_host_are_not_told(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    for path in ["/etc/machine-id", "/proc/sys/kernel/hostname", "/etc/hostname"] {
        let Ok(own) = fs::read_to_string(path) else { continue };
        let inside = sandbox.shell(&format!("cat {path} 2>/dev/null")).await?.stdout_text();
        ensure!(own.trim().is_empty() || inside.trim() != own.trim(), "{path} is the host's");
    }
    let users = sandbox.shell("cat /etc/passwd").await?.stdout_text();
    let people = |table: &str| -> Vec<String> {
        let is_person =
            |line: &&str| line.split(':').nth(2).and_then(|id| id.parse::<u32>().ok()).is_some_and(|id| (1000..65534).contains(&id));
        table.lines().filter(is_person).filter_map(|line| line.split(':').next()).map(str::to_owned).collect()
    };
    let inside = people(&users);
    let strangers: Vec<String> = people(&fs::read_to_string("/etc/passwd")?).into_iter().filter(|name| inside.contains(name)).collect();
    ensure!(strangers.is_empty(), "people of the host are told: {strangers:?}");
    Ok(())
}

/// System V and POSIX shared memory are divided.
async fn a_key_of_one_sandbox_is_not_anothers(context: &Context) -> Result<(), Failure> {
    let (one, two) = (prey(context).await?, prey(context).await?);
    one.text("echo mine > /dev/shm/shared; echo mine > /tmp/shared").await?;
    ensure!(!two.shell("cat /dev/shm/shared || cat /tmp/shared").await?.status.success(), "one sandbox sees the other's memory or files");
    Ok(())
}
