//! Templates: what machines begin from instead of booting. They are made by the walls at the first use; here they are listed and removed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sandbar_core::{Context, Error, ErrorKind, Lifetime, Result};
use sandbar_guest::RootImage;
use serde::{Deserialize, Serialize};

use crate::{CreateRequest, Runtime, create::random, system};

/// Before the names of what is on its way out.
const GONE: &str = ".gone-";

/// A template of this state folder. The names of the fields are those of the JSON.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateSummary {
    /// Its name.
    pub id: String,
    /// The provider.
    pub provider: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// What it was made of: when one of these changes, another is made.
    pub parts: Vec<(String, String)>,
}

impl Runtime {
    fn template_folder(&self) -> PathBuf {
        self.home().path().join("templates")
    }

    /// All templates, by name. What is damaged is left out.
    ///
    /// # Errors
    /// Of the file system.
    pub fn templates(&self) -> Result<Vec<TemplateSummary>> {
        let folder = self.template_folder();
        let mut found: Vec<TemplateSummary> =
            self.template_names()?.into_iter().filter_map(|id| system::template(&folder.join(&id), id)).collect();
        found.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(found)
    }

    /// Of the damaged as well.
    fn template_names(&self) -> Result<Vec<String>> {
        let folder = self.template_folder();
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context("template", || format!("cannot list {}", folder.display()))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter(|name| !name.starts_with('.')).collect())
    }

    /// Makes the template that a sandbox of this request would begin from, unless it is there; by making such a sandbox, and destroying it.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn build_template(&self, request: CreateRequest) -> Result<()> {
        let build = async {
            let sandbox = self.create(CreateRequest { lifetime: Lifetime::Owned, name: None, ..request }).await?;
            sandbox.destroy().await
        };
        self.deed("template-build").done(build).await
    }

    /// Removes a template. Machines that run keep it.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn remove_template(&self, id: &str) -> Result<()> {
        self.deed("template-remove").at(id).end(self.remove_template_now(id))
    }

    fn remove_template_now(&self, id: &str) -> Result<()> {
        let missing = || Error::new(ErrorKind::NotFound, "template", "there is no such template").with("id", id);
        if id.is_empty() || id.starts_with('.') || id.contains('/') {
            return Err(missing());
        }
        let folder = self.template_folder();
        // Away by one rename, so that nobody begins from half of it; to a name that no removal before has left.
        let gone = folder.join(format!("{GONE}{id}-{}", hex::encode(random::<8>()?)));
        match fs::rename(folder.join(id), &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
            moved => moved.context("template", || format!("cannot remove the template {id}"))?,
        }
        remove(&gone)
    }

    /// Removes what removals left half done, the damaged, and the templates of kernels and images that are gone. Others may be of use again.
    pub(crate) async fn collect_templates(&self) -> Result<Vec<String>> {
        let folder = self.template_folder();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(GONE) {
                remove(&entry.path())?;
            }
        }
        // Listed first: of what comes meanwhile none is taken for one without a kernel or an image.
        let all = self.template_names()?;
        let kernels = self.kernels().list()?;
        let images: Vec<String> = self.roots_to_keep().await?.iter().filter_map(|root| RootImage::name(root).ok()).collect();
        let mut removed = Vec::new();
        for id in all {
            let is_here = |(name, value): &(String, String)| match name.as_str() {
                "kernel" => kernels.iter().any(|kernel| kernel.digest == *value),
                "kernel name" => kernels.iter().any(|kernel| kernel.name == *value),
                "image" => images.contains(value),
                _ => true,
            };
            if system::template(&folder.join(&id), id.clone()).is_some_and(|template| template.parts.iter().all(is_here)) {
                continue;
            }
            match self.remove_template_now(&id) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                done => done.map(|()| removed.push(id))?,
            }
        }
        Ok(removed)
    }
}

/// Somebody else may remove it as well.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context("template", || format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::{Registry, RuntimeConfig};

    #[tokio::test]
    async fn a_removal_that_was_cut_off_and_what_is_damaged_are_in_nobodys_way() {
        let home = tempfile::tempdir().unwrap();
        let runtime = Runtime::open_with(RuntimeConfig::new(home.path()), Registry::default()).await.unwrap();
        let folder = runtime.template_folder();
        let make = |name: &str, parts: &[(&str, &str)]| {
            fs::create_dir_all(folder.join(name)).unwrap();
            let record = serde_json::json!({ "provider": "qemu", "parts": parts, "bytes": 1, "record": null });
            fs::write(folder.join(name).join("template.json"), record.to_string()).unwrap();
        };
        let left = || runtime.template_names().unwrap();
        make(".gone-one", &[]);
        make("one", &[("kernel", "one that is gone")]);
        make("two", &[("image", "one that is gone")]);
        make("three", &[("memory", "64M")]);
        fs::create_dir(folder.join("damaged")).unwrap();
        fs::write(folder.join("damaged/template.json"), "").unwrap();
        assert_eq!(runtime.templates().unwrap().len(), 3);
        let mut removed = runtime.collect_templates().await.unwrap();
        removed.sort();
        assert_eq!((removed, left()), (["damaged", "one", "two"].map(str::to_owned).to_vec(), vec!["three".to_owned()]));
        make(".gone-three", &[]);
        runtime.remove_template("three").unwrap();
        assert_eq!(runtime.remove_template("three").unwrap_err().kind(), ErrorKind::NotFound);
        runtime.collect_templates().await.unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
}
