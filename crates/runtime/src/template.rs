//! Templates: what machines begin from instead of booting. They are made by the walls at the first use; here they are listed and removed.

use std::{fs, path::PathBuf};

use sandbar_core::{Context, Error, ErrorKind, Lifetime, Result};
use serde::{Deserialize, Serialize};

use crate::{CreateRequest, Runtime, system};

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
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context("template", || format!("cannot list {}", folder.display()))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| !name.starts_with('.'));
        let mut found: Vec<TemplateSummary> = names.filter_map(|id| system::template(&folder.join(&id), id)).collect();
        found.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(found)
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
        // Away by one rename, so that nobody begins from half of it.
        let gone = folder.join(format!(".gone-{id}"));
        match fs::rename(folder.join(id), &gone) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
            moved => moved.context("template", || format!("cannot remove the template {id}"))?,
        }
        fs::remove_dir_all(&gone).context("template", || format!("cannot remove the template {id}"))
    }

    /// Removes the templates of kernels that are gone, and what a removal left half done. Others may be of use again.
    pub(crate) fn collect_templates(&self) -> Result<Vec<String>> {
        let kernels: Vec<String> = self.kernels().list()?.into_iter().map(|kernel| kernel.digest).collect();
        let mut removed = Vec::new();
        for template in self.templates()? {
            let kernel = template.parts.iter().find(|(name, _)| name == "kernel").map(|(_, digest)| digest);
            if kernel.is_some_and(|digest| !kernels.contains(digest)) {
                self.remove_template_now(&template.id)?;
                removed.push(template.id);
            }
        }
        for entry in fs::read_dir(self.template_folder()).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(".gone-") {
                fs::remove_dir_all(entry.path()).context("template", || format!("cannot remove {}", entry.path().display()))?;
            }
        }
        Ok(removed)
    }
}
