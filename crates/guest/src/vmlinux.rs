//! The ELF kernel, as virtual machine monitors load it, and what it says of itself.

use object::{
    Endianness,
    elf::{EM_X86_64, ET_DYN, ET_EXEC, FileHeader64},
    read::elf::{FileHeader as _, ProgramHeader as _},
};
use sandbar_core::{Error, ErrorKind, Result};

use super::compression::{Format, MOST_KERNEL, decompress};

const OPERATION: &str = "kernel import";

/// `Documentation/arch/x86/boot.rst`: where the header of a bzImage has what.
mod header {
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}

/// The note by which a kernel says that it can be entered in 32-bit mode without a boot loader (`xen/interface/elfnote.h`), and so that
/// QEMU can load its ELF form.
const PVH_ENTRY: u32 = 18;

/// A kernel in its ELF form.
#[derive(Debug)]
pub(crate) struct Vmlinux {
    pub(crate) elf: Vec<u8>,
    /// The release, as `uname -r` says it.
    pub(crate) release: String,
    /// Whether QEMU can load the ELF form by itself.
    pub(crate) pvh: bool,
}

impl Vmlinux {
    /// Takes the kernel out of a bzImage, or takes an ELF file (compressed or not) as it is.
    ///
    /// # Errors
    /// `Corrupt` for what is no kernel; `Unsupported` for another machine's; those of [`decompress`].
    pub(crate) fn extract(file: &[u8]) -> Result<Self> {
        let elf = match payload(file)? {
            Some(payload) => decompress(payload, MOST_KERNEL)?,
            None => decompress(file, MOST_KERNEL)?,
        };
        Self::check(elf)
    }

    fn check(elf: Vec<u8>) -> Result<Self> {
        let malformed = |error: object::read::Error| corrupt("this is no kernel: neither a bzImage nor an ELF file").with_source(error);
        let parsed = FileHeader64::<Endianness>::parse(elf.as_slice()).map_err(malformed)?;
        let endian = parsed.endian().map_err(malformed)?;
        if parsed.e_machine(endian) != EM_X86_64 {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, "the kernel is another machine's; x86-64 is supported"));
        }
        let segments = parsed.program_headers(endian, elf.as_slice()).map_err(malformed)?;
        let loads = segments.iter().any(|segment| segment.p_type(endian) == object::elf::PT_LOAD);
        if !matches!(parsed.e_type(endian), ET_EXEC | ET_DYN) || !loads {
            return Err(corrupt("the ELF file is no program"));
        }
        let mut pvh = false;
        for segment in segments {
            let Ok(Some(mut notes)) = segment.notes(endian, elf.as_slice()) else { continue };
            while let Ok(Some(note)) = notes.next() {
                pvh |= note.name() == b"Xen" && note.n_type(endian) == PVH_ENTRY;
            }
        }
        let release = release(&elf).ok_or_else(|| corrupt("the ELF file does not say which Linux it is"))?;
        Ok(Self { elf, release, pvh })
    }
}

/// The compressed kernel inside a bzImage; `None` for another file.
fn payload(file: &[u8]) -> Result<Option<&[u8]>> {
    if file.get(header::MAGIC..header::MAGIC + 4) != Some(b"HdrS") {
        return Ok(None);
    }
    let field =
        |at: usize| file.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>()).map(|bytes| u32::from_le_bytes(*bytes) as usize);
    let cut = || corrupt("the bzImage is cut off");
    let version = field(header::VERSION).ok_or_else(cut)? & 0xffff;
    if version < 0x208 {
        return Err(Error::new(ErrorKind::Unsupported, OPERATION, "a bzImage of before Linux 2.6.26"));
    }
    let sectors = match file[header::SETUP_SECTORS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let (offset, length) = (field(header::PAYLOAD_OFFSET).ok_or_else(cut)?, field(header::PAYLOAD_LENGTH).ok_or_else(cut)?);
    let begin = (sectors + 1) * 512 + offset;
    let payload = file.get(begin..).and_then(|rest| rest.get(..length)).ok_or_else(cut)?;
    // Behind all formats but gzip, whose own it is, the build appends the length of the plain kernel.
    let whole = if Format::of(payload) == Format::Gzip { payload } else { payload.get(..length.saturating_sub(4)).unwrap_or_default() };
    Ok(Some(whole))
}

/// The release, from the banner that every kernel prints first.
fn release(elf: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    const LONGEST: usize = 64;
    // The format string `Linux version %s` comes first in some kernels.
    let candidates = memchr::memmem::find_iter(elf, BANNER).map(|at| at + BANNER.len());
    candidates.take(16).find_map(|at| {
        let text = &elf[at..elf.len().min(at + LONGEST)];
        let text = &text[..text.iter().position(|byte| *byte == b' ')?];
        let is_release =
            text.first().is_some_and(u8::is_ascii_digit) && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._+-~".contains(byte));
        is_release.then(|| String::from_utf8_lossy(text).into_owned())
    })
}

fn corrupt(message: &str) -> Error {
    Error::new(ErrorKind::Corrupt, OPERATION, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest ELF file that would pass for a kernel.
    fn elf(machine: u16, banner: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        file[16] = 2;
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[20] = 1;
        file[32] = 64;
        file[52] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64] = 1;
        file.extend_from_slice(banner);
        file
    }

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 0x400];
        file[header::SETUP_SECTORS] = 1;
        file[header::MAGIC..header::MAGIC + 4].copy_from_slice(b"HdrS");
        file[header::VERSION..header::VERSION + 2].copy_from_slice(&0x20f_u16.to_le_bytes());
        file[header::PAYLOAD_LENGTH..header::PAYLOAD_LENGTH + 4].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        file.extend_from_slice(payload);
        file
    }

    #[test]
    fn a_kernel_is_found_in_a_bzimage_and_by_itself() {
        let plain = elf(EM_X86_64, b"Linux version %s (%s)\0Linux version 6.1.0-9-amd64 (debian)");
        let payload = [zstd::encode_all(plain.as_slice(), 1).unwrap(), vec![1, 2, 3, 4]].concat();
        for file in [plain.clone(), bzimage(&payload)] {
            let found = Vmlinux::extract(&file).unwrap();
            assert_eq!((found.release.as_str(), found.pvh), ("6.1.0-9-amd64", false));
            assert_eq!(found.elf, plain);
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let kind = |file: &[u8]| Vmlinux::extract(file).unwrap_err().kind();
        assert_eq!(kind(b""), ErrorKind::Corrupt);
        assert_eq!(kind(&[0; 4096]), ErrorKind::Corrupt);
        assert_eq!(kind(&elf(EM_X86_64, b"no banner")), ErrorKind::Corrupt);
        assert_eq!(kind(&elf(183, b"Linux version 6.1 ")), ErrorKind::Unsupported);
        let mut cut = bzimage(&[0; 100]);
        cut.truncate(0x420);
        assert_eq!(kind(&cut), ErrorKind::Corrupt);
        let mut far = bzimage(&[0; 100]);
        far[header::PAYLOAD_OFFSET..header::PAYLOAD_OFFSET + 4].copy_from_slice(&[0xff; 4]);
        assert_eq!(kind(&far), ErrorKind::Corrupt);
    }
}
