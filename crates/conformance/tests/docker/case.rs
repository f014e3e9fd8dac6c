//! One fact of an engine of its own.

use std::{path::Path, pin::Pin};

use libtest_mimic::Trial;

use crate::{engine::Engine, trial::trial, world::World};

/// A fact, and what it needs.
pub struct Case {
    name: &'static str,
    engine: Engine<'static>,
    needs: &'static [&'static str],
    body: fn(World) -> Pin<Box<dyn Future<Output = ()>>>,
}

impl Case {
    pub const fn new(name: &'static str, engine: Engine<'static>, body: fn(World) -> Pin<Box<dyn Future<Output = ()>>>) -> Self {
        Self { name, engine, needs: &[], body }
    }

    /// Only where these programs are.
    pub const fn needs(mut self, programs: &'static [&'static str]) -> Self {
        self.needs = programs;
        self
    }

    pub fn trial(&self) -> Trial {
        let Self { name, engine, needs, body } = *self;
        let required = if engine.runtime == "runsc" { "docker-runsc" } else { "docker-runc" };
        // The name begins with this program's.
        let name = name.split_once("::").map_or(name, |(_, name)| name);
        let world = move || match needs.iter().find(|program| !Path::new(program).exists()) {
            Some(missing) => Err(format!("{missing} is not here: cargo xtask setup installs it")),
            None => World::with(&engine),
        };
        trial(name, required, world, move |world| {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(body(world));
        })
    }
}

/// A [`Case`] of an asynchronous function with the name that it has.
macro_rules! case {
    ($engine:expr, $body:ident) => {
        $crate::case::Case::new(concat!(module_path!(), "::", stringify!($body)), $engine, |world| Box::pin($body(world)))
    };
}
pub(crate) use case;
