use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    audit, checkpoints, events, exec, files, host, images, kernels, keys, life, metrics, network, portable, ports, processes, sandboxes,
    service::App, session, templates, trees, tunnel, watch,
};

/// What is served, with its description.
#[derive(OpenApi)]
#[openapi(
    info(title = "Sandbar", description = "Sandboxes behind any wall, over HTTP.", license(name = "Apache-2.0", identifier = "Apache-2.0")),
    modifiers(&Bearer)
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
        document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

/// Everything that needs the token.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(sandboxes::create, sandboxes::list))
        .routes(routes!(sandboxes::inspect, sandboxes::remove))
        .routes(routes!(sandboxes::stats))
        .routes(routes!(life::pause))
        .routes(routes!(life::resume))
        .routes(routes!(life::stop))
        .routes(routes!(life::start))
        .routes(routes!(exec::exec, session::exec))
        .routes(routes!(exec::start, processes::list))
        .routes(routes!(processes::inspect))
        .routes(routes!(processes::signal))
        .routes(routes!(session::attach))
        .routes(routes!(files::read, files::write, files::remove))
        .routes(routes!(files::stat))
        .routes(routes!(files::list))
        .routes(routes!(files::make_folder))
        .routes(routes!(files::rename))
        .routes(routes!(files::link))
        .routes(routes!(trees::read, trees::write))
        .routes(routes!(watch::watch))
        .routes(routes!(ports::expose))
        .routes(routes!(ports::unexpose))
        .routes(routes!(ports::watch))
        .routes(routes!(tunnel::connect))
        .routes(routes!(checkpoints::create))
        .routes(routes!(checkpoints::list))
        .routes(routes!(checkpoints::inspect, checkpoints::remove))
        .routes(routes!(portable::export))
        .routes(routes!(portable::import))
        .routes(routes!(checkpoints::restore))
        .routes(routes!(checkpoints::fork))
        .routes(routes!(images::list))
        .routes(routes!(images::pull))
        .routes(routes!(images::import))
        .routes(routes!(images::remove))
        .routes(routes!(kernels::list))
        .routes(routes!(kernels::import))
        .routes(routes!(kernels::remove))
        .routes(routes!(templates::list, templates::build))
        .routes(routes!(templates::remove))
        .routes(routes!(network::set))
        .routes(routes!(network::log))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::remove))
        .routes(routes!(host::diagnose, host::self_test))
        .routes(routes!(host::provider))
        .routes(routes!(life::extend))
        .routes(routes!(life::gc))
        .routes(routes!(audit::read))
        .routes(routes!(events::listen))
        .routes(routes!(metrics::scrape))
}

/// The OpenAPI document of this version.
pub fn document() -> utoipa::openapi::OpenApi {
    routes().split_for_parts().1
}
