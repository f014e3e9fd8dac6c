use super::canary::{Canary, attack, prey};
use crate::{
    Context, Failure,
    failure::{ensure, ensure_eq},
    host,
    suite::cases,
};

cases! { "mounts";
    nothing_is_mounted_unmounted_or_remounted,
    the_hosts_mounts_are_not_listed,
    none_of_its_mounts_reaches_the_host,
}

async fn nothing_is_mounted_unmounted_or_remounted(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    attack(&sandbox, &["mounts"]).await?;
    canary.is_untouched()
}

async fn the_hosts_mounts_are_not_listed(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    let table = sandbox.text("cat /proc/self/mountinfo").await?;
    let folder = context.subject().folder.display().to_string();
    let telling: Vec<&str> = table.lines().filter(|line| line.contains(&folder)).collect();
    ensure!(telling.is_empty(), "the host's folders are told: {telling:?}");
    // Every writable mount is of the sandbox's own making.
    let writable: Vec<&str> = table
        .lines()
        .filter(|line| line.split(' ').nth(5).is_some_and(|options| options.split(',').any(|option| option == "rw")))
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|place| !(place.starts_with("/dev") || ["/", "/proc", "/tmp", "/etc/hosts"].contains(place)))
        .collect();
    // What masks a file of /proc is a device that takes anything and says nothing.
    let others: Vec<&&str> = writable.iter().filter(|place| !place.starts_with("/proc/")).collect();
    ensure!(others.is_empty(), "writable mounts: {others:?}");
    Ok(())
}

async fn none_of_its_mounts_reaches_the_host(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    ensure_eq!(host::mounts_of(&sandbox.request().folder), Vec::<String>::new(), "mounts that the host sees");
    Ok(())
}
