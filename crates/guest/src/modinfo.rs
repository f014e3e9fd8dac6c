use object::{
    Endianness,
    elf::FileHeader64,
    read::elf::{FileHeader as _, SectionHeader as _},
};
use sandbar_core::{Error, ErrorKind, Result};

/// What a module says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModuleInfo {
    /// The modules that must be loaded before it.
    pub(crate) needs: Vec<String>,
    /// The modules that should be, if they are there.
    pub(crate) wants: Vec<String>,
    /// The release of the kernel that it is for.
    pub(crate) release: String,
}

impl ModuleInfo {
    /// Reads the section `.modinfo` of a plain module.
    ///
    /// # Errors
    /// `Corrupt` for what is no module.
    pub(crate) fn read(module: &[u8], name: &str) -> Result<Self> {
        let malformed =
            |what: &str| Error::new(ErrorKind::Corrupt, "kernel import", format!("this is no kernel module: {what}")).with("module", name);
        let section = || -> object::read::Result<Option<Vec<u8>>> {
            let file = FileHeader64::<Endianness>::parse(module)?;
            let endian = file.endian()?;
            let sections = file.sections(endian, module)?;
            let Some((_, section)) = sections.section_by_name(endian, b".modinfo") else { return Ok(None) };
            Ok(Some(section.data(endian, module)?.to_vec()))
        };
        let section = section().map_err(|error| malformed("it is no ELF file").with_source(error))?;
        let section = section.ok_or_else(|| malformed("it has no .modinfo"))?;
        let mut info = Self { needs: Vec::new(), wants: Vec::new(), release: String::new() };
        for line in section.split(|byte| *byte == 0) {
            let Some((key, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once('=')) else { continue };
            match key {
                "depends" => info.needs.extend(value.split(',').filter(|name| !name.is_empty()).map(canonical)),
                "softdep" => {
                    let before = value.split_ascii_whitespace().skip_while(|word| *word != "pre:").skip(1);
                    info.wants.extend(before.take_while(|word| !word.ends_with(':')).map(canonical));
                }
                "vermagic" => info.release = value.split(' ').next().unwrap_or_default().to_owned(),
                _ => {}
            }
        }
        Ok(info)
    }
}

/// The kernel treats `-` and `_` in names of modules as the same.
pub(crate) fn canonical(name: &str) -> String {
    name.replace('-', "_")
}
