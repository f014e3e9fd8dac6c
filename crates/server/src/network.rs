use axum::{Json, http::StatusCode};
use sandbar_core::{Error, ErrorKind, Network, Result};
use sandbar_runtime::NetworkRecord;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::{
    caller::{Manage, May, Read},
    extract::{Body, Path, Query},
    page::{Listing, Page, Wanted},
    problem::{Answer, Problem},
};

/// What a sandbox may reach.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reach {
    /// `none`, `open`, or rules such as `allow=example.com:443`.
    #[schema(value_type = String)]
    network: Network,
}

/// Change what a running sandbox may reach
///
/// Holds at once: connections that are not allowed any more are cut. It must have been made with a network.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/network", tag = "network", operation_id = "set_network", params(("id" = String, Path)),
    request_body = Reach,
    responses((status = 204, description = "That holds"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn set(app: May<Manage>, Path(id): Path<String>, Body(reach): Body<Reach>) -> Answer<StatusCode> {
    app.runtime.sandbox(&id).await?.set_network(reach.network).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which part of the log is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    /// Decisions of this moment, Unix milliseconds, and later.
    #[serde(default)]
    since_ms: u64,
    /// A page of at most this many entries: 1 to 1000, 100 if there is only a cursor. All of them are told, as a list, if both are left out.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Tell what was decided about a sandbox's names and connections
///
/// The oldest first; the newest four to eight MiB are kept, and of those before them the first of each. What comes is told by `/v1/events`.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/network/log", tag = "network", operation_id = "network_log", params(("id" = String, Path), Part),
    responses((status = 200, body = Listing<NetworkRecord>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn log(app: May<Read>, Path(id): Path<String>, Query(part): Query<Part>) -> Answer<Json<Listing<NetworkRecord>>> {
    let Part { since_ms, limit, cursor } = part;
    let wanted = Wanted { limit, cursor };
    let (limit, place) = (wanted.limit()?, Place::after(&wanted)?);
    let mut records = app.runtime.sandbox(&id).await?.network_log().await?.read().await?;
    records.retain(|record| record.time_ms >= since_ms);
    if !wanted.is_part() {
        return Ok(Json(Listing::All(records)));
    }
    let (items, next) = place.part(records, limit, |record| record.time_ms);
    Ok(Json(Listing::Part(Page::new(items, next))))
}

/// A place in the log: its lines have no numbers, and what is old goes from time to time, so it is a moment, and how many of that moment were told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    moment: u64,
    told: usize,
}

impl Place {
    /// Where a page begins.
    fn after(wanted: &Wanted) -> Result<Self> {
        let Some((moment, told)) = wanted.after()? else { return Ok(Self::default()) };
        let bad = |error| Error::new(ErrorKind::InvalidInput, "network log", "not a cursor of this server").with_source(error);
        Ok(Self { moment, told: told.parse().map_err(bad)? })
    }

    /// At most `limit` of what comes after it, and the place after those, if there is more.
    fn part<T>(self, lines: Vec<T>, limit: usize, moment: impl Fn(&T) -> u64) -> (Vec<T>, Option<(u64, usize)>) {
        let mut passed = 0;
        let later = |line: &T| {
            let is_told = moment(line) == self.moment && passed < self.told;
            passed += usize::from(is_told);
            moment(line) >= self.moment && !is_told
        };
        let mut later: Vec<T> = lines.into_iter().filter(later).collect();
        let is_last = later.len() <= limit;
        later.truncate(limit);
        let next = later.last().filter(|_| !is_last).map(&moment).map(|last| {
            let told = later.iter().filter(|line| moment(line) == last).count();
            (last, if last == self.moment { self.told + told } else { told })
        });
        (later, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_every_line_once_though_many_are_of_one_moment() {
        let lines: Vec<(u64, usize)> = [1, 1, 1, 1, 1, 2, 3, 3, 3, 7].into_iter().zip(0..).collect();
        for limit in 1..12 {
            let (mut place, mut told) = (Place::default(), Vec::new());
            loop {
                let (items, next) = place.part(lines.clone(), limit, |line| line.0);
                assert!(items.len() <= limit);
                told.extend(items);
                let Some((moment, of_it)) = next else { break };
                place = Place { moment, told: of_it };
            }
            assert_eq!(told, lines, "{limit}");
        }
    }

    #[test]
    fn a_cursor_that_no_page_had_is_refused() {
        let at = |cursor: &str| Place::after(&Wanted { limit: None, cursor: Some(cursor.to_owned()) });
        assert_eq!(at("12.3").unwrap(), Place { moment: 12, told: 3 });
        assert!(at("12.x").is_err() && at("12").is_err());
    }
}
