use std::rc::Rc;

use rustix::process::{Signal, WaitOptions};
use tokio::io::Interest;

use crate::{agent::Agent, shutdown, signals, watched::Watched};

/// Reaps every child that ends, whoever's it was, and hears requests to end.
pub(crate) async fn run(agent: Rc<Agent>, signals: Watched) {
    loop {
        match signals.async_io(Interest::READABLE, |fd| signals::next(fd)).await {
            Ok(libc::SIGCHLD) => reap(&agent),
            // Process 1 is not ended from outside by name, and everything inside may only ask it.
            Ok(_) if agent.settings().config.init => {}
            Ok(_) => {
                shutdown::kill_everything(&agent).await;
                agent.end();
            }
            Err(_) => return,
        }
    }
}

/// Reaps what can be reaped now.
pub(crate) fn reap(agent: &Agent) {
    while let Some(pid) = signals::ended_child() {
        let process = agent.table.take_alive(pid);
        if let Some(process) = &process
            && process.timed_out.get()
        {
            // Its time is over, so is its group's; as long as it was not reaped the number names no other group.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        let Ok(Some((_, status))) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) else { return };
        match process {
            Some(process) => process.reaped(status),
            None => agent.table.reaped_early(pid, status),
        }
    }
    agent.table.reaped.notify_waiters();
}
