//! Every operation of the OpenAPI document, and requests for them.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::server::Server;

/// The scopes of keys: each has what those before it have.
pub const SCOPES: [&str; 4] = ["read", "use", "manage", "admin"];

/// What the least scope is of a key that has an operation done, and what the operation writes into the audit log; or why it writes nothing.
const TABLE: &[(&str, &str, Result<&str, &str>)] = &[
    ("attach", "use", Ok("attach")),
    ("audit", "admin", Err("reads the log itself")),
    ("build_template", "admin", Ok("template-build")),
    ("collect_garbage", "admin", Ok("gc")),
    ("connect_port", "use", Ok("connect")),
    ("create_checkpoint", "manage", Ok("checkpoint")),
    ("create_key", "admin", Ok("key-create")),
    ("create_sandbox", "manage", Ok("create")),
    ("doctor", "read", Err("looks at the host, and at no sandbox")),
    ("events", "read", Err("tells what others did")),
    ("exec", "use", Ok("exec")),
    ("exec_stream", "use", Ok("exec")),
    ("export_checkpoint", "use", Ok("export")),
    ("expose_port", "manage", Ok("expose")),
    ("extend_sandbox", "manage", Ok("expire")),
    ("fork", "manage", Ok("fork")),
    ("import_checkpoint", "manage", Ok("import")),
    ("import_image", "admin", Ok("image-import")),
    ("import_kernel", "admin", Ok("kernel-import")),
    ("inspect_checkpoint", "read", Err(LEDGER)),
    ("inspect_process", "read", Err(USAGE)),
    ("inspect_provider", "read", Err("looks at the host, and at no sandbox")),
    ("inspect_sandbox", "read", Err(LEDGER)),
    ("list_checkpoints", "read", Err(LEDGER)),
    ("list_folder", "use", Ok("list")),
    ("list_images", "read", Err(LEDGER)),
    ("list_kernels", "read", Err(LEDGER)),
    ("list_keys", "admin", Err(LEDGER)),
    ("list_processes", "read", Err(USAGE)),
    ("list_sandboxes", "read", Err(LEDGER)),
    ("list_templates", "read", Err(LEDGER)),
    ("make_folder", "use", Ok("mkdir")),
    ("make_link", "use", Ok("link")),
    ("metrics", "read", Err(USAGE)),
    ("network_log", "read", Err("tells what was decided, and nothing that is in a sandbox")),
    ("pause_sandbox", "manage", Ok("pause")),
    ("pull_image", "admin", Ok("image-pull")),
    ("read_file", "use", Ok("read")),
    ("read_tree", "use", Ok("pack")),
    ("remove_checkpoint", "manage", Ok("discard")),
    ("remove_image", "admin", Ok("image-remove")),
    ("remove_kernel", "admin", Ok("kernel-remove")),
    ("remove_key", "admin", Ok("key-remove")),
    ("remove_path", "use", Ok("remove")),
    ("remove_sandbox", "manage", Ok("destroy")),
    ("remove_template", "admin", Ok("template-remove")),
    ("rename_path", "use", Ok("rename")),
    ("restore_sandbox", "manage", Ok("restore")),
    ("resume_sandbox", "manage", Ok("resume")),
    ("sandbox_stats", "read", Err(USAGE)),
    ("self_test", "admin", Ok("create")),
    ("set_network", "manage", Ok("network")),
    ("signal_process", "use", Ok("signal")),
    ("start_process", "use", Ok("exec")),
    ("start_sandbox", "manage", Ok("start")),
    ("stat_path", "use", Ok("stat")),
    ("stop_sandbox", "manage", Ok("stop")),
    ("unexpose_port", "manage", Ok("unexpose")),
    ("watch_path", "use", Ok("watch")),
    ("watch_ports", "read", Err("tells numbers of ports, and nothing that is said there")),
    ("write_file", "use", Ok("write")),
    ("write_tree", "use", Ok("unpack")),
];
const LEDGER: &str = "tells what the state folder has written down, and reaches into no sandbox";
const USAGE: &str = "tells numbers of processes and what they use, and changes nothing";

/// An operation, with what the table says of it.
pub struct Operation {
    pub name: &'static str,
    pub scope: &'static str,
    pub verb: Result<&'static str, &'static str>,
    method: Method,
    template: String,
}

impl Server {
    /// Those of the document, which must be those of the table.
    pub async fn operations(&self) -> Vec<Operation> {
        let document: Value = self.stranger(Method::GET, "/openapi.json").send().await.unwrap().json().await.unwrap();
        let mut operations = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, told) in methods.as_object().unwrap() {
                let id = told["operationId"].as_str().unwrap();
                let row = TABLE.iter().find(|(name, ..)| *name == id);
                let &(name, scope, verb) = row.unwrap_or_else(|| panic!("the table has no {id}"));
                operations.push(Operation { name, scope, verb, method: method.to_uppercase().parse().unwrap(), template: path.clone() });
            }
        }
        let mut names: Vec<&str> = operations.iter().map(|operation| operation.name).collect();
        names.sort_unstable();
        assert_eq!(names, TABLE.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), "the table and the document");
        operations
    }
}

impl Operation {
    /// Where it is of this sandbox; what else it is of does not exist.
    pub fn path(&self, sandbox: &str) -> String {
        let path = self.template.replace("{id}", if self.template.contains("templates") { "none" } else { sandbox });
        let path = ["{pid}", "{port}"].iter().fold(path, |path, part| path.replace(part, "1"));
        ["{checkpoint}", "{reference}", "{name}"].iter().fold(path, |path, part| path.replace(part, "none"))
    }

    /// With it, it is tried by whoever has this token or key: it need not succeed.
    pub fn request(&self, server: &Server, key: &str, sandbox: &str) -> RequestBuilder {
        let query = match self.name {
            "read_file" => "?path=/etc/passwd",
            "read_tree" | "list_folder" | "stat_path" | "watch_path" | "write_file" | "write_tree" => "?path=/tmp/none",
            "remove_path" => "?path=/tmp/none&missing_ok=true",
            "remove_sandbox" => "?force=true",
            _ => "",
        };
        let mut request = server.by(key, self.method.clone(), &format!("{}{query}", self.path(sandbox)));
        if let Some(body) = body(self.name) {
            request = request.json(&body);
        }
        if ["exec_stream", "attach", "watch_path", "watch_ports", "connect_port"].contains(&self.name) {
            request = request.header("connection", "upgrade").header("upgrade", "websocket");
            request = request.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        }
        request
    }
}

/// A body that fits.
fn body(operation: &str) -> Option<Value> {
    Some(match operation {
        "create_sandbox" | "build_template" => json!({ "provider": "none" }),
        "exec" | "start_process" => json!({ "argv": ["true"] }),
        "expose_port" => json!({ "port": 80 }),
        "extend_sandbox" => json!({ "ttl_ms": 1_000_000 }),
        "fork" => json!({ "from": "web" }),
        "make_folder" => json!({ "path": "/tmp/sandbar-audit" }),
        "make_link" => json!({ "path": "/no/such", "target": "x" }),
        "pull_image" => json!({ "reference": "127.0.0.1:9/none" }),
        "rename_path" => json!({ "from": "/no/such", "to": "/no/other" }),
        "restore_sandbox" => json!({ "checkpoint": "none" }),
        "set_network" => json!({ "network": "none" }),
        "signal_process" => json!({ "signal": "TERM" }),
        "create_key" => json!({ "name": "made" }),
        "create_checkpoint" => json!({}),
        _ => return None,
    })
}
