use sandbar_core::{Error, ErrorKind, Result, SandboxId};

use crate::{CreateRequest, Runtime, Sandbox, clock, create::random, ledger::CreationRow};

impl Runtime {
    /// Makes a sandbox, unless it was made before by the same word of the same key; whichever process was asked, and however it ended. Words are remembered
    /// for a day, the newest ten thousand of each key. A failure is not: then it may be tried again. `digest` is that of the request. `None`: the word was used
    /// for another request.
    ///
    /// # Errors
    /// As [`create`](Self::create); `Conflict` while another process makes it.
    pub async fn create_once(&self, word: &str, digest: [u8; 32], mut request: CreateRequest) -> Result<Option<SandboxId>> {
        let key = self.holder().map_or(0, |holder| holder.key);
        let is_chosen = request.id.is_some();
        let id = request.id.take().map_or_else(|| Ok(SandboxId::from_random(random()?)), Ok)?;
        let wanted = CreationRow { request: digest, sandbox: id, made: false };
        let (known, is_new) = self.ledger().claim_creation(key, word, &wanted, clock::now_ms())?;
        if known.request != digest {
            return Ok(None);
        }
        if known.made || !is_new && self.was_made(&known.sandbox).await? {
            self.ledger().finish_creation(key, word)?;
            return Ok(Some(known.sandbox));
        }
        let made = self.create(CreateRequest { id: Some(known.sandbox), ..request }).await;
        match &made {
            Ok(_) => self.ledger().finish_creation(key, word)?,
            // Another process is about it by the same word: it is its to forget.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            // A sandbox of that id may be what another process has just made by the same word, unless the client chose the id: then it may be anybody's.
            Err(_) => self.ledger().forget_creation(key, word, is_chosen && is_new)?,
        }
        Ok(Some(made?.id().clone()))
    }

    /// Whether somebody who was killed since, has made it. What was half made is undone.
    async fn was_made(&self, id: &SandboxId) -> Result<bool> {
        let Some(row) = self.ledger().sandbox(id)? else { return Ok(false) };
        if row.operation.is_none() {
            return Ok(true);
        }
        self.recover(id).await?;
        match self.ledger().sandbox(id)? {
            Some(row) if row.operation.is_some() => {
                Err(Error::new(ErrorKind::Conflict, "create", "somebody works on the sandbox of this key")
                    .with("id", Sandbox::of(self.clone(), &row).id()))
            }
            row => Ok(row.is_some()),
        }
    }
}
