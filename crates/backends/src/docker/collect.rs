//! What the engine has of this state folder, and nobody needs.

use std::{collections::HashMap, path::PathBuf};

use bollard::query_parameters::{ListContainersOptions, ListImagesOptions, RemoveImageOptions};
use sandbar_core::{Needs, Result};

use super::{
    engine::{Engine, QUICK, SLOW},
    image, object,
    owner::{HOME_LABEL, Home, SANDBOX_LABEL},
};

/// Removes containers of sandboxes that are no more, and images that no root needs. Images that containers use are left by the engine itself.
///
/// # Errors
/// Those of the engine.
pub(super) async fn collect(engine: &Engine, home: &Home, needs: &(dyn Fn() -> Result<Needs> + Send + Sync)) -> Result<Vec<String>> {
    // Nobody loads an image meanwhile, for a sandbox that `needs` may not know yet.
    let Some(_lock) = home.try_loading()? else { return Ok(Vec::new()) };
    let label = format!("{HOME_LABEL}={}", home.id());
    let filters = HashMap::from([("label".to_owned(), vec![label])]);
    let of_home = filters.clone();
    let containers = engine.ask("list containers", QUICK, |client| async move {
        let options = ListContainersOptions { all: true, filters: Some(of_home), ..ListContainersOptions::default() };
        client.list_containers(Some(options)).await
    });
    let containers = containers.await?;
    let images = engine.ask("list images", QUICK, |client| async move {
        client.list_images(Some(ListImagesOptions { filters: Some(filters), ..ListImagesOptions::default() })).await
    });
    let images = images.await?;
    let needs = needs()?;
    let mut removed = Vec::new();
    for container in containers {
        let labels = container.labels.unwrap_or_default();
        let sandbox = labels.get(SANDBOX_LABEL).map(String::as_str).unwrap_or_default();
        let name = container.names.unwrap_or_default().first().map(|name| name.trim_start_matches('/').to_owned());
        if let Some(name) = name.filter(|_| !needs.sandboxes.iter().any(|known| known.as_str() == sandbox)) {
            object::remove(engine, home, &name).await?;
            removed.push(format!("container {name}"));
        }
    }
    let mut kept = Vec::new();
    for root in &needs.roots {
        let trees: Vec<PathBuf> = root.layers.iter().chain(&root.saved_layers).cloned().collect();
        // A root whose layers are gone needs none.
        kept.extend(image::names(home, &trees).unwrap_or_default());
    }
    let repository = format!("{}:", home.repository());
    for tag in images.into_iter().flat_map(|image| image.repo_tags).filter(|tag| tag.starts_with(&repository) && !kept.contains(tag)) {
        let name = tag.clone();
        let gone = engine.try_ask("remove an image", SLOW * 5, |client| async move {
            client.remove_image(&name, Some(RemoveImageOptions::default()), None).await.map(drop)
        });
        match gone.await? {
            Ok(()) => removed.push(format!("image {tag}")),
            // A container uses it, or somebody else was quicker.
            Err(error) => tracing::debug!(%error, tag, "an image is left"),
        }
    }
    Ok(removed)
}
