//! `cp`, as `docker cp` has it.
//!
//! What comes out of a sandbox was written by a stranger. A tree is unpacked into a new folder beside its destination, by code that
//! follows no link and leaves that folder on no account, and only then takes its place; so nothing is half there after a failure
//! either.

mod bridge;
mod destination;
mod download;
mod merge;
mod single;
mod stream;
mod upload;

use std::ffi::OsString;

use clap::Args;
use sandbar_runtime::Runtime;

use crate::{
    args::Location,
    error::{Outcome, usage},
};

/// Copy files and folders into a sandbox, or out of one
///
/// One of the two is ID:PATH. A folder that is copied onto an existing folder goes inside it; with `/.` at its end, its contents do.
/// Parents must exist. Symbolic links are copied as links. Mode and time of change are kept; what is copied belongs to the sandbox's user, or
/// to you. `-` is a tar stream on standard input or output. Begin a path of your own with ./ or / if it has a colon.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandbar cp ./src web:/work
  sandbar cp web:/work/out/. ./results
  sandbar cp 'web:/srv/my file' .
  tar c . | sandbar cp - web:/work
  sandbar cp web:/etc - | tar t")]
pub(crate) struct Cp {
    /// Copy what a symbolic link given as the source points to, instead of the link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// What to copy
    #[arg(value_name = "SRC")]
    source: OsString,
    /// Where to
    #[arg(value_name = "DST")]
    destination: OsString,
}

impl Cp {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let source = Location::parse(&self.source).map_err(usage)?;
        let destination = Location::parse(&self.destination).map_err(usage)?;
        match (source, destination) {
            (Location::Host(from), Location::Sandbox { reference, path }) => {
                upload::upload(&runtime.sandbox(&reference).await?, &from, self.follow_link, &path).await
            }
            (Location::Sandbox { reference, path }, Location::Host(to)) => {
                download::download(&runtime.sandbox(&reference).await?, &path, self.follow_link, &to).await
            }
            (Location::Stream, Location::Sandbox { reference, path }) => stream::unpack(&runtime.sandbox(&reference).await?, &path).await,
            (Location::Sandbox { reference, path }, Location::Stream) => {
                stream::pack(&runtime.sandbox(&reference).await?, &path, self.follow_link).await
            }
            (Location::Sandbox { .. }, Location::Sandbox { .. }) => {
                Err(usage("one side must be of this machine; from one sandbox to another: sandbar cp A:PATH - | sandbar cp - B:PATH"))
            }
            _ => Err(usage("one side must be inside a sandbox: ID:PATH")),
        }
    }
}
