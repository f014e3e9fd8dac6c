use super::canary::{Canary, attack_kernel, prey};
use crate::{
    Context, Failure,
    Reach::SharedKernel,
    failure::{ensure, ensure_eq},
    suite::cases,
};

cases! { "privileges";
    none_is_gained,
    capabilities_are_exactly_these,
    a_filter_is_in_force [.reach(&[SharedKernel])],
}

/// chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, sys_chroot, setfcap: what Docker gives, without
/// mknod, net_raw and audit_write.
const CAPABILITIES: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18 | 1 << 31;

async fn none_is_gained(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    // Among the sandbox's own processes.
    attack_kernel(context, &sandbox, &["privileges"], &["a higher priority"]).await?;
    canary.is_untouched()
}

async fn capabilities_are_exactly_these(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    let status = sandbox.text("cat /proc/self/status").await?;
    let set = |name: &str| {
        let text = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        u64::from_str_radix(text, 16).map_err(|_| Failure::new(format!("no {name} in {status}")))
    };
    for (name, expected) in
        [("CapPrm:", CAPABILITIES), ("CapEff:", CAPABILITIES), ("CapBnd:", CAPABILITIES), ("CapInh:", 0), ("CapAmb:", 0)]
    {
        // A kernel without ambient capabilities tells of none.
        if name == "CapAmb:" && !status.contains(name) && !context.subject().reach.contains(&SharedKernel) {
            continue;
        }
        ensure_eq!(format!("{:x}", set(name)?), format!("{expected:x}"), "{name}");
    }
    Ok(())
}

async fn a_filter_is_in_force(context: &Context) -> Result<(), Failure> {
    let sandbox = prey(context).await?;
    let status = sandbox.text("cat /proc/self/status; cat /proc/1/status").await?;
    for (field, expected) in [("Seccomp:", "2"), ("NoNewPrivs:", "1")] {
        let found: Vec<&str> = status.lines().filter_map(|line| line.strip_prefix(field)).map(str::trim).collect();
        ensure!(found.len() == 2 && found.iter().all(|value| *value == expected), "{field} of a command and of the agent: {found:?}");
    }
    Ok(())
}
