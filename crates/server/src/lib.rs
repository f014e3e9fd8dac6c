//! The runtime as a service over HTTP: everything under `/v1`, described by an OpenAPI document that comes from this code.
//!
//! | module | noun |
//! |---|---|
//! | `service` | [`Service`]: what is served, to whom, until when |
//! | `socket` | [`OwnSocket`]: one client, or those of this user, without a token |
//! | `connections`, `certificate` | how clients connect, in the clear or by TLS; [`Certificate`]: what is shown to them then |
//! | `guard` | who may ask: the token, and what keeps a browser's other pages out |
//! | `caller` | who asks, and what a handler needs of whoever asks |
//! | `requests` | what is told and counted of each |
//! | `token` | [`Token`]: the secret of a state folder |
//! | `problem` | errors as problem documents |
//! | `extract` | bodies and queries, whose mistakes are problem documents too |
//! | `idempotency` | a creation that is asked for twice and done once |
//! | `page` | lists in pages |
//! | `sandboxes`, `life` | sandboxes: made, listed, told, ended; paused, stopped … |
//! | `exec`, `session` | a command to its end; a command, or one that runs, over a WebSocket |
//! | `collected` | what commands have said that run to their end, until their clients have it |
//! | `farewell` | the end of a WebSocket |
//! | `processes` | what exec started |
//! | `files`, `trees` | files and folders of a sandbox; folders as tar streams |
//! | `watch` | what happens to them |
//! | `ports`, `tunnel` | exposed ports; a connection to a port inside, over a WebSocket |
//! | `checkpoints`, `portable` | saved, put back, forked; as one file |
//! | `images`, `kernels`, `templates` | what there is to begin from |
//! | `network` | what a sandbox may reach, and what was decided about it |
//! | `keys` | who else may use the server |
//! | `host` | what this machine can do |
//! | `audit` | who did what |
//! | `metrics` | what is counted and measured |
//! | `events`, `feed` | what happens, told as it happens; what all who listen have in common |
//! | `document` | the OpenAPI document |
//! | `manual` | the same as a page for people |
//!
//! A server is one more process on a state folder, like every command: any number may run beside it, and sandboxes outlive it.

mod audit;
mod caller;
mod certificate;
mod checkpoints;
mod collected;
mod connections;
mod document;
mod events;
mod exec;
mod extract;
mod farewell;
mod feed;
mod files;
mod guard;
mod host;
mod idempotency;
mod images;
mod kernels;
mod keys;
mod life;
mod manual;
mod metrics;
mod network;
mod page;
mod portable;
mod ports;
mod problem;
mod processes;
mod requests;
mod sandboxes;
mod service;
mod session;
mod socket;
mod templates;
mod token;
mod trees;
mod tunnel;
mod watch;

pub use certificate::Certificate;
pub use document::document;
pub use service::Service;
pub use socket::OwnSocket;
pub use token::Token;
