use std::{os::fd::OwnedFd, sync::Arc};

use sandbar_tree::{Base, PackOptions, PackWhiteouts, pack};

use super::group;
use crate::{
    failure::{self, Kind, Result, failure},
    files::{done, refused},
    get::broken,
    transfer::{Link, Outgoing, lost},
};

/// Sends the writable layer as an OCI layer, while everything but the agent stands still.
pub(crate) fn send(upper: &OwnedFd, has_group: bool, link: &mut Link) -> Result<()> {
    let upper = upper.try_clone().map_err(|error| failure::io("cannot hold the writable layer".to_owned(), &error))?;
    // Where nothing can be frozen, what changes meanwhile is seen half: that is refused rather than saved.
    let frozen = has_group.then(group::freeze).transpose();
    let frozen = frozen.map_err(|error| failure::io("cannot have the processes stand still".to_owned(), &error))?;
    done(link)?;
    let mut outgoing = Outgoing::new(link);
    let options = PackOptions { whiteouts: PackWhiteouts::Oci, ..PackOptions::default() };
    let packed = pack(&Base::jail(upper, None), ".", &mut outgoing, &options);
    drop(frozen);
    match packed {
        Ok(packed) if packed.changed > 0 => {
            broken(link, failure(Kind::Conflict, format!("{} files changed while they were saved", packed.changed)))
        }
        Ok(_) => outgoing.finish().map_err(|error| lost(&error.into())),
        Err(error) => broken(link, refused(error)),
    }
}

/// As the agent shares it with threads.
pub(crate) type Upper = Arc<OwnedFd>;
