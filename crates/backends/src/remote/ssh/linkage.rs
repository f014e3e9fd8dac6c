//! What a program needs of the host that it is to run on.

/// The kind of a program header that names the dynamic loader (elf(5)).
const PT_INTERP: u32 = 3;

/// The dynamic loader that a Linux program asks for; it has the C library beside it, of the version that the program was linked with or a newer one. `None`
/// for one that is linked statically, which runs on any Linux of its architecture, and for what is no program for 64 bits.
pub(super) fn loader(program: &[u8]) -> Option<String> {
    let bytes = |at: u64, length: u64| program.get(usize::try_from(at).ok()?..usize::try_from(at.checked_add(length)?).ok()?);
    let number = |at: u64, length: u64| Some(bytes(at, length)?.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)));
    // ELF, of 64 bits, the lowest byte first: every architecture that sandbar runs on.
    if bytes(0, 6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (headers, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    let mut headers = (0..count).filter_map(|index| headers.checked_add(index * size));
    let header = headers.find(|header| number(*header, 4) == Some(u64::from(PT_INTERP)))?;
    let path = bytes(number(header + 0x08, 8)?, number(header + 0x20, 8)?)?;
    let path = std::str::from_utf8(path).ok()?.trim_end_matches('\0');
    // It is said to a shell.
    let is_plain = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte));
    is_plain.then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with one header, of this kind.
    fn program(kind: u32, interpreter: &[u8]) -> Vec<u8> {
        let mut program = vec![0; 64 + 56];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        program[0x20] = 64;
        program[0x36] = 56;
        program[0x38] = 1;
        program[64..68].copy_from_slice(&kind.to_le_bytes());
        program[64 + 0x08] = 120;
        program[64 + 0x20] = u8::try_from(interpreter.len()).unwrap();
        program.extend_from_slice(interpreter);
        program
    }

    #[test]
    fn a_program_that_is_linked_dynamically_names_its_loader() {
        assert_eq!(loader(&program(PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0")).as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(loader(&program(PT_INTERP, b"/lib/ld-musl-x86_64.so.1\0")).as_deref(), Some("/lib/ld-musl-x86_64.so.1"));
        assert_eq!(loader(&program(1, b"/lib64/ld-linux-x86-64.so.2\0")), None);
    }

    #[test]
    fn what_is_damaged_or_no_program_names_none() {
        let whole = program(PT_INTERP, b"/lib64/ld.so\0");
        for length in 0..whole.len() {
            assert_eq!(loader(&whole[..length]), None, "{length}");
        }
        for odd in [&b"/a b\0"[..], b"/$(id)\0", b"relative\0", b"", b"\xff\0"] {
            assert_eq!(loader(&program(PT_INTERP, odd)), None, "{odd:?}");
        }
        let mut far = whole.clone();
        far[0x20..0x28].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(loader(&far), None);
        far = whole;
        far[64 + 0x08..64 + 0x10].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(loader(&far), None);
        assert_eq!(loader(b"#!/bin/sh\n"), None);
    }
}
