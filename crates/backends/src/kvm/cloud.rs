//! Clouds, as the firmware's tables of their instances tell them, and which of their instances have guests.

use std::{fs, path::Path};

/// Whose instance this machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// Amazon EC2.
    Amazon,
    /// Google Compute Engine.
    Google,
    /// Microsoft Azure.
    Azure,
    /// Hetzner Cloud.
    Hetzner,
}

/// What Azure's instances have as the chassis's asset tag; any other Hyper-V's have the same vendor and product.
const AZURE: &str = "7783-7084-3265-9085-8269-3286-77";

impl Cloud {
    /// Reads it from the firmware's tables beneath `root`. `None` elsewhere, and on hardware that a cloud lets as it is.
    pub(super) fn of(root: &Path) -> Option<Self> {
        let read = |name: &str| fs::read_to_string(root.join("sys/class/dmi/id").join(name)).unwrap_or_default().trim().to_owned();
        let product = read("product_name");
        match read("sys_vendor").as_str() {
            // The product is the instance type. Of the generations on Xen, the firmware's version alone tells.
            "Amazon EC2" => (!product.contains(".metal")).then_some(Self::Amazon),
            "Xen" if read("bios_version").contains("amazon") => Some(Self::Amazon),
            "Google" if product == "Google Compute Engine" => Some(Self::Google),
            "Microsoft Corporation" if read("chassis_asset_tag") == AZURE => Some(Self::Azure),
            "Hetzner" => Some(Self::Hetzner),
            _ => None,
        }
    }

    /// As a noun.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Amazon => "an Amazon EC2 instance",
            Self::Google => "a Google Compute Engine instance",
            Self::Azure => "an Azure virtual machine",
            Self::Hetzner => "a Hetzner Cloud server",
        }
    }

    /// Which of its instances have guests, as the clouds' own pages say:
    /// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/amazon-ec2-nested-virtualization.html> (since February 2026),
    /// <https://cloud.google.com/compute/docs/instances/nested-virtualization/overview>,
    /// <https://learn.microsoft.com/azure/virtual-machines/acu> (the families marked ***). Hetzner has no page about it; those who tried found none.
    pub(super) fn how_to_nest(self) -> &'static str {
        match self {
            Self::Amazon => {
                "take a C8i, M8i or R8i instance started with `--cpu-options NestedVirtualization=enabled`, or a bare metal one (`*.metal`) of any family"
            }
            Self::Google => {
                "take a machine type with Intel's processors (N1, N2, C2, C3; not E2, AMD's or Arm's) and create it with `--enable-nested-virtualization`"
            }
            Self::Azure => {
                "resize it to a family of Intel's with nested virtualization: Dv3, Dsv3, Ev3, Esv3, Dv4, Dsv4, Ev4, Esv4 or Fsv2; not A, B, Dv2 or the first F"
            }
            Self::Hetzner => "no type of Hetzner's cloud is known to have it: take one of its dedicated servers, or emulate (`--on qemu`)",
        }
    }
}
