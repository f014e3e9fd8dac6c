//! A Mac: what it has instead of a Linux kernel.

use super::check::{Check, Health};

const NAME: &str = "linux";

/// Nested virtualization on Apple silicon, by Apple's Virtualization framework (`VZGenericPlatformConfiguration.isNestedVirtualizationSupported`):
/// from this generation on, with macOS 15.
const FIRST_THAT_NESTS: u32 = 3;

/// Asks the machine for the name of its processor.
#[cfg(target_os = "macos")]
pub(super) fn check() -> Check {
    let asked = std::process::Command::new("/usr/sbin/sysctl").args(["-n", "machdep.cpu.brand_string"]).output();
    let processor = asked.ok().map(|answer| String::from_utf8_lossy(&answer.stdout).trim().to_owned());
    verdict(processor.filter(|name| !name.is_empty()).as_deref())
}

fn verdict(processor: Option<&str>) -> Check {
    const LIMA: &str = "use a Linux host: `sandbar run --on ssh://user@host -- …`, with nothing installed there; or one in Lima here, for containers, gVisor and docker";
    let name = processor.unwrap_or("an unknown processor");
    let finding = format!("this is a Mac ({name}): walls need a Linux kernel, so sandboxes are on other hosts");
    let hint = match processor.and_then(generation) {
        Some(generation) if generation >= FIRST_THAT_NESTS => format!(
            "{LIMA}. With macOS 15 or newer and `vmType: vz` and `nestedVirtualization: true` in its lima.yaml it has a KVM of its own, but sandbar's virtual machines need an x86-64 one"
        ),
        Some(_) => format!("{LIMA}. Virtual machines need an x86-64 host, and nested virtualization an M3 or newer"),
        None => LIMA.to_owned(),
    };
    Check::new(NAME, Health::Missing, finding).with_hint(hint)
}

/// The number of `Apple M3 Pro`.
fn generation(processor: &str) -> Option<u32> {
    let rest = processor.strip_prefix("Apple M")?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_for_the_third_generation_and_newer() {
        for (processor, nests) in
            [("Apple M1", false), ("Apple M2 Ultra", false), ("Apple M3", true), ("Apple M4 Max", true), ("Apple M10", true)]
        {
            let hint = verdict(Some(processor)).hint.unwrap();
            assert_eq!(hint.contains("nestedVirtualization: true"), nests, "{hint}");
        }
    }

    #[test]
    fn every_mac_is_shown_the_way_to_another_host() {
        for processor in [None, Some("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz"), Some("Apple M3 Pro"), Some("Apple Mega")] {
            let check = verdict(processor);
            assert_eq!(check.health, Health::Missing);
            assert!(check.hint.unwrap().contains("`sandbar run --on ssh://user@host -- "));
        }
    }
}
