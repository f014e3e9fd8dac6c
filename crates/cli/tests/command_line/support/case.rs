use std::{path::Path, sync::Arc};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use super::{Home, Stage, Wall};

/// One fact, to be shown behind every wall it is true of.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    body: fn(&Home),
    walls: &'static [&'static str],
    needs: &'static [&'static str],
    beside: &'static [&'static str],
    of_layers: bool,
    brief: bool,
    brief_on: &'static [&'static str],
    staged: bool,
}

impl Case {
    /// A fact of every wall.
    pub const fn new(name: &'static str, body: fn(&Home)) -> Self {
        let walls = &["dangerous-host", "container-root", "container-rootless", "gvisor-root", "gvisor-rootless"];
        Self { name, body, walls, needs: &[], beside: &[], of_layers: false, brief: false, brief_on: &[], staged: false }
    }

    /// Only of these walls.
    #[must_use]
    pub const fn on(mut self, walls: &'static [&'static str]) -> Self {
        self.walls = walls;
        self
    }

    /// Of every wall that takes images of layers and needs nothing beside the program: all but the one that is none.
    #[must_use]
    pub const fn of_layers(mut self) -> Self {
        self.of_layers = true;
        self
    }

    /// Only where these programs are, on the host and so in the image `host`.
    #[must_use]
    pub const fn needs(mut self, programs: &'static [&'static str]) -> Self {
        self.needs = programs;
        self
    }

    /// Only where these are as well; inside they are then too, behind walls with an image of their own.
    #[must_use]
    pub const fn needs_beside(mut self, programs: &'static [&'static str]) -> Self {
        self.beside = programs;
        self
    }

    /// Behind gVisor and in an emulated machine as well when nobody has asked for the long tests.
    #[must_use]
    pub const fn brief(mut self) -> Self {
        self.brief = true;
        self
    }

    /// The same behind these of them only.
    #[must_use]
    pub const fn brief_on(mut self, walls: &'static [&'static str]) -> Self {
        self.brief_on = walls;
        self
    }

    /// On a stage, which only root can build.
    #[must_use]
    pub const fn staged(mut self) -> Self {
        self.staged = true;
        self.needs(Stage::NEEDS)
    }

    fn is_of(&self, wall: &Wall) -> bool {
        if self.of_layers { wall.provider != "dangerous-host" && wall.supplies.is_none() } else { self.walls.contains(&wall.name) }
    }

    fn trial(self, wall: &Arc<Wall>) -> Trial {
        let wall = Arc::clone(wall);
        let required = std::env::var("SANDBAR_REQUIRE").is_ok_and(|names| names.split(',').any(|name| name == wall.name));
        let missing = self
            .needs
            .iter()
            .chain(self.beside)
            .find(|program| !Path::new(program).exists())
            .map(|program| format!("{program} is not here"));
        let stageless = (self.staged && !rustix::process::geteuid().is_root()).then(|| "only root can build the stage".to_owned());
        let reason = missing.or(stageless);
        let name = format!("{}::{}", wall.name, self.name);
        let is_slow = wall.is_gvisor() || wall.is_machine();
        let is_brief = self.brief || self.brief_on.contains(&wall.name);
        let is_long = is_slow && !is_brief && std::env::var_os("SANDBAR_LONG").is_none();
        Trial::ignorable_test(name, move || match reason.or_else(|| (!is_long).then(|| wall.lack()).flatten()) {
            None if is_long => Ok(Completion::ignored_with("behind another kernel it takes minutes: SANDBAR_LONG=1 asks for it")),
            Some(reason) if required => Err(Failed::from(format!("SANDBAR_REQUIRE asks for {}: {reason}", wall.name))),
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => {
                let home = Home::new(&wall.with_programs(self.beside));
                (self.body)(&home);
                home.close();
                Ok(Completion::Completed)
            }
        })
    }
}

/// The `main` of a test file.
pub fn main(cases: &[Case]) -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let scratch = tempfile::Builder::new().prefix("sandbar-test-").tempdir_in("/tmp").unwrap();
    open_to_all(scratch.path());
    let walls: Vec<_> = Wall::all(scratch.path()).into_iter().map(Arc::new).collect();
    let trials = walls.iter().flat_map(|wall| cases.iter().filter(|case| case.is_of(wall)).map(|case| case.trial(wall))).collect();
    let code = libtest_mimic::run(&arguments, trials).exit_code();
    drop(scratch);
    code
}

pub fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
