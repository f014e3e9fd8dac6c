use axum::{Json, http::StatusCode};
use sandbar_core::{Error, ErrorKind};
use sandbar_runtime::TemplateSummary;

use crate::{
    caller::{Admin, May, Read},
    extract::{Body, Path},
    problem::{Answer, Problem},
    sandboxes::Creation,
};

/// List what virtual machines begin from
#[utoipa::path(get, path = "/v1/templates", tag = "templates", operation_id = "list_templates",
    responses((status = 200, body = [TemplateSummary]), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(app: May<Read>) -> Answer<Json<Vec<TemplateSummary>>> {
    Ok(Json(app.runtime.templates()?))
}

/// Make the template that such a sandbox would begin from, unless it is there
#[utoipa::path(post, path = "/v1/templates", tag = "templates", operation_id = "build_template", request_body = Creation,
    responses((status = 204, description = "It is there"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn build(app: May<Admin>, Body(creation): Body<Creation>) -> Answer<StatusCode> {
    if creation.has_secrets() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "template",
            "a template has no secrets: give them to the sandboxes that begin from it",
        )
        .into());
    }
    app.runtime.build_template(creation.request(&app.runtime)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove a template; machines that run keep theirs
#[utoipa::path(delete, path = "/v1/templates/{id}", tag = "templates", operation_id = "remove_template", params(("id" = String, Path)),
    responses((status = 204, description = "It is gone"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn remove(app: May<Admin>, Path(id): Path<String>) -> Answer<StatusCode> {
    app.runtime.remove_template(&id)?;
    Ok(StatusCode::NO_CONTENT)
}
